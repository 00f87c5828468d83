//! From a snapshot file to a data dir.

use std::fs;
use std::path::{Path, PathBuf};

use proa_etcd_store::snapshot::bolt::{BadFile, Bolt};
use proa_etcd_store::snapshot::{Imported, Past, attach_leases, import};

use super::file::{Hash, Snapshot, SnapshotError};
use crate::database::Database;
use crate::node::{NewMember, NodeError, create_from};

/// What is to be made of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The snapshot.
    pub file: PathBuf,
    /// Where the member is to live.
    pub data_dir: PathBuf,
    /// Who it is.
    pub member: NewMember,
    /// Whether the checksum must be right.
    pub hash: Hash,
    /// What becomes of revisions that clients remember.
    pub past: Past,
}

/// Makes a data dir from a snapshot. It appears whole or not at all: until it
/// is complete it has `.part` behind its name.
///
/// # Errors
/// [`SnapshotError`].
pub fn restore(wanted: &Restore) -> Result<Imported, SnapshotError> {
    let is_empty = |path: &Path| match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let data_dir = &wanted.data_dir;
    if !is_empty(data_dir) {
        return Err(SnapshotError::DataDir { path: data_dir.clone() });
    }
    let snapshot = Snapshot::open(&wanted.file)?;
    snapshot.check(wanted.hash)?;
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    remove(&part)?;
    let made = fill(&snapshot, &part, wanted);
    if made.is_err() {
        // The first error is the one to tell.
        let _ = remove(&part);
    }
    let imported = made?;
    let io = |source| SnapshotError::Io { action: "make", path: data_dir.clone(), source };
    fs::rename(&part, data_dir).map_err(io)?;
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(imported)
}

fn remove(folder: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SnapshotError::Io { action: "remove", path: folder.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn fill(snapshot: &Snapshot, part: &Path, wanted: &Restore) -> Result<Imported, SnapshotError> {
    let bolt = Bolt::open(snapshot).map_err(|error| snapshot.bad(error))?;
    fs::create_dir_all(part).map_err(|source| SnapshotError::Io {
        action: "make",
        path: part.to_owned(),
        source,
    })?;
    let mut outcome = Err(BadFile::Io("nothing was read".to_owned()));
    let made = create_from(part, &wanted.member, &mut |database| {
        outcome = load(&bolt, wanted.past, database);
        match &outcome {
            Ok(_) => Ok(()),
            Err(error) => Err(NodeError::Config(error.to_string())),
        }
    });
    // What is wrong with the file says more than that the member was not made.
    match (outcome, made) {
        (_, Err(error)) if !matches!(error, NodeError::Config(_)) => Err(error.into()),
        (Err(BadFile::Io(_)), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(snapshot.bad(error)),
        (Ok(_), Err(error)) => Err(error.into()),
        (Ok(imported), Ok(())) => Ok(imported),
    }
}

fn load(bolt: &Bolt<'_>, past: Past, database: &Database) -> Result<Imported, BadFile> {
    let mut store = |writes| {
        database.write(&writes);
        Ok(())
    };
    let imported = import(bolt, past, &mut store)?;
    attach_leases(&database.snapshot(), &mut store)?;
    Ok(imported)
}
