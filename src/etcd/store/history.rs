//! What happened, for watchers that come late.

use crate::keys::{self, Kind, Place};
use crate::record::Head;
use crate::revision::deleted_entry;
use crate::view::View;
use crate::walk::{self, Unread};
use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::mvccpb::event::EventType;
use proa_etcd_api::mvccpb::{Event, KeyValue};

/// A piece of the past.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Revisions with wanted events, ascending, each complete.
    pub revisions: Vec<(i64, Vec<Event>)>,
    /// The first revision that was not looked at.
    pub next: i64,
}

/// What somebody wants to know of the past.
pub trait Wants {
    /// Whether events of this key.
    fn covers(&self, key: &[u8]) -> bool;

    /// Whether what was there before them.
    fn with_previous(&self) -> bool;
}

/// One that is no more than a choice of keys, and wants everything of them.
impl<F: Fn(&[u8]) -> bool> Wants for F {
    fn covers(&self, key: &[u8]) -> bool {
        self(key)
    }

    fn with_previous(&self) -> bool {
        true
    }
}

/// The events of the revisions from `from` to `to`, both inclusive, that
/// are wanted by their key.
///
/// At least one revision is looked at, and then as many as fit in `limit`
/// changes, wanted or not: that bounds the work, and a revision is never
/// split. Go on at [`History::next`] until it is beyond `to`. `prev_kv` is set
/// where there was an entry, if it is wanted, but not for events of the compact
/// revision itself, whose past is given up.
///
/// # Errors
/// [`EtcdError::Compacted`] if `from` lies before the compact revision; the
/// events of that revision itself are still there, as in etcd.
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn events(
    view: &dyn View,
    head: Head,
    from: i64,
    to: i64,
    limit: usize,
    wants: &dyn Wants,
) -> Result<History, EtcdError> {
    if from < head.compact_revision {
        return Err(EtcdError::Compacted);
    }
    let start = keys::change(Place { main: from.max(0), sub: 0 });
    let end = keys::change(Place { main: to.min(head.revision).saturating_add(1).max(0), sub: 0 });
    let mut history = History { revisions: Vec::new(), next: to.saturating_add(1) };
    let mut last = from;
    for (seen, entry) in view.scan(&start, &end).enumerate() {
        let (place, kind, key) = walk::split_change(&entry);
        if place.main > last && seen >= limit {
            history.next = place.main;
            break;
        }
        last = place.main;
        if !wants.covers(key) {
            continue;
        }
        let event = read(view, head, place, kind, key, wants.with_previous());
        match history.revisions.last_mut() {
            Some((revision, events)) if *revision == place.main => events.push(event),
            Some(_) | None => history.revisions.push((place.main, vec![event])),
        }
    }
    Ok(history)
}

fn read(view: &dyn View, head: Head, place: Place, kind: Kind, key: &[u8], with_previous: bool) -> Event {
    let stored_key = keys::version(key, place, kind);
    let end = keys::after_versions(&keys::versions_of(key));
    let mut versions = view.scan(&stored_key, &end);
    let (found, stored) = versions.next().expect("a change above the compact revision has its version");
    assert_eq!(found, stored_key, "a change above the compact revision has its version");
    let key = Bytes::copy_from_slice(key);
    let (r#type, kv) = match kind {
        Kind::Put | Kind::PutApart => {
            (EventType::Put, Unread::new(key.clone(), place, kind, stored).whole(view))
        }
        Kind::Tombstone => (EventType::Delete, deleted_entry(key.clone(), place)),
    };
    let has_past = with_previous && place.main > head.compact_revision && kv.create_revision != place.main;
    // The one before the revision, which may hold several of a key.
    let is_older = |(stored, _): &(Vec<u8>, Vec<u8>)| walk::split_version(stored).1.main < place.main;
    let before = if has_past { versions.find(is_older) } else { None };
    let prev_kv = before.and_then(|(key_before, stored)| entry_before(view, &key, &key_before, stored));
    Event { r#type: r#type as i32, kv: Some(kv), prev_kv }
}

fn entry_before(view: &dyn View, key: &Bytes, stored_key: &[u8], stored: Vec<u8>) -> Option<KeyValue> {
    let (_, place, kind) = walk::split_version(stored_key);
    (kind != Kind::Tombstone).then(|| Unread::new(key.clone(), place, kind, stored).whole(view))
}
