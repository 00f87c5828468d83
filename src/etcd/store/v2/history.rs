//! What happened to the v2 tree, for who comes late.

use super::head::Head;
use super::keys;
use super::read::{READABLE, is_quiet_since};
use crate::view::{Overlay, View, Writes};
use proa_etcd_api::command::{V2Event, v2_event::Action};
use proa_etcd_api::v2::{V2Code, V2Error, path};
use prost::Message as _;

/// Bytes of events that are kept: an eighth of the default quota of 2 GiB.
/// An event of a 32-byte key whose old and new values have 100 bytes takes
/// about 260: this is a million of them, where etcd keeps a thousand.
pub const HISTORY_BYTES: u64 = 256 << 20;
/// Events dropped at once when there are too many: the cost of looking for
/// the oldest is then shared by as many changes.
const DROPPED_AT_ONCE: usize = 64;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// Whole and clean.
    pub path: Vec<u8>,
    /// What is below counts as well.
    pub recursive: bool,
}

/// Which events count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Of what happened before the question: hidden nodes count, as in etcd's
    /// `EventHistory`.
    Past,
    /// Of what happens while somebody waits: nodes hidden below the watched
    /// one do not.
    Live,
}

impl Watch {
    /// Whether an event is what is waited for.
    ///
    /// Besides the node itself and what is below: the end of a directory is
    /// the end of everything in it, also of what is watched there.
    pub fn concerns(&self, event: &V2Event, rules: Rules) -> bool {
        let Some(node) = &event.node else { return false };
        if *node.key == *self.path {
            return true;
        }
        let hidden = |below: &[u8]| rules == Rules::Live && below.windows(2).any(|pair| pair == b"/_");
        if self.recursive && path::below(&self.path, &node.key).is_some_and(|below| !hidden(below)) {
            return true;
        }
        ends_directory(event) && path::below(&node.key, &self.path).is_some()
    }
}

fn ends_directory(event: &V2Event) -> bool {
    matches!(event.action(), Action::Delete | Action::Expire)
        && event.prev_node.as_ref().is_some_and(|node| node.dir)
}

/// A piece of the past.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The events that were waited for, by index, which is the modified index
    /// of the node.
    pub events: Vec<V2Event>,
    /// The first index that was not looked at.
    pub next: u64,
}

/// The events from index `from` to the newest that `watch` waits for.
///
/// At most `looked_at` events are looked at and `wanted` are returned; go on
/// at [`Past::next`] until it is beyond the head's index. Those up to `asked`,
/// the index at which the watch began, are judged by [`Rules::Past`].
///
/// # Errors
/// [`V2Code::EventIndexCleared`] if what is asked for is not kept any more.
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn past(
    view: &dyn View,
    watch: &Watch,
    from: u64,
    asked: u64,
    looked_at: usize,
    wanted: usize,
) -> Result<Past, V2Error> {
    let head = super::head(view).expect(READABLE);
    // What is not kept was of others if nothing has changed here since.
    if from < head.floor && !is_quiet_since(view, &watch.path, from) {
        let cause = format!("the requested history has been cleared [{}/{from}]", head.floor);
        return Err(V2Error {
            code: V2Code::EventIndexCleared,
            cause: cause.into_bytes(),
            index: head.index,
        });
    }
    let mut past = Past { events: Vec::new(), next: from.max(head.index + 1) };
    let kept = keys::event(from.max(head.floor));
    for (seen, (key, stored)) in view.scan(&kept, keys::HISTORY_END).enumerate() {
        let index = keys::split_event(&key).expect(READABLE);
        if seen >= looked_at || past.events.len() >= wanted {
            past.next = index;
            break;
        }
        let event = V2Event::decode(bytes::Bytes::from(stored)).expect(READABLE);
        let rules = if index <= asked { Rules::Past } else { Rules::Live };
        if watch.concerns(&event, rules) {
            past.events.push(event);
        }
    }
    Ok(past)
}

/// Keeps an event. A refresh is not kept, nobody is to hear of it.
pub(super) fn keep(writes: &mut Writes, head: &mut Head, event: &V2Event) {
    if event.refresh {
        return;
    }
    let (key, stored) = (keys::event(head.index), event.encode_to_vec());
    head.history_bytes += (key.len() + stored.len()) as u64;
    writes.put(key, stored);
}

