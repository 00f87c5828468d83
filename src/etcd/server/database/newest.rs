//! The newest versions of keys that were lately read, in memory.
//!
//! To find the newest version is the hottest call there is: each write needs it, and
//! so does each read of one key. RocksDB finds it with an iterator that is made anew for
//! each key.
//!
//! An entry holds for all views that are not older than what it was taken from:
//! each write has a number, an entry and a view have that of the last write before
//! them, and what a write changes is changed here as part of it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proa_etcd_store::Writes;

use super::options::versions_prefix;

/// Parts with a lock each, so that readers seldom meet.
const SHARDS: usize = 16;
/// What an entry takes beside its bytes: three allocations and a place in the table.
const ENTRY_BYTES: usize = 128;
/// Longer values are left to RocksDB: finding them costs less than copying them.
const MAX_VALUE_BYTES: usize = 4 << 10;

/// A stored key and its value.
type Stored = (Vec<u8>, Vec<u8>);

struct Entry {
    stored: Stored,
    /// The last write before this was known.
    write: u64,
}

/// The one half that is filled, and the one that is forgotten next.
#[derive(Default)]
struct Shard {
    young: HashMap<Vec<u8>, Entry>,
    old: HashMap<Vec<u8>, Entry>,
    young_bytes: usize,
}

/// Newest versions by what all versions of their key share.
pub(super) struct Newest {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// The write that is under way, or was last.
    write: AtomicU64,
    half_bytes: usize,
}

impl Newest {
    /// At most some `bytes` are taken.
    pub fn new(bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            write: AtomicU64::new(0),
            half_bytes: bytes / SHARDS / 2,
        }
    }

    fn shard(&self, prefix: &[u8]) -> MutexGuard<'_, Shard> {
        let place = self.hasher.hash_one(prefix) as usize % SHARDS;
        // Entries are put in whole.
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last write, for a view that is taken while none is under way.
    pub fn last_write(&self) -> u64 {
        self.write.load(Ordering::Acquire)
    }

    /// What a view after the write `seen` finds as the newest version; nothing when that
    /// is not known.
    pub fn get(&self, prefix: &[u8], seen: u64) -> Option<Stored> {
        let mut shard = self.shard(prefix);
        if let Some(entry) = shard.young.get(prefix) {
            return entry.seen_from(seen);
        }
        let (prefix, entry) = shard.old.remove_entry(prefix)?;
        let stored = entry.seen_from(seen);
        shard.insert(prefix, entry, self.half_bytes);
        stored
    }

    /// Keeps what a view after the write `seen` found, unless something was written since.
    pub fn found(&self, prefix: &[u8], stored: &Stored, seen: u64) {
        if stored.1.len() > MAX_VALUE_BYTES {
            return;
        }
        let mut shard = self.shard(prefix);
        // Under the lock: who writes counts first and comes here afterwards.
        if self.write.load(Ordering::Acquire) == seen {
            shard.insert(prefix.to_vec(), Entry { stored: stored.clone(), write: seen }, self.half_bytes);
        }
    }

    /// Says that a write begins; its number, for [`Newest::written`].
    pub fn begin_write(&self) -> u64 {
        self.write.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Follows what the write with this number has written. Only keys that are here
    /// already: of another it is not known whether there is something newer.
    pub fn written(&self, writes: &Writes, number: u64) {
        for (key, value) in &writes.puts {
            let Some(prefix) = versions_prefix(key) else { continue };
            let mut shard = self.shard(prefix);
            let Some(known) = shard.find(prefix).map(|entry| entry.stored.0.as_slice()) else { continue };
            match value {
                Some(value) if **key <= *known && value.len() <= MAX_VALUE_BYTES => {
                    let stored = (key.clone(), value.clone());
                    shard.insert(prefix.to_vec(), Entry { stored, write: number }, self.half_bytes);
                }
                // An older version beside the newest changes nothing.
                Some(_) if **key > *known => {}
                None if **key != *known => {}
                Some(_) | None => shard.remove(prefix),
            }
        }
    }
}

impl Entry {
    fn seen_from(&self, seen: u64) -> Option<Stored> {
        (self.write <= seen).then(|| self.stored.clone())
    }

