//! The applied state on disk: RocksDB behind the store's `View`.
//!
//! RocksDB's own log is off. What is written is in memory until a flush; after
//! a crash the database is the exact state of some earlier applied index, and
//! the raft log has all that follows. This holds because there is one column
//! family and each [`Database::write`] is one atomic batch, the applied index
//! in it. So the raft log may be compacted up to an index only when that index
//! was flushed: [`Database::flush`] says which, and what is read right after
//! [`Database::open`] is flushed.
//!
//! Caller's duties
//! 1. One thread writes, flushes and copies; any thread reads from views.
//! 2. Drop every [`Database`] and [`DatabaseView`] before `main` returns: the
//!    C++ library's background threads do not survive its exit handlers
//!    (`pthread lock: Invalid argument`, SIGABRT). [`Database::close`] tells
//!    whether one is left.
//! 3. The folder `<path>` has siblings: `<path>.part` (a copy that is being
//!    received), `<path>.new` (complete, waits to replace), `<path>.old` and
//!    `<path>.copy` (what is being sent). Nothing else may use these names.

mod error;
mod newest;
mod options;
mod replace;
mod storage;
mod threads;
mod view;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use proa_etcd_store::Writes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, FlushOptions, WriteBatch, WriteOptions, properties};

use crate::metrics::METRICS;
pub use error::DatabaseError;
use newest::Newest;
pub use options::DatabaseOptions;
pub use replace::{CopiedFile, Staged, describe, received_file, start_receiving, verify};
pub use storage::{Flushed, Storage, StoredView};
pub use view::DatabaseView;

/// An open database; clones share it.
///
/// Reading, writing and flushing do not return when the disk fails or bytes
/// are damaged: they print one line and abort the process. A replica that cannot read its
/// state has no answer to give, and one that could not write must not go on as if it had.
#[derive(Clone)]
pub struct Database {
    open: Arc<Open>,
}

struct Open {
    db: DB,
    path: PathBuf,
    options: DatabaseOptions,
    newest: Newest,
    /// Held while writing, and while a view is taken: so a view has a write in the
    /// database and in what is known of it, or in neither.
    writing: Mutex<()>,
}

/// How large a database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of its files and of what is not yet in one.
    pub total_bytes: u64,
    /// Estimate of what would be left after a full compaction.
    pub in_use_bytes: u64,
}

impl Database {
    /// Opens the database in the folder `path`, or makes an empty one there.
    /// Finishes a replacement that a crash interrupted, and removes what was left over.
    ///
    /// # Errors
    /// [`DatabaseError::Open`]: damaged, or open elsewhere. [`DatabaseError::Io`].
    pub fn open(path: &Path, options: DatabaseOptions) -> Result<Self, DatabaseError> {
        replace::finish(path)?;
        let db = DB::open(&options.build(), path).map_err(|error| DatabaseError::Open {
            path: path.to_path_buf(),
            message: error.into_string(),
        })?;
        threads::stand_back();
        Ok(Self { open: Arc::new(Open::new(db, path, options)) })
    }

    /// What is in the files of the database in the folder `path`: nothing there is
    /// changed, and another process may have it open. What that one has not
    /// flushed is not seen; what it removes meanwhile is held open.
    ///
    /// # Errors
    /// [`DatabaseError::Open`]: damaged, or changed by the other while it was opened.
    pub fn look(path: &Path) -> Result<DatabaseView, DatabaseError> {
        let options = DatabaseOptions::default();
        let mut every_file_at_once = options.build();
        every_file_at_once.set_max_open_files(-1);
        let db = DB::open_for_read_only(&every_file_at_once, path, false).map_err(|error| {
            DatabaseError::Open { path: path.to_path_buf(), message: error.into_string() }
        })?;
        Ok(DatabaseView::new(Arc::new(Open::new(db, path, options))))
    }

