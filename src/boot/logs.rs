//! What the console said before the machine last went down, if its memory kept it.
//!
//! The kernel keeps its console in a piece of memory that a restart does not
//! touch (ramoops) and shows it after the next start. It is the only word of a
//! kernel that panicked, or of an `/init` that did not come as far as the disk.

use crate::{console, stage1, sys};
use proa_update_model::boot_record::LOG_PREFIX;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const PSTORE: &str = "/sys/fs/pstore";

/// Bytes kept of each: the end, where the trouble is. The kernel keeps no more.
const MOST_BYTES: usize = 64 * 1024;

/// How many are kept: a boot that fails and falls back leaves one or two.
const MOST_LOGS: usize = 4;

/// Moves what the kernel kept into `folder`. A machine boots without it, too.
pub fn keep(folder: &Path) {
    if let Err(error) = keep_all(Path::new(PSTORE), folder) {
        console::say(format_args!("the log of the boot before is not kept: {error}"));
    }
}

fn keep_all(pstore: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if !pstore.is_dir() {
        return Ok(());
    }
    sys::mount(
        Path::new("pstore"),
        pstore,
        "pstore",
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        "",
    )?;
    take(pstore, folder, stage1::unix_ms())
}

fn take(pstore: &Path, folder: &Path, now_unix_ms: u64) -> io::Result<()> {
    let mut found: Vec<PathBuf> = fs::read_dir(pstore)?.flatten().map(|entry| entry.path()).collect();
    // The parts of a kernel's message come last first, and the console, which is
    // the longest story, is wanted at the end: both is the reverse of the names.
    found.sort_by(|a, b| b.cmp(a));
    let mut text = Vec::new();
    for file in &found {
        text.extend(fs::read(file)?);
    }
    if !text.is_empty() {
        let end = &text[text.len().saturating_sub(MOST_BYTES)..];
        let mut log = fs::File::create(folder.join(format!("{LOG_PREFIX}{now_unix_ms:013}.txt")))?;
        log.write_all(end)?;
        log.sync_all()?;
    }
    // What is taken away here makes room in that memory.
    found.iter().try_for_each(fs::remove_file)?;
    drop_old(folder)
}

fn drop_old(folder: &Path) -> io::Result<()> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let is_log =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LOG_PREFIX));
    let mut logs: Vec<PathBuf> = entries.filter(is_log).collect();
    logs.sort();
    let old = logs.len().saturating_sub(MOST_LOGS);
    logs[..old].iter().try_for_each(fs::remove_file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ends_are_kept() {
        let (pstore, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for time in 1..=6 {
            fs::write(pstore.path().join("console-ramoops-0"), "x".repeat(MOST_BYTES) + &time.to_string())
                .unwrap();
            take(pstore.path(), folder.path(), time).unwrap();
            assert_eq!(fs::read_dir(pstore.path()).unwrap().count(), 0);
        }
        take(pstore.path(), folder.path(), 7).unwrap();
        let mut kept: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        kept.sort();
        assert_eq!(kept.len(), MOST_LOGS);
        let newest = fs::read_to_string(kept.last().unwrap()).unwrap();
        assert_eq!((newest.len(), newest.ends_with('6')), (MOST_BYTES, true));
    }
}