/// Drops the oldest events when there are too many bytes of them.
pub(super) fn bound(view: &dyn View, writes: &mut Writes, head: &mut Head, most_bytes: u64) {
    if head.history_bytes <= most_bytes {
        return;
    }
    let overlay = Overlay { base: view, writes };
    // The newest always stays.
    let end = keys::event(head.index);
    let oldest: Vec<_> = overlay.scan(&keys::event(head.floor), &end).take(DROPPED_AT_ONCE).collect();
    for (key, stored) in oldest {
        head.floor = keys::split_event(&key).expect(READABLE) + 1;
        head.history_bytes -= (key.len() + stored.len()) as u64;
        writes.delete(key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::view::MemView;
    use proa_etcd_api::command::{V2Write, v2_write::Kind};

    struct Tree {
        view: MemView,
        head: Head,
    }

    impl Tree {
        fn new() -> Self {
            Self { view: MemView::default(), head: Head::EMPTY }
        }

        fn write(&mut self, kind: Kind, path: &str) -> u64 {
            let path = path.as_bytes().to_vec().into();
            let request = V2Write { kind: kind as i32, path, recursive: true, ..V2Write::default() };
            let mut writes = Writes::default();
            super::super::write(&self.view, &mut writes, &mut self.head, &request).unwrap();
            self.view.apply(&writes);
            self.head.index
        }

        /// Drops every event but the newest.
        fn forget(&mut self) {
            loop {
                let mut writes = Writes::default();
                let before = self.head.floor;
                bound(&self.view, &mut writes, &mut self.head, 0);
                writes.put(keys::HEAD.to_vec(), self.head.encode());
                self.view.apply(&writes);
                if self.head.floor == before {
                    return;
                }
            }
        }

        fn past(&self, path: &str, from: u64) -> Result<Vec<u64>, V2Error> {
            let watch = Watch { path: path.as_bytes().to_vec(), recursive: true };
            let past = past(&self.view, &watch, from, self.head.index, 1000, 1000)?;
            Ok(past.events.iter().map(|event| event.node.as_ref().unwrap().modified_index).collect())
        }
    }

    #[test]
    fn only_those_whose_events_are_gone_are_cut_off() {
        let mut tree = Tree::new();
        let first = tree.write(Kind::Set, "/1/calm/a");
        let calm = tree.write(Kind::Set, "/1/calm/b") + 1;
        let gone = tree.write(Kind::Set, "/1/busy/gone");
        tree.write(Kind::Delete, "/1/busy/gone");
        for _ in 0..200 {
            tree.write(Kind::Set, "/1/busy/x");
        }
        tree.forget();
        assert!(tree.head.floor > calm, "everything about the calm ones is dropped");
        for path in ["/1/calm", "/1/calm/a", "/1/calm/b", "/1/calm/never/was"] {
            assert_eq!(tree.past(path, calm), Ok(Vec::new()), "{path}");
        }
        for (path, from) in [
            ("/1/calm", first), // `b` came later
            ("/1/calm/b", first),
            ("/1/busy", calm),
            ("/1/busy/gone", gone), // it was there, and it went
            ("/1/busy/x", calm),
            ("/1", calm),
            ("/1/other", calm), // perhaps it was there
        ] {
            assert_eq!(tree.past(path, from).unwrap_err().code, V2Code::EventIndexCleared, "{path}");
        }
        let next = tree.write(Kind::Set, "/1/calm/a");
        assert_eq!(tree.past("/1/calm/b", calm), Ok(Vec::new()));
        assert_eq!(tree.past("/1/calm/a", next), Ok(vec![next]));
    }

    #[test]
    fn the_oldest_events_go_and_the_bytes_are_counted() {
        let mut tree = Tree::new();
        for _ in 0..300 {
            tree.write(Kind::Set, "/1/x");
        }
        let stored = |tree: &Tree| -> u64 {
            tree.view.scan(b"Vh", b"Vi").map(|(key, value)| (key.len() + value.len()) as u64).sum()
        };
        assert_eq!(stored(&tree), tree.head.history_bytes);
        let mut writes = Writes::default();
        let floor = tree.head.floor;
        bound(&tree.view, &mut writes, &mut tree.head, 1_000);
        tree.view.apply(&writes);
        assert_eq!(stored(&tree), tree.head.history_bytes);
        assert_eq!((floor, tree.head.floor), (1, 4 + DROPPED_AT_ONCE as u64), "the first event has index 4");
        tree.forget();
        assert_eq!((stored(&tree), tree.head.floor), (tree.head.history_bytes, tree.head.index));
    }
}
