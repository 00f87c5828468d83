//! The lock and the records beside it, in the store.

use std::{collections::BTreeMap, fmt::Write as _};

use http::Method;
use proa_etcd_api::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
        RequestOp, TxnRequest, compare, request_op,
    },
    mvccpb::KeyValue,
};
use proa_etcd_client::{
    Client, KeepAlive,
    tls::{ClientTls, TlsFiles},
};
use proa_update_model::reboot::{
    lease::{Intent, PREFIX, Record, Suspect, holder_key, intent_key, suspect_key, turn_key},
    semaphore::{Semaphore, key},
};
use serde::Deserialize;

use super::{
    Error,
    wire::{Answer, Place, ask},
};

/// Where the updater writes down releases that failed to boot.
const FAILED_PREFIX: &str = "/proa/update/failed/";
/// More records than any cluster has machines and releases; a longer answer is cut.
const MAX_RECORDS: i64 = 4096;
/// A swap that meets another one is tried again this often.
const MAX_SWAPS: usize = 16;

/// The store of one cluster.
pub struct Store {
    places: Vec<Place>,
    /// Answers whatever member serves.
    pub client: Client,
    /// Answers only for the first endpoint: this machine's own member, where it has one.
    pub own: Client,
    tls: TlsFiles,
}

/// A lock as it was read.
#[derive(Clone, Debug)]
pub struct Lock {
    /// Its value.
    pub semaphore: Semaphore,
    /// When it was last written; `None` when there is none yet.
    index: Option<u64>,
}

/// The records as they were read.
#[derive(Debug, Default)]
pub struct Records {
    /// By machine.
    pub machines: BTreeMap<String, Record>,
    /// Releases that nobody is to boot, and why.
    pub verdicts: BTreeMap<String, String>,
    /// Those of them that a person can clear here.
    pub suspects: Vec<Suspect>,
    /// The lease of each machine's key.
    pub leases: BTreeMap<String, i64>,
    revisions: BTreeMap<String, i64>,
}

/// A release that failed, as the updater writes it.
#[derive(Deserialize)]
struct Failed {
    version: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    machine: String,
}

/// An answer of the v2 keys API.
#[derive(Deserialize)]
struct Answered {
    node: Node,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default)]
    value: String,
    modified_index: u64,
}

/// A refusal of the v2 keys API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeysError {
    error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
}

/// Source: etcd v2 API, "Error codes".
const KEY_NOT_FOUND: u32 = 100;
const COMPARE_FAILED: u32 = 101;
const NODE_EXIST: u32 = 105;

impl Store {
    /// The store with these members; the first one is this machine's own.
    ///
    /// # Errors
    /// When an endpoint is none, or a file for TLS cannot be used.
    pub fn new(endpoints: &[String], tls: &TlsFiles) -> Result<Self, Error> {
        let connect = |endpoints: &[String]| connect(endpoints, proa_etcd_client::Timeouts::default(), tls);
        let client = connect(endpoints)?.falling_back();
        let own = connect(endpoints.get(..1).unwrap_or_default())?;
        let mut secured: Option<ClientTls> = None;
        let mut places = Vec::new();
        for endpoint in endpoints {
            let plain = endpoint.strip_prefix("http://").map(|rest| (rest, false));
            let (rest, is_tls) = plain
                .or_else(|| endpoint.strip_prefix("https://").map(|rest| (rest, true)))
                .unwrap_or((endpoint, false));
            let authority = rest.trim_end_matches('/').to_owned();
            places.push(match is_tls {
                false => Place::Tcp(authority),
                true => {
                    let made = match &secured {
                        Some(made) => made.clone(),
                        None => ClientTls::new(tls.clone()).map_err(proa_etcd_client::Error::from)?,
                    };
                    secured = Some(made.clone());
                    Place::Tls(authority, made)
                }
            });
        }
        Ok(Self { places, client, own, tls: tls.clone() })
    }

    /// A client of one member, at any of its URLs.
    pub fn member(&self, urls: &[String], timeouts: proa_etcd_client::Timeouts) -> Result<Client, Error> {
        connect(urls, timeouts, &self.tls)
    }

