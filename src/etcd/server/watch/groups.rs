//! Which watchers want an event: those who watch alike are one group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use proa_etcd_api::etcdserverpb::WatchCreateRequest;
use proa_etcd_api::etcdserverpb::watch_create_request::FilterType;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_api::mvccpb::event::EventType;
use proa_etcd_store::Wants;

/// What a watcher wants to see. Equal interests share every encoded event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interest {
    /// First key; never empty.
    pub key: Bytes,
    /// Where the keys end.
    pub end: End,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletions out.
    pub no_delete: bool,
    /// Send the entry before each event.
    pub prev_kv: bool,
}

/// Where the watched keys end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// After the first.
    Single,
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Open,
}

/// The range ends before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyRange;

impl Interest {
    /// What a create request asks for.
    ///
    /// Source: etcd's watch server: an empty key is the smallest one, the
    /// range end `\0` has no end.
    ///
    /// # Errors
    /// [`EmptyRange`].
    pub fn new(request: &WatchCreateRequest) -> Result<Self, EmptyRange> {
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        let end = match request.range_end.as_ref() {
            [] => End::Single,
            [0] => End::Open,
            end if end <= key.as_ref() => return Err(EmptyRange),
            _ => End::Before(request.range_end.clone()),
        };
        let filters = |wanted: FilterType| request.filters().any(|filter| filter == wanted);
        Ok(Self {
            // Requests arrive in large shared buffers; a watcher lives for long.
            key: Bytes::copy_from_slice(&key),
            end: match end {
                End::Before(end) => End::Before(Bytes::copy_from_slice(&end)),
                end => end,
            },
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            prev_kv: request.prev_kv,
        })
    }

    /// Whether events of this type pass the filters.
    pub fn passes(&self, kind: EventType) -> bool {
        match kind {
            EventType::Put => !self.no_put,
            EventType::Delete => !self.no_delete,
        }
    }

    /// The event as watchers of this interest get it.
    pub fn cut(&self, event: &Event) -> Event {
        let prev_kv = if self.prev_kv { event.prev_kv.clone() } else { None };
        Event { r#type: event.r#type, kv: event.kv.clone(), prev_kv }
    }
}

impl Wants for Interest {
    fn covers(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => self.key.as_ref() == key,
            End::Before(end) => self.key.as_ref() <= key && key < end.as_ref(),
            End::Open => self.key.as_ref() <= key,
        }
    }

    fn with_previous(&self) -> bool {
        self.prev_kv
    }
}

/// Watchers by what they want. `W` is a watcher's number.
#[derive(Debug)]
pub struct Groups<W> {
    /// Interests in a single key, by that key.
    single: HashMap<Bytes, BTreeMap<Interest, BTreeSet<W>>>,
    /// All others. They are few kinds in practice, and are tried one by one.
    ranges: BTreeMap<Interest, BTreeSet<W>>,
}

impl<W> Default for Groups<W> {
    fn default() -> Self {
        Self { single: HashMap::new(), ranges: BTreeMap::new() }
    }
}

impl<W: Copy + Ord> Groups<W> {
    /// Adds a watcher.
    pub fn insert(&mut self, interest: &Interest, watcher: W) {
        let groups = match interest.end {
            End::Single => self.single.entry(interest.key.clone()).or_default(),
            End::Before(_) | End::Open => &mut self.ranges,
        };
        groups.entry(interest.clone()).or_default().insert(watcher);
    }

    /// Takes a watcher out; one that is not there is no mistake.
    pub fn remove(&mut self, interest: &Interest, watcher: W) {
        let groups = match interest.end {
            End::Single => match self.single.get_mut(&interest.key) {
                Some(groups) => groups,
                None => return,
            },
            End::Before(_) | End::Open => &mut self.ranges,
        };
        if let Some(watchers) = groups.get_mut(interest) {
            watchers.remove(&watcher);
            if watchers.is_empty() {
                groups.remove(interest);
            }
        }
        if interest.end == End::Single && self.single.get(&interest.key).is_some_and(BTreeMap::is_empty) {
            self.single.remove(&interest.key);
        }
    }

