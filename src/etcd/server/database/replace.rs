//! Copies of the database that travel between members: a raft snapshot.
//!
//! The sender: [`super::Database::checkpoint`], [`describe`], send the list and
//! the files. The receiver: [`start_receiving`], write the files
//! ([`received_file`]), [`verify`], [`super::Database::replace`]. The database is
//! never changed in place: the copy has to be whole and durable before it gets
//! the name `<path>.new`, and from then on a crash at any point ends, at the
//! next open, with the copy in place.
//!
//! The raft log is restarted *after* the replacement. A crash between the two
//! leaves a database that is ahead of the log; the member then restarts its log at
//! the database's applied index, which is safe because a snapshot holds only
//! what is committed. (The other order could leave a log that has no entries
//! for a database that is behind.)

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::DatabaseError;

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// A copy that is whole, durable and will replace the database.
#[derive(Debug)]
#[must_use = "the copy waits to be put in place"]
pub struct Staged {
    database: PathBuf,
}

impl Staged {
    /// A copy that lies nowhere, for the simulation's database to find.
    #[cfg(test)]
    pub(crate) fn simulated() -> Self {
        Self { database: PathBuf::new() }
    }

    pub(super) fn put_in_place(self) -> Result<(), DatabaseError> {
        finish(&self.database)
    }
}

