//! From a snapshot file to a data dir.

use std::path::{Path, PathBuf};

use proa_etcd_store::snapshot::bolt::{BadFile, Bolt};
use proa_etcd_store::snapshot::{Imported, Past, attach_leases, import};

use super::file::{Hash, Snapshot, SnapshotError};
use super::whole::make_whole;
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
    let snapshot = Snapshot::open(&wanted.file)?;
    snapshot.check(wanted.hash)?;
    make_whole(&wanted.data_dir, |part| fill(&snapshot, part, wanted))
}

fn fill(snapshot: &Snapshot, part: &Path, wanted: &Restore) -> Result<Imported, SnapshotError> {
    let bolt = Bolt::open(snapshot).map_err(|error| snapshot.bad(error))?;
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