    /// For each group that wants some of `events`: its watchers and those
    /// events by their place in the list, in order.
    pub fn wanting<'a>(&'a self, events: &[Event]) -> BTreeMap<&'a Interest, (&'a BTreeSet<W>, Vec<usize>)> {
        let mut wanting: BTreeMap<&Interest, (&BTreeSet<W>, Vec<usize>)> = BTreeMap::new();
        for (place, event) in events.iter().enumerate() {
            let Some(kv) = &event.kv else { continue };
            let single = self.single.get(&kv.key).into_iter().flatten();
            let ranges = self.ranges.iter().filter(|(interest, _)| interest.covers(&kv.key));
            for (interest, watchers) in single.chain(ranges) {
                if interest.passes(event.r#type()) {
                    wanting.entry(interest).or_insert((watchers, Vec::new())).1.push(place);
                }
            }
        }
        wanting
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proa_etcd_api::mvccpb::KeyValue;
    use proptest::prelude::*;

    fn request(key: &[u8], range_end: &[u8]) -> WatchCreateRequest {
        WatchCreateRequest {
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(range_end),
            ..WatchCreateRequest::default()
        }
    }

    fn event(key: &[u8], kind: EventType) -> Event {
        let kv = KeyValue { key: Bytes::copy_from_slice(key), ..KeyValue::default() };
        Event { r#type: kind as i32, kv: Some(kv.clone()), prev_kv: Some(kv) }
    }

    #[test]
    fn ranges_are_read_as_etcd_does() {
        #[rustfmt::skip]
        let rows: [(&str, &str, &str, bool); 7] = [
            ("a", "",   "a",  true),
            ("a", "",   "aa", false),
            ("a", "c",  "bb", true),
            ("a", "c",  "c",  false),
            ("a", "\0", "z",  true),
            ("",  "\0", "\0", true),
            ("b", "\0", "a",  false),
        ];
        for (key, end, asked, want) in rows {
            assert_eq!(
                Interest::new(&request(key.as_bytes(), end.as_bytes())).unwrap().covers(asked.as_bytes()),
                want,
                "{key:?} {end:?} {asked:?}"
            );
        }
        assert_eq!(Interest::new(&request(b"b", b"a")), Err(EmptyRange));
    }

    #[test]
    fn filters_and_previous_entries_are_per_interest() {
        let mut asked = request(b"a", b"");
        asked.filters = vec![FilterType::Noput as i32];
        let interest = Interest::new(&asked).unwrap();
        assert!(!interest.passes(EventType::Put) && interest.passes(EventType::Delete));
        assert_eq!(interest.cut(&event(b"a", EventType::Delete)).prev_kv, None);
    }

    proptest! {
        #[test]
        fn every_watcher_gets_exactly_what_it_covers(
            watchers in proptest::collection::vec((0u8..4, 0u8..5), 0..12),
            keys in proptest::collection::vec(0u8..4, 0..6),
            removed in 0usize..12,
        ) {
            let mut groups = Groups::default();
            let mut kept = Vec::new();
            for (number, (key, end)) in watchers.into_iter().enumerate() {
                let end: &[u8] = if end == 0 { &[] } else { &[end] };
                let Ok(interest) = Interest::new(&request(&[key], end)) else { continue };
                groups.insert(&interest, number);
                kept.push((number, interest));
            }
            if removed < kept.len() {
                let (number, interest) = kept.remove(removed);
                groups.remove(&interest, number);
            }
            let events: Vec<Event> = keys.iter().map(|key| event(&[*key], EventType::Put)).collect();
            let wanting = groups.wanting(&events);
            for (number, interest) in kept {
                let want: Vec<usize> =
                    (0..keys.len()).filter(|place| interest.covers(&[keys[*place]])).collect();
                let got = wanting.get(&interest).map_or(Vec::new(), |(watchers, places)| {
                    if watchers.contains(&number) { places.clone() } else { Vec::new() }
                });
                prop_assert_eq!(got, want);
            }
        }
    }
}
