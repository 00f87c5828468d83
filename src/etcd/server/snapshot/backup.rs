//! From a member's data dir to that of a new one.

use std::path::{Path, PathBuf};

use proa_etcd_store::Writes;
use proa_etcd_store::snapshot::{Carried, carried};

use super::file::SnapshotError;
use super::whole::{make_whole, part_of};
use crate::database::Database;
use crate::log::LogError;
use crate::node::{NodeError, Seen, create_stranger};

/// Bytes that are stored in one write.
const BATCH_BYTES: usize = 1 << 20;

/// Copies what the member in `data_dir` has into the new data dir `backup_dir`,
/// of a member alone in a new cluster that starts by `--force-new-cluster`. For
/// [`Carried::All`] the member must not run.
///
/// # Errors
/// [`SnapshotError`]; nothing is left in `backup_dir`, and `data_dir` is as it was in any case.
pub fn backup(data_dir: &Path, backup_dir: &Path, what: Carried) -> Result<(), SnapshotError> {
    if is_below(backup_dir, data_dir) || is_below(data_dir, &part_of(backup_dir)) {
        let (path, data_dir) = (backup_dir.to_owned(), data_dir.to_owned());
        return Err(SnapshotError::Inside { path, data_dir });
    }
    let seen = match what {
        Carried::V2 => Seen::look(data_dir),
        Carried::All => Seen::look_at_stopped(data_dir),
    };
    let seen = seen.map_err(|error| match error {
        NodeError::Log(LogError::InUse { .. }) => SnapshotError::Runs { data_dir: data_dir.to_owned() },
        other => other.into(),
    })?;
    make_whole(backup_dir, |part| {
        Ok(create_stranger(part, &mut |database| {
            fill(database, &seen, what);
            Ok(())
        })?)
    })
}

fn fill(database: &Database, seen: &Seen, what: Carried) {
    let mut batch = Writes::default();
    let mut bytes = 0;
    for (key, value) in carried(&seen.view(), what) {
        bytes += key.len() + value.len();
        batch.put(key, value);
        if bytes >= BATCH_BYTES {
            database.write(&std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    database.write(&batch);
}

/// Whether `path`, which need not exist, is `folder` or lies in it.
fn is_below(path: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let Ok(absolute) = std::path::absolute(path) else { return false };
    // What exists of it may lead elsewhere.
    let existing = absolute.ancestors().find_map(|parent| Some((parent, parent.canonicalize().ok()?)));
    existing.is_some_and(|(parent, real)| {
        let rest: PathBuf = absolute.strip_prefix(parent).unwrap_or(Path::new("")).into();
        real.join(rest).starts_with(&folder)
    })
}
