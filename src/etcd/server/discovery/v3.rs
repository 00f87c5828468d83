//! A registry behind the v3 API. Source: etcd 3.6, `v3discovery`.

use proa_etcd_api::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use proa_etcd_client::{Client, Error, prefix_range};

use super::{DiscoveryError, Myself, Registered, Trouble};
use crate::config::V3Token;

/// Below this lie the tokens.
const PREFIX: &str = "/_etcd/registry";

/// A token at a cluster.
pub struct V3Registry {
    client: Client,
    token: String,
    /// What it is called in messages.
    pub name: String,
}

impl V3Registry {
    /// The registry of a token.
    ///
    /// # Errors
    /// Endpoints or files that cannot be used.
    pub fn new(at: &V3Token) -> Result<Self, DiscoveryError> {
        let client = match at.tls.clone() {
            None => Client::with_timeouts(&at.endpoints, at.timeouts)?,
            Some(files) => Client::with_tls(&at.endpoints, at.timeouts, files)?,
        };
        let client = match &at.login {
            None => client,
            Some((name, password)) => client.as_user(name, password),
        };
        Ok(Self { client, token: at.token.clone(), name: at.endpoints.join(",") })
    }

    pub(super) fn size_key(&self) -> String {
        format!("{PREFIX}/{}/_config/size", self.token)
    }

    fn members_prefix(&self) -> String {
        format!("{PREFIX}/{}/members/", self.token)
    }

    pub(super) async fn size(&self) -> Result<Option<String>, Trouble> {
        let request = RangeRequest { key: self.size_key().into(), ..RangeRequest::default() };
        let answer = self.client.range(request).await.map_err(trouble)?;
        Ok(answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    pub(super) async fn members(&self) -> Result<Vec<Registered>, Trouble> {
        let prefix = self.members_prefix();
        let (key, range_end) = prefix_range(prefix.as_bytes());
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        let answer = self.client.range(request).await.map_err(trouble)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let registered = |kv: &proa_etcd_api::mvccpb::KeyValue| Registered {
            id: text(&kv.key).split_off(prefix.len()),
            created: kv.create_revision.unsigned_abs(),
            value: text(&kv.value),
        };
        Ok(answer.kvs.iter().map(registered).collect())
    }

    /// Creates this member's entry; one that is there already is looked at next.
    pub(super) async fn register(&self, myself: &Myself) -> Result<(), Trouble> {
        let key = format!("{}{:x}", self.members_prefix(), myself.id);
        let put = PutRequest {
            key: key.clone().into(),
            value: myself.value.clone().into(),
            ..PutRequest::default()
        };
        let is_absent = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Create.into(),
            key: key.into(),
            target_union: Some(compare::TargetUnion::CreateRevision(0)),
            ..Compare::default()
        };
        let request = TxnRequest {
            compare: vec![is_absent],
            success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
            failure: Vec::new(),
        };
        self.client.txn(request).await.map_err(trouble).map(drop)
    }
}

fn trouble(error: Error) -> Trouble {
    match error {
        Error::Unavailable { text, .. } => Trouble::Later(text),
        error => Trouble::Final(error.into()),
    }
}
