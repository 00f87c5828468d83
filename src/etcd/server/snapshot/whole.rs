//! A data dir that appears whole or not at all.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::SnapshotError;

/// Has `fill` make a data dir. Until it is complete it has `.part` behind its name.
///
/// # Errors
/// [`SnapshotError::NotEmpty`], or what `fill` says; then nothing is left.
pub(super) fn make_whole<T>(
    data_dir: &Path,
    fill: impl FnOnce(&Path) -> Result<T, SnapshotError>,
) -> Result<T, SnapshotError> {
    let data_dir: PathBuf = data_dir.components().collect();
    let is_empty = match fs::read_dir(&data_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(SnapshotError::NotEmpty { path: data_dir });
    }
    let part = part_of(&data_dir);
    remove(&part)?;
    let io = |source| SnapshotError::Io { action: "make", path: data_dir.clone(), source };
    let made = make(&part).and_then(|()| fill(&part));
    let made = made.and_then(|made| fs::rename(&part, &data_dir).map_err(io).map(|()| made));
    if made.is_err() {
        // The first error is the one to tell.
        let _ = remove(&part);
    }
    let made = made?;
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(made)
}

/// What a data dir is called until it is complete.
pub(super) fn part_of(data_dir: &Path) -> PathBuf {
    // Without a slash at its end, or it would lie inside.
    let mut name = data_dir.components().collect::<PathBuf>().into_os_string();
    name.push(".part");
    name.into()
}

fn make(folder: &Path) -> Result<(), SnapshotError> {
    fs::create_dir_all(folder).map_err(|source| SnapshotError::Io {
        action: "make",
        path: folder.to_owned(),
        source,
    })
}

fn remove(folder: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(SnapshotError::Io { action: "remove", path: folder.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
