//! From SRV records to the first members: what follows from what was found.
//!
//! Source: etcd's `srv.GetCluster` and `Config.GetDNSClusterNames`, of which two
//! things are done otherwise. There the numbers that stand for the names of
//! others begin anew with the second kind of records, so that two members of a
//! cluster with both kinds become one; here they go on, and leave out this
//! member's own name. And a target that has records of both kinds is one
//! member, by the kind that this member has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proa_base::dns::Srv;

use crate::config::Cluster;

/// Where a host is, or why nobody knows.
pub(super) type Addresses = Result<Vec<SocketAddr>, String>;

/// One kind of records.
pub(super) struct Kind {
    /// `https` or `http`.
    pub scheme: &'static str,
    /// The service, without its underscore.
    pub service: String,
    /// The records with their targets' addresses, or why there are none.
    pub found: Result<Vec<(Srv, Addresses)>, String>,
}

/// This member.
pub(super) struct Own<'a> {
    /// `--name`.
    pub name: &'a str,
    /// `--initial-advertise-peer-urls` with their addresses.
    pub urls: Vec<(String, Vec<SocketAddr>)>,
}

/// The members as far as they are known.
#[derive(Default)]
struct Draft {
    members: BTreeMap<String, Vec<String>>,
    /// Addresses that have a member.
    taken: BTreeSet<SocketAddr>,
    /// This member's URLs that have a record.
    matched: BTreeSet<String>,
    /// How many others there are.
    others: usize,
}

/// The first members, whether or not this one is among them.
pub(super) fn cluster(own: &Own<'_>, mut kinds: [Kind; 2]) -> Result<Cluster, String> {
    draft(own, &mut kinds).map(|draft| Cluster(draft.members))
}

/// The first members, of which this must be one at just the URLs that it tells
/// others. Source: etcd's `PeerURLsMapAndToken` and `advertiseMatchesCluster`.
pub(super) fn cluster_with(own: &Own<'_>, mut kinds: [Kind; 2]) -> Result<Cluster, String> {
    let Draft { members, matched, .. } = draft(own, &mut kinds)?;
    let Some(listed) = members.get(own.name) else {
        return Err(format!("cannot find local etcd member {:?} in SRV records", own.name));
    };
    let mut told = own.urls.iter().map(|(url, _)| url);
    if let Some(missing) = told.find(|url| !matched.contains(*url)) {
        let listed: Vec<String> = listed.iter().map(|url| format!("{}={url}", own.name)).collect();
        return Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from the SRV records, which have {}",
            listed.join(",")
        ));
    }
    Ok(Cluster(members))
}