    fn bytes(&self) -> usize {
        2 * self.stored.0.len() + self.stored.1.len() + ENTRY_BYTES
    }
}

impl Shard {
    fn find(&self, prefix: &[u8]) -> Option<&Entry> {
        self.young.get(prefix).or_else(|| self.old.get(prefix))
    }

    fn insert(&mut self, prefix: Vec<u8>, entry: Entry, half_bytes: usize) {
        self.old.remove(&prefix);
        self.young_bytes += entry.bytes();
        if let Some(before) = self.young.insert(prefix, entry) {
            self.young_bytes -= before.bytes();
        }
        if self.young_bytes > half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn remove(&mut self, prefix: &[u8]) {
        self.old.remove(prefix);
        if let Some(before) = self.young.remove(prefix) {
            self.young_bytes -= before.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn version(key: u8, revision: u64) -> Vec<u8> {
        [&[b'K', key, 0, 1][..], &(!revision).to_be_bytes(), &[0xFF; 4], &[0]].concat()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// One write: new versions of some keys, and perhaps the end of old ones of a key.
        Write(Vec<u8>, Option<u8>),
        /// A view is taken.
        View,
        /// The newest version of a key is read from a view.
        Read(u8, prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..4u8;
        prop_oneof![
            (prop::collection::vec(key.clone(), 0..3), prop::option::of(key.clone()))
                .prop_map(|(puts, scrub)| Step::Write(puts, scrub)),
            Just(Step::View),
            (key, any::<prop::sample::Index>()).prop_map(|(key, view)| Step::Read(key, view)),
        ]
    }

    proptest! {
        /// With room for all, for some, and for next to nothing.
        #[test]
        fn what_is_known_is_what_the_view_has(
            steps in prop::collection::vec(step(), 1..60),
            bytes in prop::sample::select(vec![0, 16 << 10, 1 << 20]),
        ) {
            let cache = Newest::new(bytes);
            let mut stored = BTreeMap::new();
            let mut views = vec![(stored.clone(), cache.last_write())];
            for (revision, step) in (1..).zip(steps) {
                match step {
                    Step::Write(keys, scrub) => {
                        let mut writes = Writes::default();
                        if let Some(key) = scrub {
                            let of_key = |stored: &&Vec<u8>| stored[1] == key;
                            let gone: Vec<Vec<u8>> = stored.keys().filter(of_key).cloned().collect();
                            gone.into_iter().for_each(|stored| writes.delete(stored));
                        }
                        for key in keys {
                            writes.put(version(key, revision), vec![key; revision as usize]);
                        }
                        let number = cache.begin_write();
                        for (key, value) in &writes.puts {
                            match value {
                                Some(value) => drop(stored.insert(key.clone(), value.clone())),
                                None => drop(stored.remove(key)),
                            }
                        }
                        cache.written(&writes, number);
                    }
                    Step::View => views.push((stored.clone(), cache.last_write())),
                    Step::Read(key, view) => {
                        let (stored, seen) = view.get(&views);
                        let prefix = [b'K', key, 0, 1];
                        let is_of_key = |(stored, _): &(&Vec<u8>, &Vec<u8>)| stored.starts_with(&prefix);
                        let want = stored.iter().find(is_of_key).map(|(key, value)| (key.clone(), value.clone()));
                        match (cache.get(&prefix, *seen), want) {
                            (Some(known), want) => prop_assert_eq!(Some(known), want),
                            (None, Some(want)) => cache.found(&prefix, &want, *seen),
                            (None, None) => {}
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let cache = Newest::new(1 << 20);
        let hot = version(0, 1);
        cache.found(&hot[..4], &(hot.clone(), vec![1; 100]), 0);
        for number in 0..20_000_u64 {
            let prefix = [&[b'K'][..], &number.to_be_bytes().map(|byte| byte | 0x80), &[0, 1]].concat();
            cache.found(&prefix, &([&prefix[..], &[0; 13]].concat(), vec![0; 100]), 0);
            assert!(cache.get(&hot[..4], 0).is_some(), "forgotten at {number}");
        }
        let bytes = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.values().chain(shard.old.values()).map(Entry::bytes).sum::<usize>()
        };
        assert!(cache.shards.iter().map(bytes).sum::<usize>() <= 1 << 20);
    }
}
