//! The state of a member as its data dir has it, for who only looks.

use std::path::Path;
use std::time::Duration;

use proa_etcd_store::{Machine, Overlay, View, Writes};

use super::alone::replay;
use super::boot::start_of;
use super::error::NodeError;
use super::meta::Layout;
use crate::database::{Database, DatabaseView};
use crate::log::Log;
use crate::log::disk::Files;
use crate::log::lock::FolderLock;

/// How often a folder is looked into whose member changes it at the same time. Files
/// are renamed and removed once in some MiB of writes, and looking takes a fraction of a second.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What a data dir holds: the database, and what the log says beyond it.
pub struct Seen {
    view: DatabaseView,
    later: Writes,
    /// Keeps the member from starting.
    _lock: Option<FolderLock>,
}

impl Seen {
    /// Looks into the data dir of a member that may be running: everything is there that it had
    /// answered before. Changes nothing there.
    ///
    /// # Errors
    /// [`NodeError`]: there is no member, or what it has cannot be read.
    pub fn look(data_dir: &Path) -> Result<Self, NodeError> {
        let layout = layout(data_dir)?;
        for _ in 1..TRIES {
            if let Ok(seen) = look_once(&layout, None) {
                return Ok(seen);
            }
            std::thread::sleep(PAUSE);
        }
        look_once(&layout, None)
    }

    /// Looks into the data dir of a member that does not run, nor can as long as this lives.
    ///
    /// # Errors
    /// As [`Seen::look`]; [`crate::log::LogError::InUse`] while it runs.
    pub fn look_at_stopped(data_dir: &Path) -> Result<Self, NodeError> {
        let layout = layout(data_dir)?;
        let lock = FolderLock::acquire(&layout.log())?;
        look_once(&layout, Some(lock))
    }

    /// The state.
    pub fn view(&self) -> impl View {
        Overlay { base: &self.view, writes: &self.later }
    }
}

fn layout(data_dir: &Path) -> Result<Layout, NodeError> {
    let path = data_dir.to_owned();
    std::fs::read_dir(data_dir).map_err(|source| NodeError::Io { action: "read", path, source })?;
    let layout = Layout { disk: Files, root: data_dir.to_owned() };
    match layout.read_identity()? {
        Some(_) => Ok(layout),
        None => Err(NodeError::Config(format!(
            "{} is no data dir of Proa's etcd: it has no file named identity",
            data_dir.display()
        ))),
    }
}

fn look_once(layout: &Layout, lock: Option<FolderLock>) -> Result<Seen, NodeError> {
    // The log first: it is cut only where the database has everything already.
    let log = Log::look(&layout.log())?;
    let view = Database::look(&layout.database())?;
    let start = start_of(layout, log, &view)?;
    let applied = start.applied;
    if start.log_base.index > applied.index {
        return Err(layout.damaged("the log begins after it ends: entries between are missing"));
    }
    // A log goes on from the database where it has the entry that was applied last. It may
    // end before that, or wait to be begun anew, if a snapshot has replaced the database.
    let goes_on = start.log_holds(applied);
    let is_behind = start.log_end().index < applied.index;
    if !goes_on && !is_behind && layout.installing_index() != Some(applied.index) {
        return Err(layout.damaged("it has applied what the log has not"));
    }
    let entries = if goes_on { &start.entries[..] } else { &[] };
    let mut machine = Machine::load(&view)?;
    let (later, _) = replay(&mut machine, &view, entries, applied);
    Ok(Seen { view, later, _lock: lock })
}
