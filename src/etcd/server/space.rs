//! Room for data: the quota, the disk, and the alarm that says it is short.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use proa_etcd_store::Reply;

use crate::node::Node;

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What must stay free on the disk: the 32 MiB below which the log takes nothing
/// at all, not even what makes room, and what can be written between two looks.
const FREE_BYTES: u64 = 96 << 20;
/// Of the quota and of [`FREE_BYTES`], what must be regained before writes are
/// taken again, so that the alarm does not flutter.
const REGAIN_PERCENT: u64 = 5;

/// What was last seen of the disk.
#[derive(Debug, Default)]
pub struct Space {
    low: AtomicBool,
    database_bytes: AtomicU64,
}

/// One look at the disk.
#[derive(Clone, Copy, Debug)]
struct Seen {
    database_bytes: u64,
    free_bytes: u64,
}

impl Space {
    /// Whether writes that grow the database are to be refused.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Bytes of the database on the disk.
    pub fn database_bytes(&self) -> u64 {
        self.database_bytes.load(Ordering::Relaxed)
    }
}

/// Whether room is short, given whether it was.
fn is_short(was_short: bool, seen: Seen, quota_bytes: u64) -> bool {
    let regained = if was_short { REGAIN_PERCENT } else { 0 };
    let most = quota_bytes - quota_bytes / 100 * regained;
    let least_free = FREE_BYTES + FREE_BYTES / 100 * regained;
    seen.database_bytes > most || seen.free_bytes < least_free
}

/// Looks at the disk for as long as the process lives, and keeps this member's
/// alarm in step with what it sees.
pub async fn watch(space: Arc<Space>, node: Node, folder: std::path::PathBuf, quota_bytes: u64) {
    // An alarm of an earlier run may still be raised.
    let mut raised = None;
    loop {
        let look = folder.clone();
        match tokio::task::spawn_blocking(move || look_at(&look)).await {
            Ok(Ok(seen)) => {
                space.database_bytes.store(seen.database_bytes, Ordering::Relaxed);
                space.low.store(is_short(space.is_low(), seen, quota_bytes), Ordering::Relaxed);
            }
            Ok(Err(error)) => tracing::warn!("{}: {error}", folder.display()),
            Err(_) => return,
        }
        let low = space.is_low();
        if raised != Some(low) && set_alarm(&node, low).await {
            if low || raised.is_some() {
                tracing::warn!("alarm NOSPACE is {}", if low { "raised" } else { "cleared" });
            }
            raised = Some(low);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn set_alarm(node: &Node, on: bool) -> bool {
    let action = if on { AlarmAction::Activate } else { AlarmAction::Deactivate };
    let member_id = node.status().borrow().member_id;
    let request = AlarmRequest { action: action as i32, member_id, alarm: AlarmType::Nospace as i32 };
    matches!(node.propose_as_member(Command { op: Some(Op::Alarm(request)) }).await, Ok(Reply::Alarm(_)))
}

fn look_at(folder: &Path) -> io::Result<Seen> {
    Ok(Seen { database_bytes: size_of(folder)?, free_bytes: free_bytes(folder)? })
}

/// Bytes of all files below `folder`.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Files come and go while the database merges them.
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { size_of(&entry.path()).unwrap_or(0) } else { metadata.len() };
    }
    Ok(sum)
}

/// What an ordinary user may still write to the file system of `folder`.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: a statvfs of zeros is a valid value of that plain C struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: path ends with NUL and stat is ours to write.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn room_must_be_regained_before_writes_are_taken_again() {
        const GIB: u64 = 1 << 30;
        let quota = 2 * GIB;
        #[rustfmt::skip]
        let rows = [
            ("plenty",              false, GIB,               GIB,             false),
            ("quota exceeded",      false, quota + 1,         GIB,             true),
            ("just below again",    true,  quota - 1,         GIB,             true),
            ("well below",          true,  quota / 100 * 94,  GIB,             false),
            ("disk nearly full",    false, GIB,               FREE_BYTES - 1,  true),
            ("a little room again", true,  GIB,               FREE_BYTES + 1,  true),
            ("room again",          true,  GIB,               2 * FREE_BYTES,  false),
        ];
        for (name, was_short, database_bytes, free_bytes, want) in rows {
            let seen = Seen { database_bytes, free_bytes };
            assert_eq!(is_short(was_short, seen, quota), want, "{name}");
        }
    }

    #[test]
    fn files_are_counted_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("sub/b"), [0; 5]).unwrap();
        let seen = look_at(folder.path()).unwrap();
        assert_eq!(seen.database_bytes, 15);
        assert!(seen.free_bytes > 0);
    }
}
