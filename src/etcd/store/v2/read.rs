//! Reads of the v2 tree.

use super::head::Head;
use super::keys;
use crate::machine::Corrupt;
use crate::view::View;
use proa_etcd_api::command::{V2Event, V2Node, v2_event::Action};
use proa_etcd_api::v2::{V2Code, V2Error, path};
use prost::Message as _;

pub(super) const READABLE: &str = "every entry under V was written by this crate";
const SECOND_NS: i64 = 1_000_000_000;

/// The directories that are always there and never change.
///
/// Source: etcd's namespaces, `/0` for the cluster and `/1` for keys.
pub(super) fn is_root(at: &[u8]) -> bool {
    matches!(at, b"/" | b"/0" | b"/1")
}

/// How far the tree of this view is; an empty view is a new tree.
///
/// # Errors
/// [`Corrupt`] if the head is not as it was written, or lost.
pub fn head(view: &dyn View) -> Result<Head, Corrupt> {
    match view.get(keys::HEAD) {
        Some(stored) => Head::decode(&stored).ok_or(Corrupt { what: "v2 head", key: keys::HEAD.to_vec() }),
        // The first change stores a head: nodes without one have lost it.
        None => match view.first(keys::ALL, keys::ALL_END) {
            Some(_) => Err(Corrupt { what: "v2 head", key: keys::HEAD.to_vec() }),
            None => Ok(Head::EMPTY),
        },
    }
}

/// When the next node ends, in nanoseconds since 1970.
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn next_expiry(view: &dyn View) -> Option<i64> {
    let (key, _) = view.first(keys::EXPIRIES, keys::EXPIRIES_END)?;
    Some(keys::split_expiry(&key).expect(READABLE).0)
}

/// Whole seconds until `expires_ns`, begun ones counted; 0 or less when that
/// is over, 0 for what never ends.
///
/// Source: etcd's `expirationAndTTL`.
pub fn seconds_left(expires_ns: i64, now_ns: i64) -> i64 {
    if expires_ns == 0 {
        return 0;
    }
    let left_ns = expires_ns.saturating_sub(now_ns);
    left_ns / SECOND_NS + i64::from(left_ns % SECOND_NS > 0)
}

/// Whether a directory is at this path.
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn is_dir(view: &dyn View, at: &[u8]) -> bool {
    load(view, at).is_some_and(|node| node.dir)
}

/// Reads a node; a directory with its children, `recursive` with all below.
/// Hidden nodes (`_x`) are told only to who asks for them by name.
///
/// # Errors
/// [`V2Code::KeyNotFound`], [`V2Code::NotDir`].
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn get(view: &dyn View, at: &[u8], recursive: bool, now_ns: i64) -> Result<V2Event, V2Error> {
    let index = head(view).expect(READABLE).index;
    let mut node = with_ttl(find(view, index, at)?, now_ns);
    if node.dir {
        fill(view, &mut node, recursive, now_ns);
    }
    Ok(V2Event { action: Action::Get as i32, node: Some(node), ..V2Event::default() })
}

/// Recursion is bounded by [`path::MAX_DEPTH`].
fn fill(view: &dyn View, dir: &mut V2Node, recursive: bool, now_ns: i64) {
    let shown = children(view, &dir.key).filter(|child| !path::name(&child.key).starts_with(b"_"));
    dir.nodes = shown.map(|child| with_ttl(child, now_ns)).collect();
    for child in dir.nodes.iter_mut().filter(|child| recursive && child.dir) {
        fill(view, child, recursive, now_ns);
    }
}

/// A node as answers tell it.
pub(super) fn with_ttl(node: V2Node, now_ns: i64) -> V2Node {
    V2Node { ttl_s: seconds_left(node.expires_ns, now_ns), changed_below: 0, ..node }
}

/// A node by its path.
pub(super) fn load(view: &dyn View, at: &[u8]) -> Option<V2Node> {
    if is_root(at) {
        return Some(V2Node { key: at.to_vec().into(), dir: true, ..V2Node::default() });
    }
    view.get(&keys::node(at)).map(|stored| decode(at, stored))
}

/// A node by its path, or why there is none.
pub(super) fn find(view: &dyn View, index: u64, at: &[u8]) -> Result<V2Node, V2Error> {
    if let Some(node) = load(view, at) {
        return Ok(node);
    }
    // Told is the first part of the path that is missing, or is no directory.
    for step in path::steps(at) {
        let (code, cause) = match load(view, step) {
            Some(node) if node.dir => continue,
            Some(_) => (V2Code::NotDir, step),
            None => (V2Code::KeyNotFound, step),
        };
        return Err(V2Error { code, cause: cause.to_vec(), index });
    }
    unreachable!("the whole path is the last step, and it is missing")
}

/// Whether nothing can have happened to a path, or below it, at `from` or
/// later: judged by the node itself, or by the last directory on the way to
/// it that exists. It never says so wrongly; that it does not say so means
/// that something in that directory has changed.
pub(super) fn is_quiet_since(view: &dyn View, at: &[u8], from: u64) -> bool {
    let known = path::steps(at).map_while(|step| load(view, step)).last();
    known.is_some_and(|node| match (is_root(&node.key), node.dir) {
        // Everything changes the root; nobody keeps count.
        (true, _) => false,
        (false, true) => node.changed_below < from,
        (false, false) => node.modified_index < from,
    })
}

/// The children of a directory, by name.
pub(super) fn children<'a>(view: &'a dyn View, dir: &[u8]) -> impl Iterator<Item = V2Node> + use<'a> {
    let (from, end) = keys::children(dir);
    view.scan(&from, &end).map(|(key, stored)| decode(keys::split_node(&key).expect(READABLE), stored))
}

fn decode(at: &[u8], stored: Vec<u8>) -> V2Node {
    let node = V2Node::decode(bytes::Bytes::from(stored)).expect(READABLE);
    V2Node { key: at.to_vec().into(), ..node }
}
