//! A consistent state of the database that any thread may read.

use std::sync::Arc;

use proa_etcd_store::View;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::options::{is_one_key, versions_prefix};
use super::{Open, Size};

type Iter<'a> = DBRawIteratorWithThreadMode<'a, DB>;

/// The database at one instant. Clones share it; the database stays open, and
/// what has been overwritten since stays on disk, until the last is dropped.
#[derive(Clone)]
pub struct DatabaseView {
    state: Arc<State>,
}

/// Fields are dropped in this order: the snapshot before what it points into.
struct State {
    snapshot: SnapshotWithThreadMode<'static, DB>,
    /// The last write that it has.
    write: u64,
    open: Arc<Open>,
}

impl DatabaseView {
    pub(super) fn new(open: Arc<Open>) -> Self {
        let db: *const DB = &open.db;
        // SAFETY: the database lies in an `Arc` that is never given out as
        // mutable, so it does not move; `State` keeps that `Arc` and drops it
        // after the snapshot. The 'static is never handed out: iterators borrow
        // from `&self`.
        let db = unsafe { &*db };
        let (snapshot, write) = {
            let _writing = open.writing();
            (SnapshotWithThreadMode::new(db), open.newest.last_write())
        };
        Self { state: Arc::new(State { snapshot, write, open }) }
    }

    /// How large the database is now, not at the view's instant; cheap.
    pub fn size(&self) -> Size {
        self.state.open.size()
    }

    /// An iterator at the first key of `from..end`.
    fn seek(&self, from: &[u8], end: &[u8]) -> Iter<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        // The filters know user keys. A range over several must not ask them.
        let one_key = is_one_key(from, end);
        options.set_prefix_same_as_start(one_key);
        options.set_total_order_seek(!one_key);
        let mut iter = self.state.snapshot.raw_iterator_opt(options);
        iter.seek(from);
        iter
    }

    /// Walks through `from..end`, taking from each place what `take` takes.
    fn walk<'a, T: 'a>(
        &'a self,
        from: &[u8],
        end: &[u8],
        take: impl Fn(&[u8], &Iter<'a>) -> T + 'a,
    ) -> Box<dyn Iterator<Item = T> + 'a> {
        if from >= end {
            return Box::new(std::iter::empty());
        }
        let mut iter = self.seek(from, end);
        Box::new(std::iter::from_fn(move || {
            let taken = iter.key().map(|key| take(key, &iter));
            match taken {
                Some(_) => iter.next(),
                None => self.state.open.survive("read", iter.status()),
            }
            taken
        }))
    }
}

fn entry(key: &[u8], iter: &Iter<'_>) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), iter.value().unwrap_or_default().to_vec())
}

impl View for DatabaseView {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.state.open.survive("read", self.state.snapshot.get(key))
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = (Vec<u8>, Vec<u8>)> + 'a> {
        self.walk(from, end, entry)
    }

    fn first(&self, from: &[u8], end: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if from >= end {
            return None;
        }
        let State { open, write, .. } = &*self.state;
        // All versions of one key, from the newest on.
        let is_newest =
            from.len() == end.len() && versions_prefix(from) == Some(from) && is_one_key(from, end);
        if is_newest && let Some(known) = open.newest.get(from, *write) {
            return Some(known);
        }
        let iter = self.seek(from, end);
        let found = iter.key().map(|key| entry(key, &iter));
        match &found {
            Some(found) if is_newest => open.newest.found(from, found, *write),
            Some(_) => {}
            None => open.survive("read", iter.status()),
        }
        found
    }

    fn keys<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Vec<u8>> + 'a> {
        self.walk(from, end, |key, _| key.to_vec())
    }
}

impl std::fmt::Debug for DatabaseView {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "DatabaseView({})", self.state.open.path.display())
    }
}
