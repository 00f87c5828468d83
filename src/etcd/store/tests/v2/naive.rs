//! The v2 tree as a flat map of paths, without a thought of speed.

use proa_etcd_api::command::v2_event::Action;
use proa_etcd_api::command::v2_write::Kind;
use proa_etcd_api::command::{Command, V2Event, V2Node, V2Write, command::Op};
use proa_etcd_api::v2::{V2Code, V2Error};
use proa_etcd_store::Reply;
use proa_etcd_store::v2::Rules;
use std::collections::BTreeMap;

const SECOND_NS: i64 = 1_000_000_000;

/// A tree and all that ever happened to it.
pub struct Naive {
    pub index: u64,
    pub events: Vec<V2Event>,
    nodes: BTreeMap<String, V2Node>,
}

fn with_ttl(node: &V2Node, now_ns: i64) -> V2Node {
    let left_ns = node.expires_ns - now_ns;
    let ttl_s = match node.expires_ns {
        0 => 0,
        _ if left_ns > 0 => (left_ns + SECOND_NS - 1) / SECOND_NS,
        _ => left_ns / SECOND_NS,
    };
    V2Node { ttl_s, ..node.clone() }
}

fn ancestors(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    (1..=parts.len()).map(|count| format!("/{}", parts[..count].join("/"))).collect()
}

fn is_below(dir: &str, path: &str) -> bool {
    let dir = if dir == "/" { "" } else { dir };
    path.starts_with(&format!("{dir}/")) && path != "/"
}

/// The rules of who hears of what, as etcd's `watcherHub` and `EventHistory`
/// have them, but for its mistake with names that begin alike.
pub fn concerns(path: &str, recursive: bool, event: &V2Event, rules: Rules) -> bool {
    let node = event.node.as_ref().unwrap();
    let key = std::str::from_utf8(&node.key).unwrap();
    let ended_dir = matches!(event.action(), Action::Delete | Action::Expire) && node.dir;
    let prefix = if path == "/" { "" } else { path };
    let is_hidden = rules == Rules::Live && key.get(prefix.len()..).is_some_and(|rest| rest.contains("/_"));
    key == path || (recursive && is_below(path, key) && !is_hidden) || (ended_dir && is_below(key, path))
}

impl Naive {
    pub fn new() -> Self {
        let root = |key: &str| V2Node { key: key.to_owned().into(), dir: true, ..V2Node::default() };
        let nodes = ["/", "/0", "/1"].map(|key| (key.to_owned(), root(key)));
        Self { index: 3, events: Vec::new(), nodes: nodes.into() }
    }

    pub fn apply(&mut self, command: &Command) -> (Reply, Vec<V2Event>) {
        match command.op.as_ref().unwrap() {
            Op::V2Write(write) => {
                let done = self.write(write);
                if let Ok(event) = &done {
                    self.index += 1;
                    self.events.extend((!event.refresh).then(|| event.clone()));
                }
                let told = done.iter().filter(|event| !event.refresh).cloned().collect();
                (Reply::V2(done), told)
            }
            Op::V2Expire(expire) => {
                let mut told = Vec::new();
                while let Some(first) = self.first_to_end().filter(|node| node.expires_ns <= expire.now_ns) {
                    told.push(self.remove(Action::Expire, first, expire.now_ns));
                    self.index += 1;
                }
                self.events.extend(told.clone());
                (Reply::V2Expired(told.len()), told)
            }
            other => panic!("not generated: {other:?}"),
        }
    }

    fn first_to_end(&self) -> Option<V2Node> {
        let ending = self.nodes.values().filter(|node| node.expires_ns != 0);
        ending.min_by_key(|node| (node.expires_ns, node.key.clone())).cloned()
    }

    pub fn next_expiry(&self) -> Option<i64> {
        self.first_to_end().map(|node| node.expires_ns)
    }

    fn refuse<T>(&self, code: V2Code, cause: impl Into<Vec<u8>>) -> Result<T, V2Error> {
        Err(V2Error { code, cause: cause.into(), index: self.index })
    }

    fn find(&self, path: &str) -> Result<V2Node, V2Error> {
        let mut at = self.nodes["/"].clone();
        for step in ancestors(path) {
            if !at.dir {
                return self.refuse(V2Code::NotDir, at.key.to_vec());
            }
            match self.nodes.get(&step) {
                Some(node) => at = node.clone(),
                None => return self.refuse(V2Code::KeyNotFound, step),
            }
        }
        Ok(at)
    }

    pub fn get(&self, path: &str, recursive: bool, now_ns: i64) -> Result<V2Event, V2Error> {
        let mut node = with_ttl(&self.find(path)?, now_ns);
        if node.dir {
            node.nodes = self.shown(path, recursive, now_ns);
        }
        Ok(V2Event { action: Action::Get as i32, node: Some(node), prev_node: None, refresh: false })
    }

    fn shown(&self, dir: &str, recursive: bool, now_ns: i64) -> Vec<V2Node> {
        let prefix = if dir == "/" { "/".to_owned() } else { format!("{dir}/") };
        let mut children: Vec<&String> = self.nodes.keys().filter(|key| key.starts_with(&prefix)).collect();
        children.retain(|key| {
            let name = &key[prefix.len()..];
            // `/` is nobody's to list, so its fixed children are not told.
            let is_fixed = matches!(key.as_str(), "/0" | "/1");
            !is_fixed && !name.is_empty() && !name.contains('/') && !name.starts_with('_')
        });
        let told = |key: &String| {
            let mut node = with_ttl(&self.nodes[key], now_ns);
            if node.dir && recursive {
                node.nodes = self.shown(key, recursive, now_ns);
            }
            node
        };
        children.into_iter().map(told).collect()
    }