/// `<database>.<suffix>`.
pub(super) fn sibling(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Lists the files of a copy with their checksums; reads all of them.
///
/// # Errors
/// [`DatabaseError::Io`].
pub fn describe(copy: &Path) -> Result<Vec<CopiedFile>, DatabaseError> {
    let mut files = Vec::new();
    for item in fs::read_dir(copy).map_err(DatabaseError::io("list", copy))? {
        let path = item.map_err(DatabaseError::io("list", copy))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (size_bytes, sha256) = digest(&path)?;
        files.push(CopiedFile { name, size_bytes, sha256 });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Makes the empty folder that a copy for `database` is received in.
///
/// # Errors
/// [`DatabaseError::Io`].
pub fn start_receiving(database: &Path) -> Result<PathBuf, DatabaseError> {
    let part = sibling(database, "part");
    remove(&part)?;
    fs::create_dir_all(&part).map_err(DatabaseError::io("make", &part))?;
    Ok(part)
}

/// Where the file `name` of a copy that is received belongs.
///
/// # Errors
/// [`DatabaseError::BadCopy`] for a name that RocksDB would not give, such as one that leads out of the folder.
pub fn received_file(part: &Path, name: &str) -> Result<PathBuf, DatabaseError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(is_plain) {
        let what = format!("{name:?} is no name of a database file");
        return Err(DatabaseError::BadCopy { path: part.to_path_buf(), what });
    }
    Ok(part.join(name))
}

/// Checks what was received for `database` against what the sender described,
/// makes it durable, and lets it be what the next open finds.
///
/// # Errors
/// [`DatabaseError::BadCopy`]: a file is missing, changed or too many. [`DatabaseError::Io`].
pub fn verify(database: &Path, files: &[CopiedFile]) -> Result<Staged, DatabaseError> {
    let part = sibling(database, "part");
    let received = describe(&part)?;
    if let Some(what) = difference(files, &received) {
        return Err(DatabaseError::BadCopy { path: part, what });
    }
    for file in &received {
        sync(&part.join(&file.name))?;
    }
    sync(&part)?;
    let new = sibling(database, "new");
    remove(&new)?;
    rename(&part, &new)?;
    Ok(Staged { database: database.to_path_buf() })
}

/// How `received` differs from `sent`, if it does.
fn difference(sent: &[CopiedFile], received: &[CopiedFile]) -> Option<String> {
    let by_name = |files: &[CopiedFile]| -> BTreeMap<String, CopiedFile> {
        files.iter().map(|file| (file.name.clone(), file.clone())).collect()
    };
    let (sent, received) = (by_name(sent), by_name(received));
    if sent.is_empty() {
        return Some("it has no files".to_string());
    }
    let surplus = received.keys().find(|name| !sent.contains_key(*name));
    if let Some(name) = surplus {
        return Some(format!("{name} was not announced"));
    }
    sent.values().find_map(|want| match received.get(&want.name) {
        None => Some(format!("{} is missing", want.name)),
        Some(have) if have.size_bytes != want.size_bytes => {
            Some(format!("{} has {} bytes instead of {}", want.name, have.size_bytes, want.size_bytes))
        }
        Some(have) if have.sha256 != want.sha256 => Some(format!("{} has another checksum", want.name)),
        Some(_) => None,
    })
}

/// One step of a replacement; each is a rename or a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    RemoveOld,
    MoveAway,
    MoveIn,
    MoveBack,
}

/// What is left to do, by which of `<path>.new`, `<path>` and `<path>.old` exist.
fn remaining(new: bool, current: bool, old: bool) -> Vec<Step> {
    match (new, current, old) {
        // Both can be there only before the move away: the old one is of an
        // earlier replacement.
        (true, true, true) => vec![Step::RemoveOld, Step::MoveAway, Step::MoveIn, Step::RemoveOld],
        (true, true, false) => vec![Step::MoveAway, Step::MoveIn, Step::RemoveOld],
        (true, false, true) => vec![Step::MoveIn, Step::RemoveOld],
        (true, false, false) => vec![Step::MoveIn],
        (false, true, true) => vec![Step::RemoveOld],
        // No crash leads here; but the old database is better than none.
        (false, false, true) => vec![Step::MoveBack],
        (false, _, false) => vec![],
    }
}

/// Finishes a replacement and removes what was left over.
pub(super) fn finish(database: &Path) -> Result<(), DatabaseError> {
    let (new, old) = (sibling(database, "new"), sibling(database, "old"));
    for step in remaining(new.exists(), database.exists(), old.exists()) {
        match step {
            Step::RemoveOld => remove(&old)?,
            Step::MoveAway => rename(database, &old)?,
            Step::MoveIn => rename(&new, database)?,
            Step::MoveBack => rename(&old, database)?,
        }
    }
    remove(&sibling(database, "part"))?;
    remove(&sibling(database, "copy"))
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), DatabaseError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DatabaseError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Renames a folder, durably.
fn rename(from: &Path, to: &Path) -> Result<(), DatabaseError> {
    fs::rename(from, to).map_err(DatabaseError::io("rename", from))?;
    sync(to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn sync(path: &Path) -> Result<(), DatabaseError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(DatabaseError::io("sync", path))
}

fn digest(path: &Path) -> Result<(u64, [u8; 32]), DatabaseError> {
    let mut file = File::open(path).map_err(DatabaseError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut size_bytes = 0;
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut piece).map_err(DatabaseError::io("read", path))?;
        if count == 0 {
            return Ok((size_bytes, hash.finalize().into()));
        }
        hash.update(&piece[..count]);
        size_bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (new, current, old) hold these copies.
    type Folders = [Option<char>; 3];

    fn apply(step: Step, folders: &mut Folders) {
        let [new, current, old] = folders;
        match step {
            Step::RemoveOld => *old = None,
            Step::MoveAway => *old = current.take(),
            Step::MoveIn => *current = new.take(),
            Step::MoveBack => *current = old.take(),
        }
    }

    fn plan(folders: &Folders) -> Vec<Step> {
        remaining(folders[0].is_some(), folders[1].is_some(), folders[2].is_some())
    }

    #[test]
    fn a_crash_at_any_step_ends_with_the_staged_copy_in_place() {
        for start in
            [[Some('n'), Some('c'), None], [Some('n'), None, None], [Some('n'), Some('c'), Some('o')]]
        {
            for crash_after in 0..=plan(&start).len() {
                let mut folders = start;
                for step in &plan(&start)[..crash_after] {
                    apply(*step, &mut folders);
                }
                for step in plan(&folders) {
                    apply(step, &mut folders);
                }
                assert_eq!(folders, [None, Some('n'), None], "{start:?}, crash after {crash_after}");
            }
        }
    }

    #[test]
    fn without_a_staged_copy_the_database_stays() {
        for start in [[None, Some('c'), None], [None, Some('c'), Some('o')], [None, None, Some('c')]] {
            let mut folders: Folders = start;
            for step in plan(&folders) {
                apply(step, &mut folders);
            }
            assert_eq!(folders, [None, Some('c'), None], "{start:?}");
        }
    }

    #[test]
    fn names_cannot_lead_out_of_the_folder() {
        for name in ["", "..", ".", "../x", "a/b", ".hidden", "a\0b", &"x".repeat(65)] {
            assert!(received_file(Path::new("/p"), name).is_err(), "{name:?}");
        }
        for name in ["000012.sst", "MANIFEST-000004", "CURRENT", "OPTIONS-000007"] {
            assert!(received_file(Path::new("/p"), name).is_ok(), "{name:?}");
        }
    }
}
