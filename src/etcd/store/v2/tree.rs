//! Changes of the v2 tree.

use super::head::Head;
use super::history::{self, HISTORY_BYTES};
use super::keys;
use super::read::{self, find, is_root, load, with_ttl};
use crate::view::{Overlay, View, Writes};
use bytes::Bytes;
use proa_etcd_api::command::{V2Event, V2Expire, V2Node, V2Write, v2_event::Action, v2_write::Kind};
use proa_etcd_api::v2::{V2Code, V2Error, path};
use prost::Message as _;

/// Nodes that one command ends: no command may hold the others up for long.
/// The leader asks again as long as there are more.
const EXPIRED_AT_ONCE: usize = 500;

/// Makes one change; a refusal changes nothing.
pub(crate) fn write(
    view: &dyn View,
    writes: &mut Writes,
    head: &mut Head,
    request: &V2Write,
) -> Result<V2Event, V2Error> {
    let mut tree = Tree { view, writes, head: *head, now_ns: request.now_ns };
    let event = match request.kind() {
        Kind::Set => tree.set(request),
        Kind::Create => tree.create(request, path::clean(&request.path)),
        Kind::CreateInOrder => {
            let at = format!("/{:020}", head.index + 1);
            tree.create(request, path::clean(&[&request.path, at.as_bytes()].concat()))
        }
        Kind::Update => tree.update(request),
        Kind::CompareAndSwap => tree.compare_and_swap(request),
        Kind::Delete => tree.delete(request),
        Kind::CompareAndDelete => tree.compare_and_delete(request),
    }?;
    *head = tree.finish(&event);
    Ok(event)
}

/// Ends the nodes whose time is over, the earliest first, but no more than
/// [`EXPIRED_AT_ONCE`]; what happened.
pub(crate) fn expire(
    view: &dyn View,
    writes: &mut Writes,
    head: &mut Head,
    request: &V2Expire,
) -> Vec<V2Event> {
    let mut events = Vec::new();
    while events.len() < EXPIRED_AT_ONCE {
        let mut tree = Tree { view, writes, head: *head, now_ns: request.now_ns };
        let Some(event) = tree.expire_first() else { break };
        *head = tree.finish(&event);
        events.push(event);
    }
    events
}

/// The tree in the middle of one change.
struct Tree<'a> {
    view: &'a dyn View,
    writes: &'a mut Writes,
    head: Head,
    now_ns: i64,
}

