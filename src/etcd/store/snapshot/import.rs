//! From etcd's buckets to a new store.

use proa_etcd_api::authpb::Role;
use proa_etcd_api::command::{AuthHead, AuthUser};
use proa_etcd_api::mvccpb::KeyValue;
use prost::Message;

use super::bolt::{BadFile, Bolt};
use super::messages::{Lease, User};
use super::{V2_BUCKET, split_revision_key};
use crate::keys::{self, Kind, Place};
use crate::machine::{Corrupt, Machine};
use crate::record::{Head, LeaseRecord, Record, tombstone};
use crate::v2;
use crate::view::{Entry, View, Writes};
use crate::walk::{Found, NEWEST, Unread, Walk};

/// What becomes of the revisions that clients may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The store goes on at the snapshot's revision.
    Kept,
    /// The store goes on this much later, so that no revision is given twice.
    Bumped(i64),
    /// And everything before can no longer be asked for: who watches from a
    /// revision of before is told to look again.
    GivenUp(i64),
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// How far the new store is.
    pub head: Head,
    /// Versions of keys.
    pub versions: u64,
}

/// Bytes that are stored in one batch.
const BATCH_BYTES: usize = 1 << 20;

type Store<'a> = dyn FnMut(Writes) -> Result<(), String> + 'a;

/// Collects writes and stores them in batches.
struct Batches<'a, 'b> {
    store: &'a mut Store<'b>,
    writes: Writes,
    bytes: usize,
}

impl Batches<'_, '_> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), BadFile> {
        self.bytes += key.len() + value.len();
        self.writes.put(key, value);
        if self.bytes < BATCH_BYTES { Ok(()) } else { self.flush() }
    }

    fn put_all(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), BadFile> {
        entries.into_iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn flush(&mut self) -> Result<(), BadFile> {
        self.bytes = 0;
        (self.store)(std::mem::take(&mut self.writes)).map_err(BadFile::Io)
    }
}

fn bad(bucket: &str, key: &[u8], what: &'static str) -> BadFile {
    BadFile::Entry { bucket: bucket.to_owned(), key: key.escape_ascii().to_string(), what }
}

/// Reads keys, leases, users, roles and the v2 tree out of a snapshot and has
/// them stored. Members and alarms stay behind: those of a new cluster are
/// its own.
///
/// Afterwards call [`attach_leases`] on a view of what was stored.
///
/// # Errors
/// [`BadFile`]; what was stored by then is no store.
pub fn import(bolt: &Bolt<'_>, past: Past, store: &mut Store<'_>) -> Result<Imported, BadFile> {
    let mut batches = Batches { store, writes: Writes::default(), bytes: 0 };
    let (mut newest, mut versions) = (1, 0);
    bolt.each("key", &mut |key, value| {
        let place = put_version(&mut batches, key, value)?;
        newest = newest.max(place.main);
        versions += 1;
        Ok(())
    })?;
    let head = bump(Head { revision: newest, compact_revision: compact_revision(bolt)? }, past)
        .ok_or_else(|| BadFile::Io("the bumped revision is beyond all numbers".to_owned()))?;
    batches.put(keys::HEAD.to_vec(), head.encode())?;
    bolt.each("lease", &mut |key, value| put_lease(&mut batches, key, value))?;
    put_auth(bolt, &mut batches)?;
    bolt.each(V2_BUCKET, &mut |key, value| match key >= v2::ALL && key < v2::ALL_END {
        true => batches.put(key.to_vec(), value.to_vec()),
        false => Err(bad(V2_BUCKET, key, "it is no part of the v2 tree")),
    })?;
    batches.flush()?;
    Ok(Imported { head, versions })
}

fn bump(found: Head, past: Past) -> Option<Head> {
    let at = Head { revision: found.revision.max(found.compact_revision), ..found };
    Some(match past {
        Past::Kept => at,
        Past::Bumped(by) => Head { revision: at.revision.checked_add(by)?, ..at },
        Past::GivenUp(by) => {
            let revision = at.revision.checked_add(by)?;
            Head { revision, compact_revision: revision }
        }
    })
}

