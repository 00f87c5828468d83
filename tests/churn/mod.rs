//! Many times the quota, written and deleted: what the test of space and the benchmark
//! of pauses do, each at its own pace.

use std::path::Path;

use proa_etcd_client::api::etcdserverpb as pb;
use proa_etcd_client::prefix_range;

pub const VALUE_BYTES: u64 = 32 << 10;
pub const WRITERS: u64 = 8;
/// Live data at its most, as a part of the quota.
pub const LIVE_PART: u64 = 4;

/// Keys of one writer before it deletes them all.
pub fn keys(quota_bytes: u64) -> u64 {
    quota_bytes / LIVE_PART / VALUE_BYTES / WRITERS
}

/// The `number`th put of a writer in a round: another value each time.
pub fn put(writer: u64, round: u64, number: u64) -> pb::PutRequest {
    let key = format!("churn/{writer}/{number:06}").into();
    let value = noise((round << 40 | number << 8 | writer) + 1).into();
    pb::PutRequest { key, value, ..pb::PutRequest::default() }
}

/// The end of a writer's round.
pub fn delete(writer: u64) -> pb::DeleteRangeRequest {
    let (key, range_end) = prefix_range(format!("churn/{writer}/").as_bytes());
    pb::DeleteRangeRequest { key, range_end, ..pb::DeleteRangeRequest::default() }
}

/// A value that no compression makes smaller. Source: Marsaglia, "Xorshift RNGs" (2003).
fn noise(mut word: u64) -> Vec<u8> {
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    (0..VALUE_BYTES / 8).flat_map(|_| next()).collect()
}

/// Bytes of all files below a folder.
pub fn disk_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Files come and go while they are merged.
        Err(_) => 0,
    };
    entries.map(size).sum()
}