impl Tree<'_> {
    fn now(&self) -> Overlay<'_> {
        Overlay { base: self.view, writes: self.writes }
    }

    fn next_index(&self) -> u64 {
        self.head.index + 1
    }

    fn refusal(&self, code: V2Code, cause: &[u8]) -> V2Error {
        V2Error { code, cause: cause.to_vec(), index: self.head.index }
    }

    fn changeable(&self, at: &[u8]) -> Result<(), V2Error> {
        if is_root(at) { Err(self.refusal(V2Code::RootReadOnly, b"/")) } else { Ok(()) }
    }

    fn find(&self, at: &[u8]) -> Result<V2Node, V2Error> {
        find(&self.now(), self.head.index, at)
    }

    /// Records what was done.
    fn finish(mut self, event: &V2Event) -> Head {
        let mut head = self.head;
        head.index += 1;
        if !event.refresh {
            self.mark_directories(event, head.index);
        }
        history::keep(self.writes, &mut head, event);
        history::bound(self.view, self.writes, &mut head, HISTORY_BYTES);
        self.writes.put(keys::HEAD.to_vec(), head.encode());
        head
    }

    /// Notes in every directory around a node that something happened there:
    /// by that a waiter knows that it missed nothing when history is dropped.
    fn mark_directories(&mut self, event: &V2Event, index: u64) {
        let Some(node) = &event.node else { return };
        let around = if node.dir { &node.key[..] } else { path::parent(&node.key) };
        for step in path::steps(around).filter(|step| !is_root(step)) {
            if let Some(dir) = load(&self.now(), step) {
                self.store(&V2Node { changed_below: index, ..dir });
            }
        }
    }

    fn set(&mut self, request: &V2Write) -> Result<V2Event, V2Error> {
        let at = path::clean(&request.path);
        let old = match self.find(&at) {
            Ok(old) => Some(old),
            Err(missing) if missing.code == V2Code::KeyNotFound && !request.refresh => None,
            Err(error) => return Err(error),
        };
        self.changeable(&at)?;
        if old.as_ref().is_some_and(|old| old.dir) {
            return Err(self.refusal(V2Code::NotFile, &at));
        }
        let value = match &old {
            Some(old) if request.refresh => old.value.clone().unwrap_or_default(),
            Some(_) | None => request.value.clone(),
        };
        let prev_node = old.map(|old| with_ttl(old, self.now_ns));
        let node = self.put_new(&at, request, value)?;
        let refresh = request.refresh;
        Ok(V2Event { action: Action::Set as i32, node: Some(node), prev_node, refresh })
    }

    fn create(&mut self, request: &V2Write, at: Vec<u8>) -> Result<V2Event, V2Error> {
        self.changeable(&at)?;
        if load(&self.now(), &at).is_some() {
            return Err(self.refusal(V2Code::NodeExist, &at));
        }
        let node = self.put_new(&at, request, request.value.clone())?;
        Ok(V2Event { action: Action::Create as i32, node: Some(node), ..V2Event::default() })
    }

    /// Writes a node as if none had been there, after the directories it lies in.
    fn put_new(&mut self, at: &[u8], request: &V2Write, value: Bytes) -> Result<V2Node, V2Error> {
        let index = self.next_index();
        let mut above = path::parent(at);
        let mut missing = Vec::new();
        loop {
            match load(&self.now(), above) {
                Some(dir) if dir.dir => break,
                Some(_) => return Err(self.refusal(V2Code::NotDir, above)),
                None => missing.push(above.to_vec()),
            }
            above = path::parent(above);
        }
        let dir = |key: Vec<u8>| V2Node {
            key: key.into(),
            dir: true,
            created_index: index,
            modified_index: index,
            ..V2Node::default()
        };
        for key in missing {
            self.store(&dir(key));
        }
        if let Some(old) = load(&self.now(), at) {
            self.forget_expiry(&old);
        }
        let node = V2Node {
            value: (!request.dir).then_some(value),
            dir: request.dir,
            expires_ns: request.expires_ns,
            ..dir(at.to_vec())
        };
        self.store(&node);
        Ok(with_ttl(node, self.now_ns))
    }

    fn update(&mut self, request: &V2Write) -> Result<V2Event, V2Error> {
        let at = path::clean(&request.path);
        self.changeable(&at)?;
        let old = self.find(&at)?;
        if old.dir && !request.value.is_empty() {
            return Err(self.refusal(V2Code::NotFile, &at));
        }
        Ok(self.overwrite(Action::Update, old, request))
    }

    fn compare_and_swap(&mut self, request: &V2Write) -> Result<V2Event, V2Error> {
        let at = path::clean(&request.path);
        self.changeable(&at)?;
        let old = self.compared(&at, request)?;
        Ok(self.overwrite(Action::CompareAndSwap, old, request))
    }

    /// A new value and a new end for a node that stays the same one.
    fn overwrite(&mut self, action: Action, old: V2Node, request: &V2Write) -> V2Event {
        let index = self.next_index();
        let value = match &old.value {
            Some(value) if request.refresh => Some(value.clone()),
            Some(_) => Some(request.value.clone()),
            None => None,
        };
        self.forget_expiry(&old);
        let node = V2Node {
            value,
            // The index of a directory is that of its making, though the
            // answer says otherwise. Source: etcd's `node.Write`.
            modified_index: if old.dir { old.modified_index } else { index },
            expires_ns: request.expires_ns,
            ..old.clone()
        };
        self.store(&node);
        let node = with_ttl(V2Node { modified_index: index, ..node }, self.now_ns);
        V2Event {
            action: action as i32,
            node: Some(node),
            prev_node: Some(with_ttl(old, self.now_ns)),
            refresh: request.refresh,
        }
    }

    fn delete(&mut self, request: &V2Write) -> Result<V2Event, V2Error> {
        let at = path::clean(&request.path);
        self.changeable(&at)?;
        let old = self.find(&at)?;
        if old.dir && !(request.dir || request.recursive) {
            return Err(self.refusal(V2Code::NotFile, &at));
        }
        if old.dir && !request.recursive && read::children(&self.now(), &at).next().is_some() {
            return Err(self.refusal(V2Code::DirNotEmpty, &at));
        }
        Ok(self.remove(Action::Delete, old))
    }

    fn compare_and_delete(&mut self, request: &V2Write) -> Result<V2Event, V2Error> {
        let old = self.compared(&path::clean(&request.path), request)?;
        Ok(self.remove(Action::CompareAndDelete, old))
    }

    fn expire_first(&mut self) -> Option<V2Event> {
        let (key, _) = self.now().first(keys::EXPIRIES, keys::EXPIRIES_END)?;
        let (expires_ns, at) = keys::split_expiry(&key).expect(read::READABLE);
        if expires_ns > self.now_ns {
            return None;
        }
        let old = load(&self.now(), at).expect("an expiry goes with its node");
        Some(self.remove(Action::Expire, old))
    }

    /// The file at a path, if it is as the request compares it.
    fn compared(&self, at: &[u8], request: &V2Write) -> Result<V2Node, V2Error> {
        let old = self.find(at)?;
        if old.dir {
            return Err(self.refusal(V2Code::NotFile, at));
        }
        let value: &[u8] = old.value.as_deref().unwrap_or_default();
        let (index, wanted) = (old.modified_index, request.prev_index);
        let values = || [b"[", &request.prev_value[..], b" != ", value, b"]"].concat();
        let indexes = || format!("[{wanted} != {index}]").into_bytes();
        let same_value = request.prev_value.is_empty() || request.prev_value == value;
        let cause = match (same_value, wanted == 0 || wanted == index) {
            (true, true) => return Ok(old),
            (true, false) => indexes(),
            (false, true) => values(),
            (false, false) => [&values()[..], b" ", &indexes()].concat(),
        };
        Err(self.refusal(V2Code::TestFailed, &cause))
    }

    /// Deletes a node and everything below.
    fn remove(&mut self, action: Action, old: V2Node) -> V2Event {
        let mut left = vec![old.clone()];
        while let Some(node) = left.pop() {
            if node.dir {
                left.extend(read::children(&self.now(), &node.key));
            }
            self.forget_expiry(&node);
            self.writes.delete(keys::node(&node.key));
        }
        let node = V2Node {
            key: old.key.clone(),
            dir: old.dir,
            created_index: old.created_index,
            modified_index: self.next_index(),
            ..V2Node::default()
        };
        let prev_node = Some(with_ttl(old, self.now_ns));
        V2Event { action: action as i32, node: Some(node), prev_node, refresh: false }
    }

    fn store(&mut self, node: &V2Node) {
        if node.expires_ns != 0 {
            self.writes.put(keys::expiry(node.expires_ns, &node.key), Vec::new());
        }
        let stored = V2Node { key: Bytes::new(), ..node.clone() };
        self.writes.put(keys::node(&node.key), stored.encode_to_vec());
    }

    fn forget_expiry(&mut self, node: &V2Node) {
        if node.expires_ns != 0 {
            self.writes.delete(keys::expiry(node.expires_ns, &node.key));
        }
    }
}