fn draft(own: &Own<'_>, kinds: &mut [Kind; 2]) -> Result<Draft, String> {
    let own_scheme = own.urls.first().and_then(|(url, _)| url.split_once("://")).map(|(scheme, _)| scheme);
    kinds.sort_by_key(|kind| own_scheme.is_some_and(|scheme| scheme != kind.scheme));
    let mut draft = Draft::default();
    let mut reasons = BTreeMap::new();
    for Kind { scheme, service, found } in kinds.iter() {
        let mut reason = found.as_ref().err().cloned();
        for (record, addresses) in found.iter().flatten() {
            let taken = match addresses {
                Ok(addresses) => draft.take(own, (scheme, service), record, addresses),
                Err(why) => Err(why.clone()),
            };
            reason = taken.err().or(reason);
        }
        let reason = reason.unwrap_or_default();
        reasons.insert(*scheme, format!("error querying DNS SRV records for _{service} {reason}"));
    }
    if draft.members.is_empty() {
        // What is encrypted first, as it is looked up.
        return Err(reasons.into_values().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(draft)
}

impl Draft {
    /// Makes a member of one record.
    fn take(
        &mut self,
        own: &Own<'_>,
        (scheme, service): (&str, &str),
        record: &Srv,
        addresses: &[SocketAddr],
    ) -> Result<(), String> {
        let peer_url = format!("{scheme}://{record}");
        let is_here = |(_, mine): &&(String, Vec<SocketAddr>)| mine.iter().any(|at| addresses.contains(at));
        let mine: Vec<&String> = own.urls.iter().filter(is_here).map(|(url, _)| url).collect();
        let is_known = addresses.iter().any(|at| self.taken.contains(at));
        let name = match mine.first() {
            Some(first) if !first.starts_with(&format!("{scheme}://")) => {
                return Err(format!(
                    "bootstrap at {peer_url} from DNS for {service} has scheme mismatch with expected peer \
                     {first}"
                ));
            }
            Some(_) => own.name.to_owned(),
            None if is_known => return Ok(()),
            None => self.next_name(own.name),
        };
        self.matched.extend(mine.into_iter().cloned());
        self.taken.extend(addresses);
        self.members.entry(name).or_default().push(peer_url);
        Ok(())
    }

    fn next_name(&mut self, own: &str) -> String {
        let name = self.others.to_string();
        self.others += 1;
        if name == own { self.next_name(own) } else { name }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// `a=10.0.0.1:2380 b=10.0.0.2:2380`: hosts of records with their
    /// addresses; an address that is none stands for a host that is not found.
    fn kind(scheme: &'static str, text: &str) -> Kind {
        let record = |word: &str| {
            let (target, at) = word.split_once('=').unwrap();
            let record = Srv { priority: 0, weight: 0, port: 2380, target: target.to_owned() };
            let addresses = at.parse().map(|at| vec![at]).map_err(|_| format!("lookup {target}: {at}"));
            (record, addresses)
        };
        let found: Vec<_> = text.split_whitespace().map(record).collect();
        let service = if scheme == "https" { "etcd-server-ssl" } else { "etcd-server" };
        let found = if found.is_empty() { Err("no such host".to_owned()) } else { Ok(found) };
        Kind { scheme, service: service.to_owned(), found }
    }

    fn check(own: &[(&str, &str)], https: &str, http: &str) -> String {
        let urls = own.iter().map(|(url, at)| ((*url).to_owned(), vec![at.parse().unwrap()])).collect();
        let own = Own { name: "1", urls };
        match cluster_with(&own, [kind("https", https), kind("http", http)]) {
            Err(error) => error,
            Ok(Cluster(members)) => {
                let member = |(name, urls): (&String, &Vec<String>)| format!("{name}={}", urls.join("+"));
                members.iter().map(member).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn records_name_the_members() {
        let (plain, encrypted) = (("http://x:2380", "10.0.0.1:2380"), ("https://x:2380", "10.0.0.1:2380"));
        let second = ("http://y:2380", "10.0.0.9:2380");
        let all = "b=10.0.0.2:2380 a=10.0.0.1:2380 c=10.0.0.3:2380";
        let others = "b=10.0.0.2:2380 c=10.0.0.3:2380";
        #[rustfmt::skip]
        let rows: [(&str, &[_], &str, &str, &str); 12] = [
            ("by http",            &[plain],         "",  all, "0=http://b:2380 1=http://a:2380 2=http://c:2380"),
            ("by https",           &[encrypted],     all, "",  "0=https://b:2380 1=https://a:2380 2=https://c:2380"),
            ("both, we encrypt",   &[encrypted],     all, all, "0=https://b:2380 1=https://a:2380 2=https://c:2380"),
            ("both, we do not",    &[plain],         all, all, "0=http://b:2380 1=http://a:2380 2=http://c:2380"),
            ("one of each",        &[plain],         "b=10.0.0.2:2380", "a=10.0.0.1:2380 c=10.0.0.3:2380", "0=http://c:2380 1=http://a:2380 2=https://b:2380"),
            ("one host is lost",   &[plain],         "",  "a=10.0.0.1:2380 b=no", "1=http://a:2380"),
            ("two URLs",           &[plain, second], "",  "a=10.0.0.1:2380 y=10.0.0.9:2380 c=10.0.0.3:2380", "0=http://c:2380 1=http://a:2380+http://y:2380"),
            ("no records",         &[plain],         "",  "",  "error querying DNS SRV records for _etcd-server-ssl no such host; error querying DNS SRV records for _etcd-server no such host"),
            ("all hosts lost",     &[plain],         "",  "b=no", "error querying DNS SRV records for _etcd-server-ssl no such host; error querying DNS SRV records for _etcd-server lookup b: no"),
            ("not among them",     &[plain],         "",  others, "cannot find local etcd member \"1\" in SRV records"),
            ("by the other scheme", &[encrypted],    "",  "a=10.0.0.1:2380", "error querying DNS SRV records for _etcd-server-ssl no such host; error querying DNS SRV records for _etcd-server bootstrap at http://a:2380 from DNS for etcd-server has scheme mismatch with expected peer https://x:2380"),
            ("one URL too many",   &[plain, second], "",  all, "--initial-advertise-peer-urls has http://y:2380 but missing from the SRV records, which have 1=http://a:2380"),
        ];
        for (name, own, https, http, want) in rows {
            assert_eq!(check(own, https, http), want, "{name}");
        }
    }

    #[test]
    fn one_who_only_passes_clients_on_is_not_looked_for() {
        let own = Own { name: "proxy", urls: Vec::new() };
        let Cluster(members) =
            cluster(&own, [kind("https", ""), kind("http", "a=10.0.0.1:2380 b=10.0.0.2:2380")]).unwrap();
        let urls: Vec<String> = members.into_values().flatten().collect();
        assert_eq!(urls, ["http://a:2380", "http://b:2380"]);
        assert!(cluster(&own, [kind("https", ""), kind("http", "")]).is_err());
    }
}
