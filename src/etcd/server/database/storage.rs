//! What the applying thread asks of a database.

use std::path::PathBuf;
use std::thread::JoinHandle;

use proa_etcd_store::{View, Writes};

use super::{Database, DatabaseError, DatabaseView, Size, Staged};

/// A view of a database that any thread may read.
pub trait StoredView: View + Send + Sync {
    /// How large the database is now, not at the view's instant.
    fn size(&self) -> Size;
}

impl StoredView for DatabaseView {
    fn size(&self) -> Size {
        DatabaseView::size(self)
    }
}

/// Takes what a flush made durable: the value that the position had.
pub type Flushed = Box<dyn FnOnce(Option<Vec<u8>>) + Send>;

/// The database as the applying thread uses it: [`Database`], or the
/// simulation's, which loses in a crash what RocksDB would lose.
pub trait Storage: Clone {
    /// See [`Database::snapshot`].
    type View: StoredView + 'static;

    /// See [`Database::write`].
    fn write(&self, writes: &Writes);

    /// See [`Database::snapshot`].
    fn snapshot(&self) -> Self::View;

    /// See [`Database::get`].
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// [`Database::flush`] without waiting for it; `then` takes its result.
    ///
    /// # Errors
    /// No thread can be started; nothing was flushed.
    fn flush_apart(&self, position: &'static [u8], then: Flushed) -> std::io::Result<Option<JoinHandle<()>>>;

    /// See [`Database::checkpoint`].
    ///
    /// # Errors
    /// As there.
    fn checkpoint(&self) -> Result<PathBuf, DatabaseError>;

    /// See [`Database::is_shared`].
    fn is_shared(&self) -> bool;

    /// See [`Database::replace`].
    ///
    /// # Errors
    /// As there.
    fn replace(self, staged: Staged) -> Result<Self, DatabaseError>;
}

impl Storage for Database {
    type View = DatabaseView;

    fn write(&self, writes: &Writes) {
        Database::write(self, writes);
    }

    fn snapshot(&self) -> DatabaseView {
        Database::snapshot(self)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        Database::get(self, key)
    }

    fn flush_apart(&self, position: &'static [u8], then: Flushed) -> std::io::Result<Option<JoinHandle<()>>> {
        let database = self.clone();
        let flush = move || {
            let stored = database.flush(position);
            drop(database);
            then(stored);
        };
        std::thread::Builder::new().name("etcd-flush".into()).spawn(flush).map(Some)
    }

    fn checkpoint(&self) -> Result<PathBuf, DatabaseError> {
        Database::checkpoint(self)
    }

    fn is_shared(&self) -> bool {
        Database::is_shared(self)
    }

    fn replace(self, staged: Staged) -> Result<Self, DatabaseError> {
        Database::replace(self, staged)
    }
}
