//! Watches and who they were granted to: a watch ends when its right does, and
//! nothing reaches its owner that happened after that.
//!
//! Users and permissions change at a point of the log; events after it are on
//! their way before anybody had time to look through all watches. So each
//! delivery is held against the newest change, on its last step to the client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::Requester;
use proa_etcd_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proa_etcd_store::auth::needs;

use crate::auth::{Auth, Credentials};
use crate::node::{AuthStamp, Node};
use crate::watch::answer::Answer;
use crate::watch::hub::{Delivery, Hub, WatcherId};

/// The watches of one stream, by their numbers in the hub.
pub(super) struct Rights {
    node: Node,
    auth: Arc<Auth>,
    hub: Arc<Hub>,
    /// What the client said about itself when it opened the stream.
    credentials: Credentials,
    granted: Mutex<BTreeMap<WatcherId, Granted>>,
}

/// A watch that was let in.
#[derive(Clone)]
pub(super) struct Granted {
    watch_id: i64,
    request: WatchCreateRequest,
    by: Requester,
    /// The users and permissions that it was let in by.
    checked: AuthStamp,
}

impl Rights {
    pub fn new(node: &Node, auth: &Arc<Auth>, hub: &Arc<Hub>, credentials: Credentials) -> Self {
        let (node, auth, hub) = (node.clone(), Arc::clone(auth), Arc::clone(hub));
        Self { node, auth, hub, credentials, granted: Mutex::default() }
    }

    /// Lets a new watch in.
    pub async fn admit(&self, request: WatchCreateRequest) -> Result<Granted, EtcdError> {
        self.admit_for(Requester::default(), request).await
    }

    async fn admit_for(&self, known: Requester, request: WatchCreateRequest) -> Result<Granted, EtcdError> {
        // Before the state is looked at: what changes meanwhile is newer.
        let checked = self.node.auth_stamp();
        let by = match known.user.is_empty() {
            true => self.auth.identify(&self.credentials).await?,
            // A watch goes on when the token that it was made with ends.
            false => known,
        };
        let by = self.auth.admit(&by, &needs::watch(&request), &self.node.view())?;
        Ok(Granted { watch_id: 0, request, by, checked })
    }

    /// Remembers a watch by its number in the hub and on its stream, before it
    /// gets its first event.
    pub fn remember(&self, id: WatcherId, watch_id: i64, granted: Granted) {
        self.granted().insert(id, Granted { watch_id, ..granted });
    }

    /// Forgets one that its client has ended.
    pub fn forget(&self, id: WatcherId) {
        self.granted().remove(&id);
    }

    pub fn is_remembered(&self, id: WatcherId) -> bool {
        self.granted().contains_key(&id)
    }

    /// The delivery, or the end of its watch in its place; nothing when the
    /// watch has ended before.
    pub async fn pass(&self, delivery: Delivery) -> Option<Delivery> {
        let Some(id) = delivery.watcher else { return Some(delivery) };
        let checked = self.granted().get(&id)?.checked;
        if checked == self.node.auth_stamp() {
            return Some(delivery);
        }
        match self.check(id).await {
            Some(end) => Some(Delivery { answer: self.answer(end), fragment_bytes: None, watcher: None }),
            None => self.is_remembered(id).then_some(delivery),
        }
    }

    /// Asks again whether a watch may go on. If not it is forgotten here and
    /// in the hub, and its end is to be said.
    pub async fn check(&self, id: WatcherId) -> Option<WatchResponse> {
        let Granted { watch_id, request, by, .. } = self.granted().get(&id)?.clone();
        match self.admit_for(by, request).await {
            Ok(granted) => {
                // It may have been ended meanwhile.
                if let Some(known) = self.granted().get_mut(&id) {
                    *known = Granted { watch_id, ..granted };
                }
                None
            }
            Err(error) => {
                self.hub.remove(id);
                self.granted().remove(&id)?;
                let cancel_reason = reason_of(error);
                Some(WatchResponse { watch_id, canceled: true, cancel_reason, ..WatchResponse::default() })
            }
        }
    }

    fn answer(&self, end: WatchResponse) -> Answer {
        let header = Some(self.hub.header(self.hub.revision()));
        Answer::new(WatchResponse { header, ..end })
    }

    fn granted(&self) -> MutexGuard<'_, BTreeMap<WatcherId, Granted>> {
        // Each change is one call of the map.
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refusal as clients look for it: the text of gRPC's error in Go.
///
/// Source: etcd's `ErrGRPCPermissionDenied.Error()`, which its client compares.
pub(super) fn reason_of(error: EtcdError) -> String {
    format!("rpc error: code = {:?} desc = {error}", error.code())
}
