//! What watchers must have seen: every event of their keys, once, in order,
//! across restarts and members; a gap only where history was compacted.

use std::collections::BTreeMap;
use std::sync::Arc;

use proa_etcd_api::mvccpb::Event;

/// What one watcher got, over all the members it was connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// All keys that start with this.
    pub(super) prefix: Vec<u8>,
    /// The revision it began at.
    pub(super) from: i64,
    /// The first revision it has not seen.
    pub(super) next: i64,
    /// Revisions with their events, as they came.
    pub(super) got: Vec<(i64, Vec<Event>)>,
    /// Revisions it was told are compacted: from, and where it went on.
    pub(super) gaps: Vec<(i64, i64)>,
}

/// Holds a watcher against the final history.
///
/// # Errors
/// The first event that is missing, surplus, changed or out of order.
pub(super) fn check(watched: &Watched, events: &BTreeMap<i64, Vec<Event>>) -> Result<(), String> {
    let is_gap = |revision: i64| watched.gaps.iter().any(|(from, to)| (*from..*to).contains(&revision));
    let wanted = events.range(watched.from..watched.next).filter_map(|(revision, events)| {
        let covered =
            |event: &&Event| event.kv.as_ref().is_some_and(|kv| kv.key.starts_with(&watched.prefix));
        let events: Vec<Event> = events.iter().filter(covered).cloned().map(without_past).collect();
        (!events.is_empty() && !is_gap(*revision)).then_some((*revision, events))
    });
    let mut got = watched.got.iter();
    for (revision, want) in wanted {
        match got.next() {
            Some((at, events)) if *at == revision => {
                let events: Vec<Event> = events.iter().cloned().map(without_past).collect();
                if events != want {
                    return Err(format!("a watcher got {events:?} at revision {revision}, not {want:?}"));
                }
            }
            other => {
                let at = other.map(|(at, _)| *at);
                return Err(format!("a watcher got revision {at:?} where {revision} comes next"));
            }
        }
    }
    match got.next() {
        Some((revision, _)) => Err(format!("a watcher got revision {revision}, which it must not see")),
        None => Ok(()),
    }
}

/// Holds what one member announced while it ran against the final history: it
/// skips nothing without saying so.
///
/// # Errors
/// The first revision that is missing or other than in the history.
pub(super) fn check_announced(
    began: i64,
    announced: &[(i64, Arc<Vec<Event>>)],
    events: &BTreeMap<i64, Vec<Event>>,
) -> Result<(), String> {
    let mut last = began;
    for (revision, got) in announced {
        if got.is_empty() {
            // A snapshot replaced the state.
            last = last.max(*revision);
            continue;
        }
        let want = events.range(last + 1..).next();
        match want {
            Some((at, want)) if at == revision && want == got.as_ref() => last = *revision,
            _ => return Err(format!("announced {got:?} after revision {last}, where {want:?} comes next")),
        }
    }
    Ok(())
}

/// The entry before an event is lost with the history it belongs to.
fn without_past(event: Event) -> Event {
    Event { prev_kv: None, ..event }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proa_etcd_api::mvccpb::KeyValue;

    fn event(key: &str, revision: i64) -> Event {
        let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    #[test]
    fn planted_violations_are_found_and_honest_watchers_pass() {
        let one = |revision: i64| (revision, vec![event("a", revision)]);
        let events = BTreeMap::from([one(2), one(3), (4, vec![event("b", 4)]), one(5)]);
        let watched = |got: &[i64], gaps: &[(i64, i64)]| Watched {
            prefix: b"a".to_vec(),
            from: 2,
            next: 6,
            got: got.iter().map(|revision| one(*revision)).collect(),
            gaps: gaps.to_vec(),
        };
        #[rustfmt::skip]
        let cases = [
            ("all",                watched(&[2, 3, 5], &[]),       true),
            ("one is missing",     watched(&[2, 5], &[]),          false),
            ("it was compacted",   watched(&[2, 5], &[(3, 4)]),    true),
            ("the last is missing", watched(&[2, 3], &[]),         false),
            ("twice",              watched(&[2, 3, 3, 5], &[]),    false),
            ("out of order",       watched(&[3, 2, 5], &[]),       false),
            ("of another key",     watched(&[2, 3, 4, 5], &[]),    false),
        ];
        for (name, watched, want) in cases {
            assert_eq!(check(&watched, &events).is_ok(), want, "{name}");
        }
    }

    #[test]
    fn a_member_must_not_skip_what_it_announces() {
        let events: BTreeMap<i64, Vec<Event>> = (2..6).map(|at| (at, vec![event("a", at)])).collect();
        let announced = |revisions: &[i64]| -> Vec<(i64, Arc<Vec<Event>>)> {
            revisions.iter().map(|at| (*at, Arc::new(events[at].clone()))).collect()
        };
        assert!(check_announced(2, &announced(&[3, 4, 5]), &events).is_ok());
        assert!(check_announced(2, &announced(&[3, 5]), &events).is_err());
        let mut replaced = announced(&[3, 5]);
        replaced.insert(1, (4, Arc::default()));
        assert!(check_announced(2, &replaced, &events).is_ok());
    }
}
