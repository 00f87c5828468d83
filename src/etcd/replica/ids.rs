//! Ids of members and clusters: hashes, so that nobody hands them out.

use proa_base::ids::MachineId;
use sha1::{Digest, Sha1};

/// The id of a member named on a command line.
///
/// `added_unix_s` is `None` for a cluster's first members, who must all come
/// to the same ids on their own, and the time for one added later.
///
/// Source: etcd hashes the sorted peer URLs, the token and the time with SHA-1
/// and takes the first eight bytes, so the same flags give the same ids.
pub fn member_id(peer_urls: &[String], token: &str, added_unix_s: Option<u64>) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let time = added_unix_s.map(|seconds| seconds.to_string()).unwrap_or_default();
    first_eight(&[urls.concat().as_bytes(), token.as_bytes(), time.as_bytes()])
}

/// The id of the cluster whose first members are `members`, in any order.
///
/// Source: etcd, SHA-1 over the sorted ids as big-endian words.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = members.into_iter().collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    first_eight(&[&bytes])
}

/// The id of a member that found its cluster by beacons.
///
/// It does not depend on addresses: those may change before the first start.
pub fn founded_member_id(machine: MachineId, token: &str) -> u64 {
    first_eight(&[machine.to_string().as_bytes(), b"@", token.as_bytes()])
}

/// Never 0, which means «nobody» in raft.
fn first_eight(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    let digest = hash.finalize();
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(word).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Debian's etcd 3.4.23 logs for `--name default` without flags.
    #[test]
    fn the_default_member_has_etcds_well_known_ids() {
        let id = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([id])), "cdf818194e3a8c32");
    }

    #[test]
    fn order_means_nothing() {
        let urls = |a: &str, b: &str| member_id(&[a.into(), b.into()], "t", None);
        assert_eq!(urls("http://a:1", "http://b:1"), urls("http://b:1", "http://a:1"));
        assert_eq!(cluster_id([3, 1, 2]), cluster_id([1, 2, 3]));
    }
}
