//! One revision while it is being written.

use crate::keys::{self, Place};
use crate::range;
use crate::record::{Head, Record, tombstone};
use crate::view::{Overlay, View, Writes};
use crate::walk::{self, Found, NEWEST, Unread, Walk};
use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
};
use proa_etcd_api::mvccpb::event::EventType;
use proa_etcd_api::mvccpb::{Event, KeyValue};

/// The changes of one revision, on top of everything before it.
pub(crate) struct Revision<'a> {
    view: &'a dyn View,
    writes: &'a mut Writes,
    begin: Head,
    with_previous: bool,
    events: Vec<Event>,
}

impl<'a> Revision<'a> {
    /// Begins the revision after `begin`. Nothing is written until something
    /// changes. Events tell what was there before only `with_previous`.
    pub fn begin(view: &'a dyn View, writes: &'a mut Writes, begin: Head, with_previous: bool) -> Self {
        Self { view, writes, begin, with_previous, events: Vec::new() }
    }

    /// The head as the next operation sees it.
    pub fn head(&self) -> Head {
        let changed = i64::from(!self.events.is_empty());
        Head { revision: self.begin.revision + changed, ..self.begin }
    }

    /// Ends the revision: the new head, stored if there is one, and what happened.
    pub fn finish(self) -> (Head, Vec<Event>) {
        let head = self.head();
        if head != self.begin {
            self.writes.put_again(keys::HEAD, head.encode());
        }
        (head, self.events)
    }

    /// What there is to read in the middle of the revision.
    pub fn overlay(&self) -> Overlay<'_> {
        Overlay { base: self.view, writes: self.writes }
    }

    /// Reads in the middle of the revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        range::range(&self.overlay(), self.head(), request)
    }

    /// The entry of `key`, if it exists.
    pub fn latest(&self, key: &[u8]) -> Option<Unread> {
        let prefix = keys::versions_of(key);
        let end = keys::after_versions(&prefix);
        // What this batch wrote is newer than what the view has.
        let found = match self.writes.first_put(&prefix, &end) {
            Some((stored_key, stored)) => (stored_key.to_vec(), stored.to_vec()),
            None => self.view.first(&prefix, &end)?,
        };
        walk::take(prefix, found).map(Found::unread)
    }

    /// Writes one key. The lease exists, and so does the key if something of
    /// it is to be kept: the caller has checked.
    pub fn put(&mut self, request: &PutRequest) -> PutResponse {
        let mut before = self.latest(&request.key);
        if request.prev_kv || request.ignore_value {
            self.read(&mut before);
        }
        let known = before.as_ref().map(|before| &before.kv);
        let prev_kv = if request.prev_kv { known.cloned() } else { None };
        let value = match known {
            Some(before) if request.ignore_value => before.value.clone(),
            Some(_) | None => request.value.clone(),
        };
        let lease = match known {
            Some(before) if request.ignore_lease => before.lease,
            Some(_) | None => request.lease,
        };
        self.write(request.key.clone(), value, lease, before);
        PutResponse { header: range::header(self.head().revision), prev_kv }
    }

    fn read<'b>(&self, entries: impl IntoIterator<Item = &'b mut Unread>) {
        let overlay = self.overlay();
        entries.into_iter().for_each(|entry| entry.read(&overlay));
    }

    fn write(&mut self, key: Bytes, value: Bytes, lease: i64, before: Option<Unread>) {
        let place = self.next_place();
        let old_lease = before.as_ref().map_or(0, |before| before.kv.lease);
        if old_lease != lease {
            self.detach(old_lease, &key);
            if lease != 0 {
                self.writes.put(keys::attachment(lease, &key), Vec::new());
            }
        }
        let (create_revision, version) = match &before {
            Some(before) => (before.kv.create_revision, before.kv.version + 1),
            None => (place.main, 1),
        };
        let record = Record { create_revision, version, lease, value: value.clone() };
        self.writes.put_all(record.entries(&key, place));
        let kv = KeyValue { key, create_revision, mod_revision: place.main, version, value, lease };
        let prev_kv = before.and_then(|before| self.before_revision(before));
        self.events.push(Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv });
    }

    /// What watchers are told was there, given the entry before the change:
    /// that before the revision, also when the revision changes a key twice.
    ///
    /// Source: etcd's `sendLoop`, which reads at the revision before, but not
    /// for what is created.
    fn before_revision(&self, before: Unread) -> Option<KeyValue> {
        if !self.with_previous {
            return None;
        }
        if before.kv.mod_revision <= self.begin.revision {
            return Some(before.whole(&self.overlay()));
        }
        let is_first = |event: &&Event| event.kv.as_ref().is_some_and(|kv| kv.key == before.kv.key);
        self.events.iter().find(is_first).and_then(|event| event.prev_kv.clone())
    }

    /// Deletes the keys of a range.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut found: Vec<Unread> = if request.range_end.is_empty() {
            self.latest(&request.key).into_iter().collect()
        } else {
            let (from, end) = keys::bounds(&request.key, &request.range_end);
            Walk::entries(&self.overlay(), &from, &end, NEWEST).map(Found::unread).collect()
        };
        let deleted = found.len() as i64;
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            self.read(&mut found);
            prev_kvs.extend(found.iter().map(|before| before.kv.clone()));
        }
        for before in found {
            self.delete(before);
        }
        DeleteRangeResponse { header: range::header(self.head().revision), deleted, prev_kvs }
    }

    /// Deletes the key of `before`, which is its newest entry.
    pub fn delete(&mut self, before: Unread) {
        let place = self.next_place();
        let key = before.kv.key.clone();
        self.detach(before.kv.lease, &key);
        self.writes.put_all(tombstone(&key, place));
        let kv = deleted_entry(key, place);
        let prev_kv = self.before_revision(before);
        self.events.push(Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv });
    }

    fn detach(&mut self, lease: i64, key: &[u8]) {
        if lease != 0 {
            self.writes.delete(keys::attachment(lease, key));
        }
    }

    fn next_place(&self) -> Place {
        let sub = u32::try_from(self.events.len()).expect("no command fits 2^32 changes in memory");
        Place { main: self.begin.revision + 1, sub }
    }
}

/// What a deletion's event says of the key.
pub(crate) fn deleted_entry(key: Bytes, place: Place) -> KeyValue {
    KeyValue { key, mod_revision: place.main, ..KeyValue::default() }
}
