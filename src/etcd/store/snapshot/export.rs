//! From a view to etcd's buckets.

use std::collections::BinaryHeap;

use proa_etcd_api::authpb::{Role, UserAddOptions};
use proa_etcd_api::command::{AuthHead, AuthUser};
use proa_etcd_api::etcdserverpb::{AlarmMember, Member};
use proa_etcd_api::mvccpb::KeyValue;
use prost::Message;

use super::bolt::{BucketWriter, Layout, Stopped, Writer};
use super::messages::{Lease, User};
use super::{V2_BUCKET, revision_key};
use crate::keys::{self, Kind, Place};
use crate::machine::{Corrupt, Machine};
use crate::record::Head;
use crate::v2;
use crate::view::View;
use crate::walk::{self, Unread};

/// What a snapshot says beside the store's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Raft index of the last entry in the view.
    pub applied_index: u64,
    /// The term as of then.
    pub term: u64,
    /// The version of the cluster.
    pub cluster_version: &'static str,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The view holds what the store did not write.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Whoever takes it takes no more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Bytes of keys that are sorted in memory at a time. Versions are stored by
/// user key and written by revision; a store with more than this is walked
/// through several times.
const SORT_BYTES: usize = 32 << 20;

/// Finds out how the snapshot of `view` is laid out. Reads everything; `goes_on`
/// is asked again and again.
///
/// # Errors
/// [`ExportError`].
pub fn plan(view: &dyn View, stamp: &Stamp, goes_on: &dyn Fn() -> bool) -> Result<Layout, ExportError> {
    let mut asked = |_: &[u8]| if goes_on() { Ok(()) } else { Err(Stopped) };
    run(view, stamp, SORT_BYTES, Writer::measure(&mut asked))
}

/// Gives the snapshot of `view` to `sink`, a page or more at a time. `layout`
/// is the plan of the same view and stamp. Reads everything once more.
///
/// # Errors
/// [`ExportError`]; what the sink has then is no snapshot.
pub fn write(
    view: &dyn View,
    stamp: &Stamp,
    layout: &Layout,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Stopped>,
) -> Result<(), ExportError> {
    let written = run(view, stamp, SORT_BYTES, Writer::write(layout, sink)?)?;
    assert_eq!(written, *layout, "the same view gives the same pages");
    Ok(())
}