    /// Writes all of `writes` or nothing. Readers see it at once; it is durable
    /// after a flush.
    pub fn write(&self, writes: &Writes) {
        let mut batch = WriteBatch::default();
        for (key, value) in &writes.puts {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let begun = Instant::now();
        let _writing = self.open.writing();
        let number = self.open.newest.begin_write();
        let written = self.open.db.write_opt(batch, &options);
        METRICS.commit.observe(begun.elapsed());
        self.open.survive("write to", written);
        self.open.newest.written(writes, number);
    }

    /// What the database holds at this instant, for as long as it is read.
    pub fn snapshot(&self) -> DatabaseView {
        DatabaseView::new(self.open.clone())
    }

    /// The value of `key`, as last written.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.open.survive("read", self.open.db.get(key))
    }

    /// Makes everything that was written durable, and returns the value that
    /// `position` had when the flush began: the applied index up to which the raft log
    /// is no longer needed. Blocks for as long as the disk takes; views and writes go on.
    pub fn flush(&self, position: &[u8]) -> Option<Vec<u8>> {
        // Read before: a write that arrives during the flush may miss it.
        let durable = self.get(position);
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.open.survive("flush", self.open.db.flush_opt(&options));
        durable
    }

    /// Size on disk and in memory; cheap.
    pub fn size(&self) -> Size {
        self.open.size()
    }

    /// Copies the database as it is to `<path>.copy`, by hard links: quick, and
    /// with no more space than the files that are compacted away before it is removed.
    /// Returns the folder; [`describe`] it on another thread and send its files.
    ///
    /// An earlier copy there is removed, so one is sent at a time.
    ///
    /// # Errors
    /// [`DatabaseError::Checkpoint`], [`DatabaseError::Io`]: the database is unharmed.
    pub fn checkpoint(&self) -> Result<PathBuf, DatabaseError> {
        let copy = replace::sibling(&self.open.path, "copy");
        replace::remove(&copy)?;
        Checkpoint::new(&self.open.db).and_then(|checkpoint| checkpoint.create_checkpoint(&copy)).map_err(
            |error| DatabaseError::Checkpoint { path: copy.clone(), message: error.into_string() },
        )?;
        Ok(copy)
    }

    /// Replaces the database by a verified copy and opens that.
    ///
    /// # Errors
    /// [`DatabaseError::InUse`] when a clone or a view is left: nothing was replaced, and the
    /// copy takes effect at the next [`Database::open`]. Others as there.
    pub fn replace(self, staged: Staged) -> Result<Self, DatabaseError> {
        let path = self.open.path.clone();
        let options = self.open.options.clone();
        self.close()?;
        staged.put_in_place()?;
        Self::open(&path, options)
    }

    /// Whether a clone or a view is left.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    /// Closes the database, which flushes what is in memory.
    ///
    /// # Errors
    /// [`DatabaseError::InUse`] when a clone or a view is left; it is closed with the last.
    pub fn close(self) -> Result<(), DatabaseError> {
        let path = self.open.path.clone();
        match Arc::into_inner(self.open) {
            Some(open) => {
                open.db.cancel_all_background_work(true);
                Ok(())
            }
            None => Err(DatabaseError::InUse { path }),
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Database({})", self.open.path.display())
    }
}

impl Open {
    fn new(db: DB, path: &Path, options: DatabaseOptions) -> Self {
        let newest = Newest::new(options.newest_bytes);
        Self { db, path: path.to_path_buf(), options, newest, writing: Mutex::default() }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size(&self) -> Size {
        let number = |name| self.survive("measure", self.db.property_int_value(name)).unwrap_or(0);
        let in_memory_bytes = number(properties::CUR_SIZE_ALL_MEM_TABLES);
        Size {
            total_bytes: number(properties::TOTAL_SST_FILES_SIZE) + in_memory_bytes,
            in_use_bytes: number(properties::ESTIMATE_LIVE_DATA_SIZE) + in_memory_bytes,
        }
    }

    /// The result, or the end of the process.
    fn survive<T>(&self, action: &str, result: Result<T, rocksdb::Error>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => {
                eprintln!("etcd: cannot {action} the database {}: {error}; aborting", self.path.display());
                std::process::abort()
            }
        }
    }
}
