//! How many keys there are, for who asks every few seconds.
//!
//! The store does not know: it would have to count all keys at each start for
//! the few who want the number. So they are counted when it is asked for the
//! first time, and what happens after that is added up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proa_etcd_api::mvccpb::Event;
use proa_etcd_api::mvccpb::event::EventType;

/// Keys by the events that came since they were counted.
#[derive(Debug, Default)]
pub struct KeyCount(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How often everything was replaced: a count that was begun before is of another store.
    life: u64,
    known: Known,
}

/// A count that is under way.
#[derive(Debug)]
pub struct Counting {
    life: u64,
}

#[derive(Debug, Default)]
enum Known {
    /// Nobody asked yet, or everything was replaced since.
    #[default]
    Unknown,
    /// They are being counted as of a revision that is not known yet: what each
    /// revision changes meanwhile.
    Counting(Vec<(i64, i64)>),
    /// So many as of the events that were noted; those up to `at` are in it.
    Sum { at: i64, keys: i64 },
}

impl KeyCount {
    /// The number, if it is known.
    pub fn get(&self) -> Option<i64> {
        match self.state().known {
            Known::Sum { keys, .. } => Some(keys),
            Known::Unknown | Known::Counting(_) => None,
        }
    }

    /// Has the caller count, as of a state that it looks at after this, if nobody did;
    /// then [`KeyCount::counted`] or [`KeyCount::forget`] must follow.
    pub fn begin(&self) -> Option<Counting> {
        let mut state = self.state();
        if !matches!(state.known, Known::Unknown) {
            return None;
        }
        state.known = Known::Counting(Vec::new());
        Some(Counting { life: state.life })
    }

    /// There were `keys` as of revision `at`.
    pub fn counted(&self, counting: Counting, at: i64, keys: i64) {
        let mut state = self.state();
        if counting.life != state.life {
            return;
        }
        if let Known::Counting(changes) = &state.known {
            let later: i64 = changes.iter().filter(|(revision, _)| *revision > at).map(|(_, by)| by).sum();
            state.known = Known::Sum { at, keys: keys + later };
        }
    }

    /// What was known counts no more.
    pub fn forget(&self) {
        let mut state = self.state();
        *state = State { life: state.life + 1, known: Known::Unknown };
    }

    /// Notes the events of a revision.
    pub fn note(&self, revision: i64, events: &[Event]) {
        let by = || events.iter().map(change).sum::<i64>();
        match &mut self.state().known {
            Known::Unknown => {}
            Known::Counting(changes) => changes.push((revision, by())),
            Known::Sum { at, keys } if revision > *at => *keys += by(),
            Known::Sum { .. } => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(event: &Event) -> i64 {
    match event.r#type() {
        EventType::Delete => -1,
        // The first version of a key is what makes it.
        EventType::Put => i64::from(event.kv.as_ref().is_some_and(|kv| kv.version == 1)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proa_etcd_api::mvccpb::KeyValue;

    fn put(version: i64) -> Event {
        Event { kv: Some(KeyValue { version, ..KeyValue::default() }), ..Event::default() }
    }

    #[test]
    fn what_happens_while_they_are_counted_counts_once() {
        let delete = Event { r#type: EventType::Delete as i32, ..put(0) };
        let keys = KeyCount::default();
        keys.note(2, &[put(1)]);
        let counting = keys.begin().unwrap();
        assert!(keys.begin().is_none());
        // The view that is counted has this one already, and not the next two.
        keys.note(3, &[put(1), put(2)]);
        keys.note(4, &[put(1), put(1)]);
        keys.note(5, std::slice::from_ref(&delete));
        assert_eq!(keys.get(), None);
        keys.counted(counting, 3, 10);
        assert_eq!(keys.get(), Some(11));
        // Of a revision that was counted, and told late.
        keys.note(3, &[put(1)]);
        keys.note(6, &[delete.clone(), put(1), delete]);
        assert_eq!(keys.get(), Some(10));
        keys.forget();
        // Everything is replaced while it is counted, and the count begins anew.
        let before = keys.begin().unwrap();
        keys.forget();
        let after = keys.begin().unwrap();
        keys.counted(before, 3, 10);
        assert_eq!(keys.get(), None);
        keys.counted(after, 9, 4);
        assert_eq!(keys.get(), Some(4));
    }
}
