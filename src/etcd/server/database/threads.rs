//! RocksDB's own threads stand back for those that answer clients.

use std::fs;

/// How much nicer than others the threads are that flush and merge. Between threads of equal niceness
/// one that wakes up waits until the other's time is over, up to 4 ms, and a write
/// goes through several; a nicer one makes way at once. They still get a third of a
/// core that everybody wants, or writing would soon have to wait for them.
const NICENESS: libc::c_int = 5;

/// Makes the threads of this process that flush and merge nicer. They exist from when
/// a database was opened.
///
/// RocksDB can do this by itself (`LowerThreadPoolCPUPriority`), but not through its C
/// interface; so they are found by their names, `rocksdb:low` and `rocksdb:high`.
pub(super) fn stand_back() {
    // SAFETY: the call takes numbers only.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } + NICENESS;
    // Without /proc they are as they were: it is a matter of speed only.
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let Ok(thread) = entry.file_name().to_string_lossy().parse::<libc::id_t>() else { continue };
        if name.starts_with("rocksdb:") {
            // SAFETY: the call takes numbers only; a thread that has ended is an error.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, niceness) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use crate::database::{Database, DatabaseOptions};

    /// Source: proc(5), field 19 of `stat`; the 17th after the name.
    fn niceness(stat: &str) -> i32 {
        stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn threads_that_merge_are_nicer_than_those_that_answer() {
        let folder = tempfile::tempdir().unwrap();
        let _database = Database::open(&folder.path().join("db"), DatabaseOptions::default()).unwrap();
        let own = niceness(&std::fs::read_to_string("/proc/thread-self/stat").unwrap());
        let mut seen = 0;
        for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            // Other tests' threads come and go.
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            if stat.contains("(rocksdb:") {
                assert!(niceness(&stat) > own, "{stat}");
                seen += 1;
            }
        }
        assert!(seen >= 2, "one flushes and one merges");
    }
}
