//! What a member keeps about itself: raft's position in the database, and its
//! identity in a file beside it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proa_etcd_replica::Position;
use proa_etcd_replica::eraftpb::ConfState;
use proa_etcd_store::{View, Writes};

use super::error::NodeError;
use crate::log::disk::{Disk, Files};
use crate::peer::wire;

/// Applied index, its term, and the configuration as of there.
pub(super) const POSITION: &[u8] = b"M/raft/position";
/// Ids of members that were removed; they never come back.
const REMOVED: &[u8] = b"M/raft/removed";

/// Is there while the last start was one that went on without the others.
const ALONE: &[u8] = b"M/raft/alone";

/// Adds that this start goes on without the others, or that it does not.
pub(super) fn put_alone(writes: &mut Writes, is_alone: bool) {
    writes.puts.insert(ALONE.to_vec(), is_alone.then(Vec::new));
}

/// Whether the start before went on without the others.
pub(super) fn was_alone(view: &dyn View) -> bool {
    view.get(ALONE).is_some()
}

/// Adds the raft position to a batch: data and position are one write, so a
/// replay after a crash applies nothing twice.
pub(super) fn put_position(writes: &mut Writes, position: Position, members: &ConfState) {
    let mut out = Vec::with_capacity(48);
    wire::put_number(&mut out, position.index);
    wire::put_number(&mut out, position.term);
    wire::put_conf_state(&mut out, members);
    writes.put(POSITION.to_vec(), out);
}

/// Reads back what [`put_position`] wrote.
pub(super) fn decode_position(stored: Vec<u8>) -> Result<(Position, ConfState), wire::Malformed> {
    let mut input = Bytes::from(stored);
    let index = wire::take_number(&mut input, "applied index")?;
    let term = wire::take_number(&mut input, "applied term")?;
    Ok((Position { index, term }, wire::take_conf_state(&mut input)?))
}

/// Adds the removed members to a batch.
pub(super) fn put_removed(writes: &mut Writes, removed: impl IntoIterator<Item = u64>) {
    let mut out = Vec::new();
    removed.into_iter().for_each(|id| wire::put_number(&mut out, id));
    writes.put(REMOVED.to_vec(), out);
}

/// The removed members.
pub(super) fn removed(view: &dyn View) -> Result<Vec<u64>, wire::Malformed> {
    let mut input = Bytes::from(view.get(REMOVED).unwrap_or_default());
    let mut ids = Vec::new();
    while !input.is_empty() {
        ids.push(wire::take_number(&mut input, "removed member")?);
    }
    Ok(ids)
}

/// Who the member in a data dir is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
}

/// Where things lie in a data dir.
#[derive(Clone, Debug)]
pub(super) struct Layout<D = Files> {
    pub(super) disk: D,
    pub(super) root: PathBuf,
}

impl<D: Disk> Layout<D> {
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("db")
    }

    /// That the database holds what no member wrote.
    pub(super) fn damaged(&self, what: &'static str) -> NodeError {
        NodeError::Damaged { path: self.database(), what }
    }

    fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    fn installing(&self) -> PathBuf {
        self.root.join("installing")
    }

    /// Reads who lives here, if somebody does.
    pub(super) fn read_identity(&self) -> Result<Option<Identity>, NodeError> {
        let path = self.identity();
        let text = match self.disk.read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(NodeError::Io { action: "read", path, source }),
        };
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            u64::from_str_radix(value, 16).ok()
        };
        match (field("cluster"), field("member")) {
            (Some(cluster_id), Some(member_id)) => Ok(Some(Identity { cluster_id, member_id })),
            _ => Err(NodeError::Damaged { path, what: "it must name cluster and member in hex" }),
        }
    }

    /// Makes a data dir a member's: the last step of a bootstrap.
    pub(super) fn write_identity(&self, identity: Identity) -> Result<(), NodeError> {
        let text = format!("cluster={:x}\nmember={:x}\n", identity.cluster_id, identity.member_id);
        replace_file(&self.disk, &self.identity(), text.as_bytes())
    }

    /// Notes that a snapshot up to `index` is about to replace the database;
    /// the log starts again after that.
    pub(super) fn begin_installing(&self, index: u64) -> Result<(), NodeError> {
        replace_file(&self.disk, &self.installing(), index.to_string().as_bytes())
    }

    /// The snapshot whose installation a crash interrupted.
    pub(super) fn installing_index(&self) -> Option<u64> {
        String::from_utf8(self.disk.read(&self.installing()).ok()?).ok()?.parse().ok()
    }

    /// Database and log agree again.
    pub(super) fn end_installing(&self) -> Result<(), NodeError> {
        let path = self.installing();
        match self.disk.remove(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(NodeError::Io { action: "remove", path, source }),
        }
    }
}

/// Replaces a small file so that a crash leaves the old or the new.
///
/// # Errors
/// [`NodeError::Io`], naming the file.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    replace_file(&Files, path, bytes)
}

fn replace_file<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    let temporary = path.with_extension("part");
    let written = disk
        .create(&temporary)
        .and_then(|file| disk.write(&file, bytes, 0).and_then(|()| disk.sync_all(&file)))
        .and_then(|()| disk.rename(&temporary, path))
        .and_then(|()| path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder)));
    written.map_err(|source| NodeError::Io { action: "write", path: path.to_owned(), source })
}
