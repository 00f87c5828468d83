//! URLs of listeners and members: `http://HOST:PORT` over the network, `unix://SOCKET` within a
//! machine, and `https`, `unixs` for the same with TLS.

use std::fmt;
use std::path::PathBuf;

/// One URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether TLS is spoken: `https` or `unixs`.
    pub encrypted: bool,
    /// Where it leads.
    pub address: Address,
}

/// Where to dial, or where to listen if `T` is a `SocketAddr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address<T = HostPort> {
    /// Over the network.
    Tcp(T),
    /// The file of a unix socket; a relative path is relative to the working directory.
    Unix(PathBuf),
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Longest name of a unix socket. Source: unix(7), `sun_path` without its last zero.
const MAX_SOCKET_BYTES: usize = 107;
/// What names no file as it stands: it has a meaning of its own in URLs.
const SPECIAL: [char; 3] = ['?', '#', '%'];

impl<T> Address<T> {
    /// The kind, as Go calls it: `tcp` or `unix`.
    pub fn network(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Unix(_) => "unix",
        }
    }

    /// What is there on the network, if anything.
    pub fn tcp(&self) -> Option<&T> {
        match self {
            Self::Tcp(there) => Some(there),
            Self::Unix(_) => None,
        }
    }
}

impl Address {
    /// The host that a certificate shown there must name. A socket may be called by a host,
    /// as in `unixs://HOST:PORT`; one that is found by a path is of this machine.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp(there) => &there.host,
            Self::Unix(path) => match path.to_str().and_then(|name| name.split_once(':')) {
                Some((host, _)) if !host.contains('/') => host,
                Some(_) | None => "localhost",
            },
        }
    }

    /// Who is there, as one that dials says it: `HOST:PORT`, or [`Self::host`] of a socket.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp(there) => there.to_string(),
            Self::Unix(_) => self.host().to_owned(),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Address<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(there) => there.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Takes a URL apart.
///
/// `unix://etcd.unix:1` is the file `etcd.unix:1` of the working directory, as in etcd;
/// `unix:///run/etcd.sock` is `/run/etcd.sock`, which etcd 3.4 takes as an endpoint only.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (encrypted, address) = match scheme {
        "http" => (false, host_and_port(rest)?),
        "https" => (true, host_and_port(rest)?),
        "unix" => (false, socket(rest)?),
        "unixs" => (true, socket(rest)?),
        _ => return Err("give http://HOST:PORT, https://HOST:PORT or unix://SOCKET".to_owned()),
    };
    Ok(Url { encrypted, address })
}

/// Whether a URL leads somewhere on the network, and not to a socket of this machine.
pub fn is_on_network(text: &str) -> bool {
    parse(text).is_ok_and(|url| url.address.tcp().is_some())
}

fn host_and_port(text: &str) -> Result<Address, String> {
    let split = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    let there = split.and_then(|(host, port)| {
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Some(HostPort { host: inside.unwrap_or(host).to_owned(), port: port.parse().ok()? })
    });
    there.map(Address::Tcp).ok_or_else(|| "give http://HOST:PORT or https://HOST:PORT".to_owned())
}

fn socket(name: &str) -> Result<Address, String> {
    let is_special = |c: char| SPECIAL.contains(&c) || c.is_control() || c.is_whitespace();
    // What stands before an @ there would be somebody's name.
    let has_user = name.split('/').next().is_some_and(|host| host.contains('@'));
    if name.is_empty() || name.contains(is_special) || has_user {
        return Err(
            "give unix://PATH or unix://HOST:PORT, without space, ?, # or %, and no @ in HOST".to_owned()
        );
    }
    match name.len() {
        ..=MAX_SOCKET_BYTES => Ok(Address::Unix(name.into())),
        length => Err(format!("a socket's path has at most {MAX_SOCKET_BYTES} bytes, not {length}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port_or_a_socket() {
        let http = "give http://HOST:PORT or https://HOST:PORT";
        let any = "give http://HOST:PORT, https://HOST:PORT or unix://SOCKET";
        let unix = "give unix://PATH or unix://HOST:PORT, without space, ?, # or %, and no @ in HOST";
        let (long, longer) = (format!("unix:///{}", "x".repeat(106)), format!("unix:///{}", "x".repeat(107)));
        #[rustfmt::skip]
        let rows = [
            ("http://10.0.0.1:2379",       Ok("plain tcp 10.0.0.1:2379 of 10.0.0.1".to_owned())),
            ("https://node:2379/",         Ok("encrypted tcp node:2379 of node".to_owned())),
            ("http://[::1]:2379",          Ok("plain tcp [::1]:2379 of ::1".to_owned())),
            ("unix://etcd.unix:1",         Ok("plain unix etcd.unix:1 of etcd.unix".to_owned())),
            ("unixs://localhost:m1",       Ok("encrypted unix localhost:m1 of localhost".to_owned())),
            ("unix:///run/etcd@1.sock",    Ok("plain unix /run/etcd@1.sock of localhost".to_owned())),
            ("unixs://run/etcd:1/",        Ok("encrypted unix run/etcd:1 of localhost".to_owned())),
            (&long,                        Ok(format!("plain unix /{} of localhost", "x".repeat(106)))),
            (&longer,                      Err("a socket's path has at most 107 bytes, not 108")),
            ("http://node",                Err(http)),
            ("http://:2379",               Err(http)),
            ("http://node:99999",          Err(http)),
            ("http://node:1/path",         Err(http)),
            ("http://node/path:1",         Err(http)),
            ("ftp://node:1",               Err(any)),
            ("node:1",                     Err(any)),
            ("unix:/run/x",                Err(any)),
            ("",                           Err(any)),
            ("unix://",                    Err(unix)),
            ("unix:///",                   Err(unix)),
            ("unix://@abstract",           Err(unix)),
            ("unix://me@host:1",           Err(unix)),
            ("unix:///run/a%20b",          Err(unix)),
            ("unix:///run/a?b",            Err(unix)),
            ("unix:///run/a b",            Err(unix)),
            ("unix:///run/\0",             Err(unix)),
        ];
        for (text, want) in rows {
            let parsed = parse(text).map(|Url { encrypted, address }| {
                let kind = if encrypted { "encrypted" } else { "plain" };
                format!("{kind} {} {address} of {}", address.network(), address.host())
            });
            assert_eq!(parsed, want.map_err(str::to_owned), "{text}");
        }
    }
}
