//! The units directory: the files that systemd runs, and which of them were launched.
//!
//! `NAME` is the unit file, `.launched/NAME` the record of its last start. Both
//! lie on a file system that a reboot empties. A file appears all at once, by rename.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use proa_fleet_model::{
    agent::Launched,
    unit_file::{UnitFile, UnitHash},
    unit_name::UnitName,
};

/// Where launch records are: a name that no unit has.
const RECORDS: &str = ".launched";
/// What a file is called until it is complete: no unit's name starts with a `~`.
const TEMPORARY: &str = "~new";

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What tells one content of a file from the next: device-local inode, size, time of change.
type Stamp = (u64, u64, i64, i64);

/// The units directory, with the hashes of the files that have not changed since they were read.
pub struct UnitsDir {
    path: PathBuf,
    hashes: BTreeMap<UnitName, (Stamp, Option<UnitHash>)>,
}

/// What the directory holds of one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Whether there is a unit file.
    pub has_file: bool,
    /// Its hash; `None` for a file that is no unit file.
    pub hash: Option<UnitHash>,
    /// The record of the last start.
    pub launched: Option<Launched>,
}

impl UnitsDir {
    /// The directory at `path`, made when it is not there.
    ///
    /// # Errors
    /// [`Error`] when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let records = path.join(RECORDS);
        fs::create_dir_all(&records).map_err(|source| Error { verb: "make", path: records, source })?;
        Ok(Self { path: path.to_owned(), hashes: BTreeMap::new() })
    }

    /// Where the file of a unit is.
    pub fn file(&self, unit: &UnitName) -> PathBuf {
        self.path.join(unit.as_str())
    }

    /// Everything in the directory.
    ///
    /// # Errors
    /// [`Error`] when the directory or a file in it cannot be read.
    pub fn read(&mut self) -> Result<BTreeMap<UnitName, OnDisk>, Error> {
        let mut found: BTreeMap<UnitName, OnDisk> = BTreeMap::new();
        for unit in names(&self.path)? {
            let hash = self.hash(&unit)?;
            found.insert(unit, OnDisk { has_file: true, hash, launched: None });
        }
        for unit in names(&self.path.join(RECORDS))? {
            let path = self.record(&unit);
            let text = fs::read(&path).map_err(|source| Error { verb: "read", path, source })?;
            // A record that cannot be read counts as lost: what runs is adopted.
            found.entry(unit).or_default().launched = serde_json::from_slice(&text).ok();
        }
        let names: BTreeSet<&UnitName> = found.keys().collect();
        self.hashes.retain(|name, _| names.contains(name));
        Ok(found)
    }

    /// Writes a unit file in place of the one that may be there.
    ///
    /// # Errors
    /// [`Error`], and the old file is still there.
    pub fn write(&self, unit: &UnitName, text: &[u8]) -> Result<(), Error> {
        replace(&self.file(unit), text)
    }

    /// Writes down that a unit was started.
    ///
    /// # Errors
    /// [`Error`], and the old record is still there.
    pub fn write_record(&self, unit: &UnitName, launched: &Launched) -> Result<(), Error> {
        let text = serde_json::to_vec(launched).expect("a record becomes JSON");
        replace(&self.record(unit), &text)
    }

    /// Takes away the record of a unit's start; it may be gone already.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove_record(&self, unit: &UnitName) -> Result<(), Error> {
        remove(self.record(unit))
    }

    /// Takes away the file of a unit; it may be gone already.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove_file(&self, unit: &UnitName) -> Result<(), Error> {
        remove(self.file(unit))
    }

    fn record(&self, unit: &UnitName) -> PathBuf {
        self.path.join(RECORDS).join(unit.as_str())
    }

    fn hash(&mut self, unit: &UnitName) -> Result<Option<UnitHash>, Error> {
        let path = self.file(unit);
        let failed = |source| Error { verb: "read", path: path.clone(), source };
        let metadata = fs::metadata(&path).map_err(failed)?;
        let stamp = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        match self.hashes.get(unit) {
            Some((known, hash)) if *known == stamp => Ok(*hash),
            Some(_) | None => {
                let bytes = fs::read(&path).map_err(failed)?;
                let hash = UnitFile::parse(&String::from_utf8_lossy(&bytes)).ok().map(|file| file.hash());
                self.hashes.insert(unit.clone(), (stamp, hash));
                Ok(hash)
            }
        }
    }
}

/// The units named by the files of a directory. What is no unit is not ours.
fn names(path: &Path) -> Result<Vec<UnitName>, Error> {
    let failed = |source| Error { verb: "read", path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().map_err(failed)?.is_file();
        if let Some(name) = entry.file_name().to_str().filter(|_| is_file).and_then(|name| name.parse().ok())
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Not synced: the file system is in memory, and a reboot is meant to empty it.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_file_name(TEMPORARY);
    fs::write(&temporary, bytes).map_err(|source| Error {
        verb: "write",
        path: temporary.clone(),
        source,
    })?;
    fs::rename(&temporary, path).map_err(|source| Error { verb: "write", path: path.to_owned(), source })
}

fn remove(path: PathBuf) -> Result<(), Error> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error { verb: "remove", path, source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proa_fleet_model::registry::Launch;

    #[test]
    fn what_was_written_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = UnitsDir::open(&root.path().join("units")).unwrap();
        let unit: UnitName = "a@1.service".parse().unwrap();
        let file = UnitFile::parse("[Service]\nExecStart=/bin/true\n").unwrap();
        dir.write(&unit, file.render().as_bytes()).unwrap();
        let launched = Launched { hash: file.hash(), launch: Launch(3) };
        dir.write_record(&unit, &launched).unwrap();
        let want = OnDisk { has_file: true, hash: Some(file.hash()), launched: Some(launched) };
        assert_eq!(dir.read().unwrap(), BTreeMap::from([(unit.clone(), want)]));

        let other = UnitFile::parse("[Service]\nExecStart=/bin/false\n").unwrap();
        dir.write(&unit, other.render().as_bytes()).unwrap();
        assert_eq!(dir.read().unwrap()[&unit].hash, Some(other.hash()));

        dir.remove_file(&unit).unwrap();
        let want = OnDisk { has_file: false, hash: None, launched: Some(launched) };
        assert_eq!(dir.read().unwrap(), BTreeMap::from([(unit.clone(), want)]));
        dir.remove_record(&unit).unwrap();
        dir.remove_record(&unit).unwrap();
        assert_eq!(dir.read().unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_no_unit_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = UnitsDir::open(root.path()).unwrap();
        fs::write(root.path().join("README"), "x").unwrap();
        fs::write(root.path().join("bad.service"), "no unit file").unwrap();
        fs::write(root.path().join(".launched/bad.service"), "no record").unwrap();
        let want = OnDisk { has_file: true, hash: None, launched: None };
        assert_eq!(dir.read().unwrap(), BTreeMap::from([("bad.service".parse().unwrap(), want)]));
    }
}
