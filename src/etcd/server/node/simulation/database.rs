//! A database with RocksDB's promises: batches are whole and in order, and a
//! crash keeps what was flushed and any prefix of what came after.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use proa_etcd_store::{Entry, MemView, View, Writes};

use super::Planted;
use super::random::Random;
use crate::database::{CopiedFile, DatabaseError, Flushed, Size, Staged, Storage, StoredView};
use crate::node::meta::POSITION;

/// Reads what is there now; on one thread that is one instant.
pub(super) struct SimView(Arc<RwLock<MemView>>);

struct Flush {
    /// Batches that it makes durable.
    batches: usize,
    position: Option<Vec<u8>>,
    then: Flushed,
}

struct State {
    live: Arc<RwLock<MemView>>,
    flushed: MemView,
    /// Batches since then, oldest first.
    batches: VecDeque<Writes>,
    flushes: VecDeque<Flush>,
    copies: BTreeMap<PathBuf, MemView>,
    staged: Option<MemView>,
    planted: Option<Planted>,
}

/// See the module; clones are the same database.
#[derive(Clone)]
pub(super) struct SimDatabase(Rc<RefCell<State>>);

impl SimDatabase {
    pub(super) fn new(durable: MemView, planted: Option<Planted>) -> Self {
        Self(Rc::new(RefCell::new(State {
            live: Arc::new(RwLock::new(durable.clone())),
            flushed: durable,
            batches: VecDeque::new(),
            flushes: VecDeque::new(),
            copies: BTreeMap::new(),
            staged: None,
            planted,
        })))
    }

    /// What a crash leaves.
    pub(super) fn crash(&self, random: &mut Random) -> MemView {
        let mut state = self.0.borrow_mut();
        if let Some(staged) = state.staged.take() {
            return staged;
        }
        let length = state.batches.len() as u64;
        // Membership is rare and what comes right after it matters most.
        let touches_members = |batch: &Writes| batch.puts.keys().any(|key| key.starts_with(b"M/member"));
        let after = state.batches.iter().rposition(touches_members).map(|at| at as u64 + 1);
        let kept = match (random.below(4), after) {
            (0, _) => 0,
            (1, _) => length,
            (2, Some(after)) => after,
            _ => random.below(length + 1),
        };
        let mut durable = std::mem::take(&mut state.flushed);
        state.batches.iter().take(kept as usize).for_each(|batch| durable.apply(batch));
        durable
    }

    pub(super) fn is_flushing(&self) -> bool {
        !self.0.borrow().flushes.is_empty()
    }

    /// The oldest flush is done.
    pub(super) fn finish_flush(&self) {
        let flush = {
            let mut guard = self.0.borrow_mut();
            let state = &mut *guard;
            let Some(flush) = state.flushes.pop_front() else { return };
            for batch in state.batches.drain(..flush.batches) {
                state.flushed.apply(&batch);
            }
            for later in &mut state.flushes {
                later.batches -= flush.batches;
            }
            flush
        };
        (flush.then)(flush.position);
    }

    pub(super) fn copy(&self, folder: &Path) -> MemView {
        self.0.borrow_mut().copies.remove(folder).expect("a copy is sent once")
    }

    /// A received copy is whole and durable from here on.
    pub(super) fn stage(&self, copy: MemView) {
        self.0.borrow_mut().staged = Some(copy);
    }

    pub(super) fn unstage(&self) {
        self.0.borrow_mut().staged = None;
    }
}

/// What [`crate::database::verify`] is to the log writer.
pub(super) fn verify(_database: &Path, _files: &[CopiedFile]) -> Result<Staged, DatabaseError> {
    Ok(Staged::simulated())
}

impl Storage for SimDatabase {
    type View = SimView;

    fn write(&self, writes: &Writes) {
        let mut state = self.0.borrow_mut();
        state.live.write().unwrap_or_else(PoisonError::into_inner).apply(writes);
        let mut batch = writes.clone();
        match state.planted {
            Some(Planted::IndexApartFromData) => {
                let position = batch.puts.remove_entry(POSITION);
                state.batches.push_back(batch);
                batch = Writes { puts: position.into_iter().collect() };
            }
            Some(Planted::ConfChangeTwice) if is_conf_change(&batch) => {
                // It will be stored with what is applied next.
                batch.puts.remove(POSITION);
            }
            _ => {}
        }
        state.batches.push_back(batch);
    }

    fn snapshot(&self) -> SimView {
        SimView(self.0.borrow().live.clone())
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.snapshot().get(key)
    }

    fn flush_apart(&self, position: &'static [u8], then: Flushed) -> std::io::Result<Option<JoinHandle<()>>> {
        let position = self.get(position);
        let mut state = self.0.borrow_mut();
        let batches = state.batches.len();
        state.flushes.push_back(Flush { batches, position, then });
        Ok(None)
    }

    fn checkpoint(&self) -> Result<PathBuf, DatabaseError> {
        let mut state = self.0.borrow_mut();
        let copy = state.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        let path = PathBuf::from("copy");
        state.copies.insert(path.clone(), copy);
        Ok(path)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn replace(self, _staged: Staged) -> Result<Self, DatabaseError> {
        {
            let mut state = self.0.borrow_mut();
            let copy = state.staged.take().expect("the world staged what the writer verified");
            state.live = Arc::new(RwLock::new(copy.clone()));
            state.flushed = copy;
            state.batches.clear();
            // RocksDB is closed: its flushes are over, and say so.
            state.flushes.clear();
        }
        Ok(self)
    }
}

/// Whether the batch holds a membership change and nothing of clients.
fn is_conf_change(batch: &Writes) -> bool {
    let mut keys = batch.puts.keys();
    keys.all(|key| key.starts_with(b"M/")) && batch.puts.keys().any(|key| key.starts_with(b"M/member"))
}

impl SimView {
    fn with<T>(&self, read: impl FnOnce(&MemView) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl View for SimView {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.with(|view| view.get(key))
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a> {
        let found: Vec<Entry> = self.with(|view| view.scan(from, end).collect());
        Box::new(found.into_iter())
    }

    fn first(&self, from: &[u8], end: &[u8]) -> Option<Entry> {
        self.with(|view| view.first(from, end))
    }
}

impl StoredView for SimView {
    fn size(&self) -> Size {
        Size::default()
    }
}