pub(super) fn run(
    view: &dyn View,
    stamp: &Stamp,
    sort_bytes: usize,
    mut out: Writer<'_>,
) -> Result<Layout, ExportError> {
    let machine = Machine::load(view)?;
    let members = crate::members::members(view)?;
    // By ascending name, as bbolt has them.
    simple(&mut out, "alarm", alarms(&machine))?;
    simple(&mut out, "auth", auth_head(view)?)?;
    simple(&mut out, "authRoles", roles(view)?)?;
    simple(&mut out, "authUsers", users(view)?)?;
    simple(&mut out, "cluster", cluster(stamp))?;
    let mut bucket = BucketWriter::default();
    put_versions(view, machine.head, sort_bytes, &mut bucket, &mut out)?;
    out.end_bucket("key", bucket)?;
    simple(&mut out, "lease", leases(&machine))?;
    simple(&mut out, "members", member_entries(&members))?;
    simple(&mut out, "members_removed", Vec::new())?;
    simple(&mut out, "meta", meta(stamp, machine.head, &members))?;
    let mut bucket = BucketWriter::default();
    for (key, value) in view.scan(v2::ALL, v2::ALL_END) {
        bucket.put(&mut out, &key, &value)?;
    }
    out.end_bucket(V2_BUCKET, bucket)?;
    Ok(out.finish()?)
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn simple(out: &mut Writer<'_>, name: &str, mut entries: Entries) -> Result<(), Stopped> {
    entries.sort();
    let mut bucket = BucketWriter::default();
    for (key, value) in entries {
        bucket.put(out, &key, &value)?;
    }
    out.end_bucket(name, bucket)
}

fn alarms(machine: &Machine) -> Entries {
    let key = |&(member_id, alarm): &(u64, i32)| AlarmMember { member_id, alarm }.encode_to_vec();
    machine.alarms.iter().map(|alarm| (key(alarm), Vec::new())).collect()
}

fn auth_head(view: &dyn View) -> Result<Entries, Corrupt> {
    let head = match view.get(keys::AUTH_HEAD) {
        Some(stored) => decode::<AuthHead>("auth head", keys::AUTH_HEAD, &stored)?,
        None => AuthHead { enabled: false, revision: 1, disabled_revision: 0 },
    };
    Ok(vec![
        (b"authEnabled".to_vec(), vec![u8::from(head.enabled)]),
        (b"authRevision".to_vec(), head.revision.to_be_bytes().to_vec()),
    ])
}

fn decode<M: Message + Default>(what: &'static str, key: &[u8], stored: &[u8]) -> Result<M, Corrupt> {
    M::decode(stored).map_err(|_| Corrupt { what, key: key.to_vec() })
}

fn roles(view: &dyn View) -> Result<Entries, Corrupt> {
    let stored = view.scan(keys::AUTH_ROLE, &keys::after_slash(keys::AUTH_ROLE));
    let entry = |(key, stored): (Vec<u8>, Vec<u8>)| {
        let name = key[keys::AUTH_ROLE.len()..].to_vec();
        let role: Role = decode("role", &key, &stored)?;
        let role = Role { name: name.clone().into(), ..role };
        Ok((name, role.encode_to_vec()))
    };
    stored.map(entry).collect()
}

fn users(view: &dyn View) -> Result<Entries, Corrupt> {
    let stored = view.scan(keys::AUTH_USER, &keys::after_slash(keys::AUTH_USER));
    let entry = |(key, stored): (Vec<u8>, Vec<u8>)| {
        let AuthUser { password_hash, roles, no_password, .. } = decode("user", &key, &stored)?;
        let name = key[keys::AUTH_USER.len()..].to_vec();
        let text = String::from_utf8(name.clone()).map_err(|_| Corrupt { what: "user", key })?;
        let options = Some(UserAddOptions { no_password });
        Ok((name, User { name: text, password: password_hash, roles, options }.encode_to_vec()))
    };
    stored.map(entry).collect()
}

fn cluster(stamp: &Stamp) -> Entries {
    vec![(b"clusterVersion".to_vec(), stamp.cluster_version.as_bytes().to_vec())]
}

fn leases(machine: &Machine) -> Entries {
    let value = |id, lease: crate::record::LeaseRecord| {
        Lease { id, ttl: lease.granted_ttl, remaining_ttl: lease.remaining_ttl }.encode_to_vec()
    };
    machine.leases().map(|(id, lease)| (id.to_be_bytes().to_vec(), value(id, lease))).collect()
}

/// Source: etcd's `membership.Member`, as JSON under its id in hex.
fn member_entries(members: &[Member]) -> Entries {
    let list = |urls: &[String]| urls.iter().map(|url| quote(url)).collect::<Vec<_>>().join(",");
    let value = |member: &Member| {
        let mut text = format!("{{\"id\":{},\"peerURLs\":[{}]", member.id, list(&member.peer_urls));
        if member.is_learner {
            text += ",\"isLearner\":true";
        }
        if !member.name.is_empty() {
            text += &format!(",\"name\":{}", quote(&member.name));
        }
        if !member.client_urls.is_empty() {
            text += &format!(",\"clientURLs\":[{}]", list(&member.client_urls));
        }
        text + "}"
    };
    members
        .iter()
        .map(|member| (format!("{:x}", member.id).into_bytes(), value(member).into_bytes()))
        .collect()
}

/// A JSON string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => out += &format!("\\u{:04x}", control as u32),
            plain => out.push(plain),
        }
    }
    out + "\""
}

