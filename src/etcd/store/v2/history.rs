//! What happened to the v2 tree, for who comes late.

use super::head::Head;
use super::keys;
use super::read::READABLE;
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
    if from < head.floor {
        let cause = format!("the requested history has been cleared [{}/{from}]", head.floor);
        return Err(V2Error {
            code: V2Code::EventIndexCleared,
            cause: cause.into_bytes(),
            index: head.index,
        });
    }
    let mut past = Past { events: Vec::new(), next: from.max(head.index + 1) };
    for (seen, (key, stored)) in view.scan(&keys::event(from), keys::HISTORY_END).enumerate() {
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