    fn write(&mut self, write: &V2Write) -> Result<V2Event, V2Error> {
        let path = String::from_utf8(write.path.to_vec()).unwrap();
        let is_root = matches!(path.as_str(), "/" | "/0" | "/1");
        match write.kind() {
            Kind::Set => {
                let old = self.find(&path);
                match &old {
                    Err(error) if error.code == V2Code::NotDir || write.refresh => {
                        return old.map(|_| V2Event::default());
                    }
                    Ok(_) | Err(_) => {}
                }
                if is_root {
                    return self.refuse(V2Code::RootReadOnly, "/");
                }
                let old = old.ok();
                if old.as_ref().is_some_and(|old| old.dir) {
                    return self.refuse(V2Code::NotFile, path);
                }
                let kept = old.as_ref().filter(|_| write.refresh).and_then(|old| old.value.clone());
                let event = self.insert(Action::Set, &path, write, kept);
                let prev_node = old.map(|old| with_ttl(&old, write.now_ns));
                Ok(V2Event { prev_node, refresh: write.refresh, ..event })
            }
            Kind::Create if is_root => self.refuse(V2Code::RootReadOnly, "/"),
            Kind::Create => self.create(&path, write),
            Kind::CreateInOrder => {
                let path = format!("{}/{:020}", path.trim_end_matches('/'), self.index + 1);
                self.create(&path, write)
            }
            Kind::CompareAndDelete => {
                let old = self.compare(&path, write)?;
                Ok(self.remove(Action::CompareAndDelete, old, write.now_ns))
            }
            Kind::Update | Kind::CompareAndSwap | Kind::Delete if is_root => {
                self.refuse(V2Code::RootReadOnly, "/")
            }
            Kind::Update => {
                let old = self.find(&path)?;
                if old.dir && !write.value.is_empty() {
                    return self.refuse(V2Code::NotFile, path);
                }
                Ok(self.overwrite(Action::Update, old, write))
            }
            Kind::CompareAndSwap => {
                let old = self.compare(&path, write)?;
                Ok(self.overwrite(Action::CompareAndSwap, old, write))
            }
            Kind::Delete => {
                let old = self.find(&path)?;
                if old.dir && !write.dir && !write.recursive {
                    return self.refuse(V2Code::NotFile, path);
                }
                if old.dir && !write.recursive && self.nodes.keys().any(|key| is_below(&path, key)) {
                    return self.refuse(V2Code::DirNotEmpty, path);
                }
                Ok(self.remove(Action::Delete, old, write.now_ns))
            }
        }
    }

    fn create(&mut self, path: &str, write: &V2Write) -> Result<V2Event, V2Error> {
        match self.find(path) {
            Ok(_) => self.refuse(V2Code::NodeExist, path),
            Err(error) if error.code == V2Code::NotDir => Err(error),
            Err(_) => Ok(self.insert(Action::Create, path, write, None)),
        }
    }

    fn insert(&mut self, action: Action, path: &str, write: &V2Write, kept: Option<bytes::Bytes>) -> V2Event {
        let index = self.index + 1;
        let node = |key: &str, value: Option<bytes::Bytes>, expires_ns| V2Node {
            key: key.to_owned().into(),
            dir: value.is_none(),
            value,
            created_index: index,
            modified_index: index,
            expires_ns,
            ..V2Node::default()
        };
        for step in ancestors(path) {
            self.nodes.entry(step.clone()).or_insert_with(|| node(&step, None, 0));
        }
        let value = kept.unwrap_or_else(|| write.value.clone());
        let new = node(path, (!write.dir).then_some(value), write.expires_ns);
        self.nodes.insert(path.to_owned(), new.clone());
        let node = Some(with_ttl(&new, write.now_ns));
        V2Event { action: action as i32, node, prev_node: None, refresh: false }
    }

    fn overwrite(&mut self, action: Action, old: V2Node, write: &V2Write) -> V2Event {
        let key = String::from_utf8(old.key.to_vec()).unwrap();
        let node = self.nodes.get_mut(&key).unwrap();
        node.expires_ns = write.expires_ns;
        if !old.dir {
            node.modified_index = self.index + 1;
            if !write.refresh {
                node.value = Some(write.value.clone());
            }
        }
        let told = V2Node { modified_index: self.index + 1, ..with_ttl(node, write.now_ns) };
        let prev_node = Some(with_ttl(&old, write.now_ns));
        V2Event { action: action as i32, node: Some(told), prev_node, refresh: write.refresh }
    }

    fn compare(&self, path: &str, write: &V2Write) -> Result<V2Node, V2Error> {
        let old = self.find(path)?;
        if old.dir {
            return self.refuse(V2Code::NotFile, path);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let value = text(old.value.as_ref().unwrap());
        let mut wrong = Vec::new();
        if !write.prev_value.is_empty() && text(&write.prev_value) != value {
            wrong.push(format!("[{} != {value}]", text(&write.prev_value)));
        }
        if write.prev_index != 0 && write.prev_index != old.modified_index {
            wrong.push(format!("[{} != {}]", write.prev_index, old.modified_index));
        }
        if wrong.is_empty() { Ok(old) } else { self.refuse(V2Code::TestFailed, wrong.join(" ")) }
    }

    fn remove(&mut self, action: Action, old: V2Node, now_ns: i64) -> V2Event {
        let path = String::from_utf8(old.key.to_vec()).unwrap();
        self.nodes.retain(|key, _| *key != path && !is_below(&path, key));
        let node = V2Node {
            key: old.key.clone(),
            dir: old.dir,
            created_index: old.created_index,
            modified_index: self.index + 1,
            ..V2Node::default()
        };
        let prev_node = Some(with_ttl(&old, now_ns));
        V2Event { action: action as i32, node: Some(node), prev_node, refresh: false }
    }
}