fn put_version(batches: &mut Batches<'_, '_>, key: &[u8], value: &[u8]) -> Result<Place, BadFile> {
    let (place, kind) = split_revision_key(key).ok_or_else(|| bad("key", key, "it is no revision"))?;
    let kv = KeyValue::decode(value).map_err(|_| bad("key", key, "its value is no entry"))?;
    match kind {
        Kind::Tombstone => batches.put_all(tombstone(&kv.key, place))?,
        Kind::Put | Kind::PutApart
            if kv.mod_revision != place.main || kv.create_revision > place.main || kv.version < 1 =>
        {
            return Err(bad("key", key, "the entry is of another revision"));
        }
        Kind::Put | Kind::PutApart => {
            let KeyValue { key, create_revision, version, lease, value, .. } = kv;
            let record = Record { create_revision, version, lease, value };
            batches.put_all(record.entries(&key, place))?;
        }
    }
    Ok(place)
}

/// The newest revision up to which history was given up, done with or not.
fn compact_revision(bolt: &Bolt<'_>) -> Result<i64, BadFile> {
    let mut newest = Head::EMPTY.compact_revision;
    bolt.each("meta", &mut |key, value| {
        if matches!(key, b"scheduledCompactRev" | b"finishedCompactRev") {
            let (place, _) =
                split_revision_key(value).ok_or_else(|| bad("meta", key, "it is no revision"))?;
            newest = newest.max(place.main);
        }
        Ok(())
    })?;
    Ok(newest)
}

fn put_lease(batches: &mut Batches<'_, '_>, key: &[u8], value: &[u8]) -> Result<(), BadFile> {
    let lease = Lease::decode(value).map_err(|_| bad("lease", key, "its value is no lease"))?;
    if lease.id.to_be_bytes() != key || lease.id == 0 {
        return Err(bad("lease", key, "the lease has another id"));
    }
    let record = LeaseRecord { granted_ttl: lease.ttl, remaining_ttl: lease.remaining_ttl };
    batches.put(keys::lease(lease.id), record.encode())
}

fn put_auth(bolt: &Bolt<'_>, batches: &mut Batches<'_, '_>) -> Result<(), BadFile> {
    let mut head = AuthHead { enabled: false, revision: 1, disabled_revision: 0 };
    bolt.each("auth", &mut |key, value| {
        match key {
            b"authEnabled" => head.enabled = value == [1],
            b"authRevision" => {
                let number = value.try_into().map_err(|_| bad("auth", key, "it is no number"))?;
                head.revision = u64::from_be_bytes(number).max(1);
            }
            _ => {}
        }
        Ok(())
    })?;
    batches.put(keys::AUTH_HEAD.to_vec(), head.encode_to_vec())?;
    bolt.each("authRoles", &mut |key, value| {
        let role = Role::decode(value).map_err(|_| bad("authRoles", key, "its value is no role"))?;
        std::str::from_utf8(key).map_err(|_| bad("authRoles", key, "the name is no text"))?;
        batches.put([keys::AUTH_ROLE, key].concat(), role.encode_to_vec())
    })?;
    bolt.each("authUsers", &mut |key, value| {
        let user = User::decode(value).map_err(|_| bad("authUsers", key, "its value is no user"))?;
        std::str::from_utf8(key).map_err(|_| bad("authUsers", key, "the name is no text"))?;
        let mut roles = user.roles;
        roles.sort();
        let stored = AuthUser {
            password_hash: user.password,
            roles,
            no_password: user.options.is_some_and(|options| options.no_password),
            // Whoever knew a token of before is a stranger.
            secret_revision: head.revision,
        };
        batches.put([keys::AUTH_USER, key].concat(), stored.encode_to_vec())
    })
}

/// Attaches keys to the leases that they name, of what was imported; checks
/// on the way that it can be served.
///
/// # Errors
/// [`Corrupt`] as text, or what `store` says.
pub fn attach_leases(view: &dyn View, store: &mut Store<'_>) -> Result<(), BadFile> {
    let as_text = |error: Corrupt| BadFile::Io(error.to_string());
    let machine = Machine::load(view).map_err(as_text)?;
    let mut batches = Batches { store, writes: Writes::default(), bytes: 0 };
    for Unread { kv, .. } in Walk::entries(view, b"K", keys::VERSIONS_END, NEWEST).map(Found::unread) {
        if machine.lease(kv.lease).is_some() {
            batches.put(keys::attachment(kv.lease, &kv.key), Vec::new())?;
        }
    }
    batches.flush()
}
