//! The ordered key space the store works on, and what it wants changed in it.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;

/// A key and its value, as stored.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Ordered key-value data of one consistent instant.
///
/// An implementation that cannot read its disk must not return: there is no
/// answer that would not be a lie.
pub trait View {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Entries with `from <= key < end`, ascending.
    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a>;

    /// The first entry with `from <= key < end`. The hottest call: the newest
    /// version of a key is read with it, `from` and `end` sharing the part
    /// before the version. Worth an implementation without an allocation for
    /// the iterator.
    fn first(&self, from: &[u8], end: &[u8]) -> Option<Entry> {
        self.scan(from, end).next()
    }

    /// Keys with `from <= key < end`, ascending, for callers that do not need
    /// the values.
    fn keys<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Vec<u8>> + 'a> {
        Box::new(self.scan(from, end).map(|(key, _)| key))
    }
}

impl<V: View + ?Sized> View for std::sync::Arc<V> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).get(key)
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a> {
        (**self).scan(from, end)
    }

    fn first(&self, from: &[u8], end: &[u8]) -> Option<Entry> {
        (**self).first(from, end)
    }

    fn keys<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Vec<u8>> + 'a> {
        (**self).keys(from, end)
    }
}

/// What a batch of commands writes, to be stored in one atomic write.
///
/// Later commands of the batch see it on top of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// The new value of each key; `None` deletes it.
    pub puts: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Writes {
    /// Stores `value` under `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.puts.insert(key, Some(value));
    }

    /// Stores all of `entries`.
    pub(crate) fn put_all(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.puts.extend(entries.into_iter().map(|(key, value)| (key, Some(value))));
    }

    /// Stores `value` under a `key` that the batch has probably written before.
    pub(crate) fn put_again(&mut self, key: &[u8], value: Vec<u8>) {
        match self.puts.get_mut(key) {
            Some(written) => *written = Some(value),
            None => self.put(key.to_vec(), value),
        }
    }

    /// Deletes `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.puts.insert(key, None);
    }

    /// True if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    /// Number of keys to write.
    pub fn len(&self) -> usize {
        self.puts.len()
    }

    /// The first written entry with `from <= key < end` that is no deletion.
    pub(crate) fn first_put(&self, from: &[u8], end: &[u8]) -> Option<(&[u8], &[u8])> {
        self.range(from, end).find_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)))
    }

    fn range(&self, from: &[u8], end: &[u8]) -> btree_map::Range<'_, Vec<u8>, Option<Vec<u8>>> {
        // `BTreeMap::range` panics on bounds in the wrong order.
        let end = end.max(from);
        self.puts.range::<[u8], _>((Bound::Included(from), Bound::Excluded(end)))
    }
}

/// A view in memory: for tests and for the simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemView {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemView {
    /// Does what a database does with `writes`.
    pub fn apply(&mut self, writes: &Writes) {
        for (key, value) in &writes.puts {
            match value {
                Some(value) => drop(self.entries.insert(key.clone(), value.clone())),
                None => drop(self.entries.remove(key)),
            }
        }
    }

    /// Every entry, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl View for MemView {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.entries.get(key).cloned()
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a> {
        let range = (Bound::Included(from), Bound::Excluded(end.max(from)));
        let entries = self.entries.range::<[u8], _>(range);
        Box::new(entries.map(|(key, value)| (key.clone(), value.clone())))
    }
}

/// What a view looks like once `writes` are in it.
pub struct Overlay<'a> {
    /// What was there before.
    pub base: &'a dyn View,
    /// What lies on top.
    pub writes: &'a Writes,
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.writes.puts.get(key) {
            Some(written) => written.clone(),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a> {
        let mut written = self.writes.range(from, end).peekable();
        if written.peek().is_none() {
            return self.base.scan(from, end);
        }
        Box::new(Merge { written, base: self.base.scan(from, end).peekable() })
    }

    fn first(&self, from: &[u8], end: &[u8]) -> Option<Entry> {
        match self.writes.range(from, end).next() {
            Some(_) => self.scan(from, end).next(),
            None => self.base.first(from, end),
        }
    }
}

struct Merge<'a> {
    written: Peekable<btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>>,
    base: Peekable<Box<dyn Iterator<Item = Entry> + 'a>>,
}

impl Iterator for Merge<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let Some(&(key, value)) = self.written.peek() else {
                return self.base.next();
            };
            match self.base.peek() {
                Some((stored, _)) if stored < key => return self.base.next(),
                // What was written hides what was stored.
                Some((stored, _)) if stored == key => drop(self.base.next()),
                Some(_) | None => {}
            }
            self.written.next();
            if let Some(value) = value {
                return Some((key.clone(), value.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Small = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn small() -> impl Strategy<Value = Small> {
        let key = proptest::collection::vec(0u8..4, 1..3);
        proptest::collection::btree_map(key, proptest::option::of(Just(vec![1])), 0..8)
    }

    proptest! {
        #[test]
        fn an_overlay_is_the_view_after_the_write(
            before in small(), puts in small(),
            from in proptest::collection::vec(0u8..4, 0..3),
            end in proptest::collection::vec(0u8..4, 0..3),
        ) {
            let mut view = MemView::default();
            view.apply(&Writes { puts: before });
            let mut after = view.clone();
            let writes = Writes { puts };
            after.apply(&writes);
            let overlay = Overlay { base: &view, writes: &writes };
            prop_assert!(overlay.scan(&from, &end).eq(after.scan(&from, &end)));
            prop_assert!(overlay.keys(&from, &end).eq(after.keys(&from, &end)));
            prop_assert_eq!(overlay.first(&from, &end), after.first(&from, &end));
            prop_assert_eq!(overlay.get(&from), after.get(&from));
        }
    }
}
