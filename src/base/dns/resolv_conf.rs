//! Which servers to ask, and for which names. Source: resolv.conf(5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Source: resolv.conf(5), `MAXNS`.
const MAX_SERVERS: usize = 3;
/// Source: resolv.conf(5), the caps of `ndots`, `timeout` and `attempts`.
const MAX_DOTS: usize = 15;
const MAX_TIMEOUT_S: u64 = 30;
const MAX_ATTEMPTS: usize = 5;
/// More were the limit before glibc 2.26; a longer list only makes a wrong name slow.
const MAX_SEARCH: usize = 6;

/// How this machine asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in the order in which they are asked; at least one.
    pub servers: Vec<IpAddr>,
    /// What is appended to a name in turn.
    pub search: Vec<String>,
    /// A name with so many dots is first tried as it is.
    pub dots: usize,
    /// How long one server is waited for.
    pub timeout: Duration,
    /// How often the list of servers is gone through.
    pub attempts: usize,
    /// Whether it is asked by TCP only.
    pub uses_tcp: bool,
}

impl ResolvConf {
    /// Reads the file's text; what it does not say, and what is not understood, is
    /// as if there were no file: this machine is asked.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            uses_tcp: false,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                    conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("domain") => conf.search = words.take(1).map(bare).collect(),
                Some("search") => conf.search = words.take(MAX_SEARCH).map(bare).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                Some(_) | None => {}
            }
        }
        conf.search.retain(|domain| !domain.is_empty());
        if conf.servers.is_empty() {
            conf.servers = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let number = |text: &str| text.parse::<u64>().ok();
        let count = |text: &str| text.parse::<usize>().ok();
        match word.split_once(':') {
            Some(("ndots", text)) => self.dots = count(text).unwrap_or(1).min(MAX_DOTS),
            Some(("timeout", text)) => {
                self.timeout = Duration::from_secs(number(text).unwrap_or(5).clamp(1, MAX_TIMEOUT_S));
            }
            Some(("attempts", text)) => self.attempts = count(text).unwrap_or(2).clamp(1, MAX_ATTEMPTS),
            None if matches!(word, "use-vc" | "usevc" | "tcp") => self.uses_tcp = true,
            Some(_) | None => {}
        }
    }

    /// The whole names that `name` may stand for, in the order to ask for them.
    pub fn names(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let as_is = std::iter::once(name.to_owned());
        match name.matches('.').count() >= self.dots {
            true => as_is.chain(searched).collect(),
            false => searched.chain(as_is).collect(),
        }
    }
}

fn bare(domain: &str) -> String {
    domain.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn what_is_not_said_is_as_without_a_file() {
        let conf = ResolvConf::parse("# nothing\n;\n nameserver\nnameserver x\nnonsense\noptions ndots:x\n");
        assert_eq!(conf, ResolvConf::parse(""));
        assert_eq!(conf.servers, servers(&["127.0.0.1", "::1"]));
        assert_eq!((conf.dots, conf.timeout.as_secs(), conf.attempts, conf.uses_tcp), (1, 5, 2, false));
    }

    #[test]
    fn what_is_said_is_taken_within_its_limits() {
        let text = "nameserver 10.0.0.1\nnameserver fd00::1 # ours\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                    domain lost.\nsearch example.com. lan\noptions ndots:99 timeout:0 attempts:9 use-vc rotate\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.servers, servers(&["10.0.0.1", "fd00::1", "10.0.0.2"]));
        assert_eq!(conf.search, ["example.com", "lan"]);
        assert_eq!((conf.dots, conf.timeout.as_secs(), conf.attempts, conf.uses_tcp), (15, 1, 5, true));
    }

    #[test]
    fn a_name_with_dots_is_asked_for_before_it_is_searched_for() {
        let conf = ResolvConf::parse("search a b.c");
        #[rustfmt::skip]
        let rows = [
            ("x.y",  vec!["x.y", "x.y.a", "x.y.b.c"]),
            ("x",    vec!["x.a", "x.b.c", "x"]),
            ("x.y.", vec!["x.y"]),
        ];
        for (name, want) in rows {
            assert_eq!(conf.names(name), want, "{name}");
        }
    }
}