    /// Reads a lock, by quorum.
    ///
    /// # Errors
    /// When no member answers, or the value is none.
    pub async fn lock(&self, group: &str) -> Result<Lock, Error> {
        let path = format!("/v2/keys{}?quorum=true", percent(&key(group)));
        let answer = self.keys(Method::GET, &path, String::new()).await?;
        match answer {
            Ok(node) => {
                let semaphore = Semaphore::parse(&node.value)?;
                Ok(Lock { semaphore, index: Some(node.modified_index) })
            }
            Err(error) if error.error_code == KEY_NOT_FOUND => {
                Ok(Lock { semaphore: Semaphore::default(), index: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a lock if nobody has changed it since it was read.
    ///
    /// # Errors
    /// When no member answers; then it may have been written all the same.
    pub async fn swap(&self, group: &str, read: &Lock, new: &Semaphore) -> Result<bool, Error> {
        let guard = match read.index {
            Some(index) => format!("prevIndex={index}"),
            None => "prevExist=false".to_owned(),
        };
        let path = format!("/v2/keys{}?{guard}", percent(&key(group)));
        let body = format!("value={}", percent(&new.render()));
        match self.keys(Method::PUT, &path, body).await? {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.error_code, COMPARE_FAILED | NODE_EXIST | KEY_NOT_FOUND) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Changes a lock whatever others do meanwhile; `None` from `change` leaves it. Returns it as
    /// it was and as it is.
    ///
    /// # Errors
    /// What `change` says, or as [`Self::swap`].
    pub async fn change<E>(
        &self,
        group: &str,
        change: impl Fn(&Semaphore) -> Result<Option<Semaphore>, E>,
    ) -> Result<Result<(Semaphore, Semaphore), E>, Error> {
        for _ in 0..MAX_SWAPS {
            let read = self.lock(group).await?;
            let new = match change(&read.semaphore) {
                Ok(None) => return Ok(Ok((read.semaphore.clone(), read.semaphore))),
                Ok(Some(new)) => new,
                Err(error) => return Ok(Err(error)),
            };
            if self.swap(group, &read, &new).await? {
                return Ok(Ok((read.semaphore, new)));
            }
        }
        Err(Error::Contended)
    }

    /// One request to the keys API, of the members in turn. A change is asked of
    /// the next member only when the one before was not reached.
    async fn keys(&self, method: Method, path: &str, body: String) -> Result<Result<Node, KeysError>, Error> {
        let mut last = Error::Keys("no endpoint was given".to_owned());
        for place in &self.places {
            let form = "application/x-www-form-urlencoded";
            match ask(place, method.clone(), path, form, body.clone()).await {
                Ok(answer) => match understand(&answer) {
                    Some(understood) => return Ok(understood),
                    None => last = Error::Keys(tell(&answer)),
                },
                Err(error) => {
                    let is_unsent = error.kind() == std::io::ErrorKind::ConnectionRefused;
                    last = Error::Keys(error.to_string());
                    if method != Method::GET && !is_unsent {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Reads the records beside the locks, and which releases failed.
    ///
    /// # Errors
    /// When the store does not answer. A record that cannot be read counts as
    /// absent: its holder is foreign then, and is respected.
    pub async fn records(&self) -> Result<Records, Error> {
        let mut records = Records::default();
        for kv in self.range(PREFIX).await? {
            records.take(&kv);
        }
        for kv in self.range(FAILED_PREFIX).await? {
            if let Ok(failed) = serde_json::from_slice::<Failed>(&kv.value) {
                let reason = format!("{} (on machine {})", failed.reason, failed.machine);
                records.verdicts.entry(failed.version).or_insert(reason);
            }
        }
        Ok(records)
    }

    async fn range(&self, prefix: &str) -> Result<Vec<KeyValue>, Error> {
        let (key, range_end) = proa_etcd_client::prefix_range(prefix.as_bytes());
        let request = RangeRequest { key, range_end, limit: MAX_RECORDS, ..RangeRequest::default() };
        Ok(self.client.range(request).await?.kvs)
    }

    /// Does all or nothing; `false` when a guard failed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn commit(&self, guards: Vec<Compare>, ops: Vec<RequestOp>) -> Result<bool, Error> {
        let request = TxnRequest { compare: guards, success: ops, failure: Vec::new() };
        Ok(self.client.txn(request).await?.succeeded)
    }

    /// Makes a lease of so many seconds.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn grant(&self, ttl_s: i64) -> Result<i64, Error> {
        let request = LeaseGrantRequest { ttl: ttl_s, ..LeaseGrantRequest::default() };
        Ok(self.client.lease_grant(request).await?.id)
    }

    /// Gives a lease its whole time again; `false` when it is over.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn renew(&self, lease: i64) -> Result<bool, Error> {
        Ok(self.client.lease_keep_alive_once(lease).await?.ttl > 0)
    }

    /// Renews a lease for as long as the answer is held.
    pub fn keep(&self, lease: i64) -> KeepAlive {
        self.client.keep_alive(lease)
    }

    /// Ends a lease. That it is over already is as good.
    pub async fn revoke(&self, lease: i64) {
        let _ = self.client.lease_revoke(LeaseRevokeRequest { id: lease }).await;
    }

    /// Forgets what is held against a release; how many records that were.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn clear(&self, version: &str) -> Result<usize, Error> {
        let mut keys: Vec<String> = Vec::new();
        for kv in self.range(&format!("{PREFIX}suspects/")).await? {
            keys.extend((kv.key == suspect_key(version).as_bytes()).then(|| suspect_key(version)));
        }
        for kv in self.range(FAILED_PREFIX).await? {
            let is_it = serde_json::from_slice::<Failed>(&kv.value).is_ok_and(|one| one.version == version);
            keys.extend(is_it.then(|| String::from_utf8_lossy(&kv.key).into_owned()));
        }
        for key in &keys {
            self.commit(Vec::new(), vec![delete(key)]).await?;
        }
        Ok(keys.len())
    }
}

impl Records {
    fn take(&mut self, kv: &KeyValue) {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let parts: Vec<&str> = key.strip_prefix(PREFIX).unwrap_or_default().split('/').collect();
        match parts.as_slice() {
            ["holders", machine] => {
                self.machines.entry((*machine).to_owned()).or_default().is_alive = true;
                self.leases.insert((*machine).to_owned(), kv.lease);
            }
            ["intents", machine] => {
                let intent = serde_json::from_slice::<Intent>(&kv.value).ok();
                self.machines.entry((*machine).to_owned()).or_default().intent = intent;
            }
            ["suspects", version] => {
                if let Ok(suspect) = serde_json::from_slice::<Suspect>(&kv.value) {
                    self.verdicts.insert((*version).to_owned(), suspect.reason.clone());
                    self.suspects.push(suspect);
                }
            }
            _ => {}
        }
        self.revisions.insert(key, kv.mod_revision);
    }

    /// That a key is as it was read, which may be absent.
    pub fn unchanged(&self, key: &str) -> Compare {
        let revision = self.revisions.get(key).copied().unwrap_or(0);
        let union = compare::TargetUnion::ModRevision(revision);
        guard(key, compare::CompareTarget::Mod, compare::CompareResult::Equal, union)
    }
}

/// TLS only where it is spoken: the system's CAs cost a megabyte.
fn connect(
    endpoints: &[String],
    timeouts: proa_etcd_client::Timeouts,
    tls: &TlsFiles,
) -> Result<Client, Error> {
    Ok(match endpoints.iter().all(|endpoint| endpoint.starts_with("http://")) {
        true => Client::with_timeouts(endpoints, timeouts)?,
        false => Client::with_tls(endpoints, timeouts, tls.clone())?,
    })
}

/// That a key does not exist.
pub fn missing(key: &str) -> Compare {
    let union = compare::TargetUnion::CreateRevision(0);
    guard(key, compare::CompareTarget::Create, compare::CompareResult::Equal, union)
}

/// That a key exists.
pub fn exists(key: &str) -> Compare {
    let union = compare::TargetUnion::CreateRevision(0);
    guard(key, compare::CompareTarget::Create, compare::CompareResult::Greater, union)
}

fn guard(
    key: &str,
    target: compare::CompareTarget,
    result: compare::CompareResult,
    union: compare::TargetUnion,
) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_owned().into(),
        target_union: Some(union),
        ..Compare::default()
    }
}

/// Writes a key, under a lease unless that is 0.
pub fn put(key: &str, value: Vec<u8>, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..PutRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

/// Removes a key, if it is there.
pub fn delete(key: &str) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

/// Writes an intent.
pub fn put_intent(machine: &str, intent: &Intent) -> RequestOp {
    put(&intent_key(machine), json(intent), 0)
}

/// Writes what is held against a release.
pub fn put_suspect(suspect: &Suspect) -> RequestOp {
    put(&suspect_key(&suspect.version), json(suspect), 0)
}

/// Says who decided last.
pub fn put_turn(machine: &str) -> RequestOp {
    put(&turn_key(), machine.as_bytes().to_vec(), 0)
}

/// Removes what a machine wrote about itself.
pub fn forget(machine: &str) -> Vec<RequestOp> {
    vec![delete(&intent_key(machine)), delete(&holder_key(machine))]
}

fn json(record: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys")
}

/// What a member said in the words of the keys API; `None` for anything else.
fn understand(answer: &Answer) -> Option<Result<Node, KeysError>> {
    if matches!(answer.status, 200 | 201) {
        return serde_json::from_slice::<Answered>(&answer.body).ok().map(|answered| Ok(answered.node));
    }
    // Without a leader or in an election: another member may do better.
    let error: KeysError = serde_json::from_slice(&answer.body).ok()?;
    (error.error_code < 300).then_some(Err(error))
}

fn tell(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let line: String = text.trim().chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("the keys API answered {}: {line}", answer.status)
}

impl From<KeysError> for Error {
    fn from(error: KeysError) -> Self {
        Self::Keys(format!("{}: {} ({})", error.error_code, error.message, error.cause))
    }
}

/// Percent-encodes all but what is plain in a path and in a form.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("a string takes all text"),
        }
    }
    out
}
