//! Walks over the keys that are visible at one revision.

use crate::keys::{self, Kind, Place};
use crate::record::Record;
use crate::view::{Entry, View};
use bytes::Bytes;
use proa_etcd_api::mvccpb::KeyValue;

/// At the newest revision, also the one that a transaction is writing.
pub(crate) const NEWEST: i64 = i64::MAX;

/// How many versions that are not wanted are stepped over before a seek.
///
/// A step costs about a tenth of a seek, so at most one seek is wasted.
const STEPS_BEFORE_SEEK: usize = 8;

pub(crate) const READABLE: &str = "every entry under K, B and R was written by this crate";

/// A version that was found.
pub(crate) struct Found {
    /// What all versions of its key share.
    pub prefix: Vec<u8>,
    /// Where it was written.
    pub place: Place,
    /// A put of one kind or the other.
    pub kind: Kind,
    /// The stored record; empty if only keys are walked.
    pub stored: Vec<u8>,
}

impl Found {
    /// The entry as clients see it. `view` is the one that this was found in.
    ///
    /// # Panics
    /// If the stored record was not written by this crate.
    pub fn entry(self, view: &dyn View) -> KeyValue {
        self.unread().whole(view)
    }

    /// The entry, before anybody needs its value.
    ///
    /// # Panics
    /// As [`Found::entry`].
    pub fn unread(self) -> Unread {
        let key = keys::user_key(&self.prefix).expect(READABLE);
        Unread::new(key.into(), self.place, self.kind, self.stored)
    }
}

/// An entry whose value was not read if it lies apart.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    /// The entry; its value is empty as long as it was not read.
    pub kv: KeyValue,
    /// Where its value lies.
    apart: Option<Place>,
}

impl Unread {
    /// The entry of a stored record, which is that of a put.
    ///
    /// # Panics
    /// As [`Found::entry`].
    pub fn new(key: Bytes, place: Place, kind: Kind, stored: Vec<u8>) -> Self {
        Self::decode(key, place, kind, stored).expect(READABLE)
    }

    /// The same, or `None` of what this crate did not write.
    pub fn decode(key: Bytes, place: Place, kind: Kind, stored: Vec<u8>) -> Option<Self> {
        let record = Record::decode(stored)?;
        let kv = KeyValue {
            key,
            create_revision: record.create_revision,
            mod_revision: place.main,
            version: record.version,
            value: record.value,
            lease: record.lease,
        };
        Some(Self { kv, apart: (kind == Kind::PutApart).then_some(place) })
    }

    /// Reads the value from the view that this was found in, unless that was done.
    ///
    /// # Panics
    /// If it is not there.
    pub fn read(&mut self, view: &dyn View) {
        self.try_read(view).expect(READABLE);
    }

    /// The same, or `None` if it is not there.
    pub fn try_read(&mut self, view: &dyn View) -> Option<()> {
        if let Some(place) = self.apart.take() {
            self.kv.value = view.get(&keys::apart(place))?.into();
        }
        Some(())
    }

    /// The entry with its value.
    pub fn whole(mut self, view: &dyn View) -> KeyValue {
        self.read(view);
        self.kv
    }
}

/// A `K` key in its parts.
pub(crate) fn split_version(stored: &[u8]) -> (&[u8], Place, Kind) {
    keys::split_version(stored).expect(READABLE)
}

/// An `R` entry in its parts.
pub(crate) fn split_change((key, value): &Entry) -> (Place, Kind, &[u8]) {
    let place = keys::split_change(key).expect(READABLE);
    let (kind, key) = keys::split_change_value(value).expect(READABLE);
    (place, kind, key)
}

type Entries<'a> = Box<dyn Iterator<Item = Entry> + 'a>;
type Open = for<'a> fn(&'a dyn View, &[u8], &[u8]) -> Entries<'a>;

/// The keys of a range that exist at a revision, ascending.
pub(crate) struct Walk<'a> {
    view: &'a dyn View,
    open: Open,
    end: Vec<u8>,
    at: i64,
    entries: Entries<'a>,
    /// The key whose version at `at` is known; older ones are of no interest.
    settled: Vec<u8>,
    passed: usize,
}

impl<'a> Walk<'a> {
    /// Walks with values over `from <= stored key < end`.
    pub fn entries(view: &'a dyn View, from: &[u8], end: &[u8], at: i64) -> Self {
        Self::new(view, |view, from, end| view.scan(from, end), from, end, at)
    }

    /// Walks without reading values.
    pub fn keys(view: &'a dyn View, from: &[u8], end: &[u8], at: i64) -> Self {
        let open: Open = |view, from, end| Box::new(view.keys(from, end).map(|key| (key, Vec::new())));
        Self::new(view, open, from, end, at)
    }

    fn new(view: &'a dyn View, open: Open, from: &[u8], end: &[u8], at: i64) -> Self {
        let entries = open(view, from, end);
        Self { view, open, end: end.to_vec(), at, entries, settled: Vec::new(), passed: 0 }
    }

    fn pass(&mut self, seek: impl FnOnce() -> Vec<u8>) {
        self.passed += 1;
        if self.passed > STEPS_BEFORE_SEEK {
            self.passed = 0;
            self.entries = (self.open)(self.view, &seek(), &self.end);
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let (mut key, stored) = self.entries.next()?;
            let (prefix, place, kind) = split_version(&key);
            if prefix == self.settled {
                self.pass(|| keys::after_versions(prefix));
                continue;
            }
            if place.main > self.at {
                let at = self.at;
                self.pass(|| keys::visible_at(prefix, at));
                continue;
            }
            self.passed = 0;
            self.settled.clear();
            self.settled.extend_from_slice(prefix);
            if kind != Kind::Tombstone {
                let length = prefix.len();
                key.truncate(length);
                return Some(Found { prefix: key, place, kind, stored });
            }
        }
    }
}

/// The version of one key that is visible at a revision.
pub(crate) fn find(view: &dyn View, key: &[u8], at: i64) -> Option<Found> {
    let prefix = keys::versions_of(key);
    let end = keys::after_versions(&prefix);
    let found = match at {
        NEWEST => view.first(&prefix, &end)?,
        at => view.first(&keys::visible_at(&prefix, at), &end)?,
    };
    take(prefix, found)
}

/// What was found as the version of one key, unless it is a deletion.
pub(crate) fn take(prefix: Vec<u8>, (stored_key, stored): Entry) -> Option<Found> {
    let (_, place, kind) = split_version(&stored_key);
    (kind != Kind::Tombstone).then_some(Found { prefix, place, kind, stored })
}
