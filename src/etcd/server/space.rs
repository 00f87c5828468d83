//! Room for data: the quota, the disk, and the alarm that says it is short.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};
use proa_etcd_store::Reply;

use crate::database::Size;
use crate::node::Node;

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What must stay free on the disk: the 32 MiB below which the log takes nothing
/// at all, not even what makes room, and what can be written between two looks.
const FREE_BYTES: u64 = 96 << 20;
/// The database's files may take this many times the quota while deleted data
/// waits to be given back: merging rewrites at most all of it once.
const MOST_TIMES_QUOTA: u64 = 2;
/// And this much beside, however small the quota: four files of 8 MiB gather
/// before they are merged, as much is in memory on its way to files, and as much
/// again is written while the merged files are still there.
const MERGING_BYTES: u64 = 96 << 20;
/// Of the quota and of [`FREE_BYTES`], what must be regained before writes are
/// taken again, so that the alarm does not flutter.
const REGAIN_PERCENT: u64 = 5;

/// What was last seen of the disk.
#[derive(Debug, Default)]
pub struct Space {
    low: AtomicBool,
    total_bytes: AtomicU64,
    in_use_bytes: AtomicU64,
    spare_bytes: AtomicU64,
}

/// One look at the disk.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Bytes of the database's files.
    total_bytes: u64,
    /// What of them is not merely waiting to be given back.
    in_use_bytes: u64,
    free_bytes: u64,
}

impl Space {
    /// Whether writes that grow the database are to be refused.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Bytes of the database on the disk.
    pub fn database_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the database may still take of the disk.
    pub fn spare_bytes(&self) -> u64 {
        self.spare_bytes.load(Ordering::Relaxed)
    }

    /// How large the database is, as last seen.
    pub fn size(&self) -> Size {
        Size {
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            in_use_bytes: self.in_use_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Whether room is short, given whether it was.
///
/// What has been deleted and compacted comes back by itself a little later, so
/// the quota counts what is in use; but the disk must bear the rest meanwhile.
fn is_short(was_short: bool, seen: Seen, quota_bytes: u64) -> bool {
    let regained = if was_short { REGAIN_PERCENT } else { 0 };
    let most = quota_bytes - quota_bytes / 100 * regained;
    let least_free = FREE_BYTES + FREE_BYTES / 100 * regained;
    let most_total = most.saturating_mul(MOST_TIMES_QUOTA).saturating_add(MERGING_BYTES);
    let is_full = seen.in_use_bytes > most || seen.total_bytes > most_total;
    is_full || seen.free_bytes < least_free
}

/// Looks at the disk for as long as the process lives, and keeps this member's
/// alarm in step with what it sees.
pub async fn watch(space: Arc<Space>, node: Node, folder: std::path::PathBuf, quota_bytes: u64) {
    loop {
        let (look, at) = (folder.clone(), node.clone());
        match tokio::task::spawn_blocking(move || look_at(&look, at.view().view.size().in_use_bytes)).await {
            Ok(Ok(seen)) => {
                space.total_bytes.store(seen.total_bytes, Ordering::Relaxed);
                space.in_use_bytes.store(seen.in_use_bytes, Ordering::Relaxed);
                space.spare_bytes.store(seen.free_bytes.saturating_sub(FREE_BYTES), Ordering::Relaxed);
                space.low.store(is_short(space.is_low(), seen, quota_bytes), Ordering::Relaxed);
            }
            Ok(Err(error)) => tracing::warn!("{}: {error}", folder.display()),
            Err(_) => return,
        }
        // Compared with what is raised, not with what was done last: an alarm
        // may be of an earlier run, and somebody may have cleared it by hand.
        let (low, raised) = (space.is_low(), has_raised(&node));
        if raised != low && set_alarm(&node, low).await {
            tracing::warn!("alarm NOSPACE is {}", if low { "raised" } else { "cleared" });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn has_raised(node: &Node) -> bool {
    let us = node.status().borrow().member_id;
    let is_ours = |alarm: &AlarmMember| alarm.member_id == us && alarm.alarm == AlarmType::Nospace as i32;
    node.alarms().iter().any(is_ours)
}

async fn set_alarm(node: &Node, on: bool) -> bool {
    let action = if on { AlarmAction::Activate } else { AlarmAction::Deactivate };
    let member_id = node.status().borrow().member_id;
    let request = AlarmRequest { action: action as i32, member_id, alarm: AlarmType::Nospace as i32 };
    matches!(node.propose_as_member(Command { op: Some(Op::Alarm(request)) }).await, Ok(Reply::Alarm(_)))
}

fn look_at(folder: &Path, in_use_bytes: u64) -> io::Result<Seen> {
    Ok(Seen { total_bytes: size_of(folder)?, in_use_bytes, free_bytes: free_bytes(folder)? })
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
            ("plenty",              false, GIB,               GIB,       GIB,             false),
            ("quota exceeded",      false, quota + 1,         quota + 1, GIB,             true),
            ("just below again",    true,  quota - 1,         quota - 1, GIB,             true),
            ("well below",          true,  quota / 100 * 94,  quota,     GIB,             false),
            ("much to give back",   false, GIB,               2 * quota, GIB,             false),
            ("too much of it",      false, GIB,               5 * GIB,   GIB,             true),
            ("disk nearly full",    false, GIB,               GIB,       FREE_BYTES - 1,  true),
            ("a little room again", true,  GIB,               GIB,       FREE_BYTES + 1,  true),
            ("room again",          true,  GIB,               GIB,       2 * FREE_BYTES,  false),
        ];
        for (name, was_short, in_use_bytes, total_bytes, free_bytes, want) in rows {
            let seen = Seen { total_bytes, in_use_bytes, free_bytes };
            assert_eq!(is_short(was_short, seen, quota), want, "{name}");
        }
    }

    #[test]
    fn files_are_counted_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("sub/b"), [0; 5]).unwrap();
        let seen = look_at(folder.path(), 7).unwrap();
        assert_eq!((seen.total_bytes, seen.in_use_bytes), (15, 7));
        assert!(seen.free_bytes > 0);
    }
}