fn meta(stamp: &Stamp, head: Head, members: &[Member]) -> Entries {
    let ids = |learners: bool| {
        let ids = members.iter().filter(|member| member.is_learner == learners);
        ids.map(|member| member.id.to_string()).collect::<Vec<_>>().join(",")
    };
    let state = match ids(true) {
        none if none.is_empty() => format!("{{\"voters\":[{}],\"auto_leave\":false}}", ids(false)),
        some => format!("{{\"voters\":[{}],\"learners\":[{some}],\"auto_leave\":false}}", ids(false)),
    };
    let mut entries = vec![
        (b"confState".to_vec(), state.into_bytes()),
        (b"consistent_index".to_vec(), stamp.applied_index.to_be_bytes().to_vec()),
        (b"term".to_vec(), stamp.term.to_be_bytes().to_vec()),
    ];
    if head.compact_revision > 0 {
        // Nothing of what the compaction gave up is in the file.
        let place = revision_key(Place { main: head.compact_revision, sub: 0 }, Kind::Put);
        entries.push((b"finishedCompactRev".to_vec(), place.clone()));
        entries.push((b"scheduledCompactRev".to_vec(), place));
    }
    entries
}

/// Every version that can be read, by its revision.
fn put_versions(
    view: &dyn View,
    head: Head,
    sort_bytes: usize,
    bucket: &mut BucketWriter,
    out: &mut Writer<'_>,
) -> Result<(), ExportError> {
    let mut after = None;
    loop {
        let (versions, is_all) = next_versions(view, head, after, sort_bytes);
        for (place, stored_key) in versions {
            let (prefix, _, kind) = walk::split_version(&stored_key);
            let corrupt = || Corrupt { what: "version", key: stored_key.clone() };
            let key = keys::user_key(prefix).ok_or_else(corrupt)?;
            let kv = match kind {
                Kind::Tombstone => KeyValue { key: key.into(), ..KeyValue::default() },
                Kind::Put | Kind::PutApart => {
                    let stored = view.get(&stored_key).ok_or_else(corrupt)?;
                    let mut entry = Unread::decode(key.into(), place, kind, stored).ok_or_else(corrupt)?;
                    entry.try_read(view).ok_or_else(corrupt)?;
                    entry.kv
                }
            };
            bucket.put(out, &revision_key(place, kind), &kv.encode_to_vec())?;
            after = Some(place);
        }
        if is_all {
            return Ok(());
        }
    }
}

/// The first of the versions behind `after`, by their place, and whether these
/// are all there are.
fn next_versions(
    view: &dyn View,
    head: Head,
    after: Option<Place>,
    sort_bytes: usize,
) -> (Vec<(Place, Vec<u8>)>, bool) {
    /// What an entry of the heap takes beside its key.
    const ENTRY_BYTES: usize = 64;
    let mut heap = BinaryHeap::new();
    let (mut bytes, mut is_all) = (0, true);
    let mut settled = Vec::new();
    for stored in view.keys(b"K", keys::VERSIONS_END) {
        let (prefix, place, kind) = walk::split_version(&stored);
        // As in the hash: below the compact revision only what was visible then.
        let below = place.main < head.compact_revision;
        if below && prefix == settled {
            continue;
        }
        if place.main <= head.compact_revision {
            settled.clear();
            settled.extend_from_slice(prefix);
        }
        if (below && kind == Kind::Tombstone) || after.is_some_and(|after| place <= after) {
            continue;
        }
        bytes += stored.len() + ENTRY_BYTES;
        heap.push((place, stored));
        while bytes > sort_bytes && heap.len() > 1 {
            if let Some((_, dropped)) = heap.pop() {
                bytes -= dropped.len() + ENTRY_BYTES;
                is_all = false;
            }
        }
    }
    (heap.into_sorted_vec(), is_all)
}
