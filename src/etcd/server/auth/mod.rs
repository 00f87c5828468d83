//! Finding out who asks, and giving out tokens.
//!
//! What somebody may do is decided in the store (`proa_etcd_store::authorise`);
//! this module finds out who they are: by a token in the metadata field
//! `token` or `authorization`, else by the name in their TLS certificate.

mod passwords;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::{AuthChange, Command, Requester, TokenGrant, command::Op};
use proa_etcd_store::{AuthState, Need, authorise};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request};

use crate::node::{Node, ReadView};
use crate::tls::ClientName;
use passwords::Passwords;
pub use passwords::TooLong;
use tokens::Tokens;

/// How often a request is let in anew, or a password looked at again, because
/// users or permissions have changed meanwhile.
const TRIES: usize = 4;
/// The metadata fields of a token. Source: etcd's `TokenFieldNameGRPC` and
/// `TokenFieldNameSwagger`.
const TOKEN_FIELDS: [&str; 2] = ["token", "authorization"];

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// `--bcrypt-cost`: each step doubles the work of trying one password.
    pub bcrypt_cost: u32,
    /// `--auth-token-ttl`: how long a token lives that nobody uses.
    pub token_ttl: Duration,
}

/// What a request says about who sent it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    token: Option<String>,
    name: Option<ClientName>,
}

/// Marks a request that came as gRPC over the connection that it speaks for.
/// A gateway's request has none: the certificate is then the gateway's own.
///
/// Source: CVE-2018-16886.
#[derive(Clone, Debug)]
pub(crate) struct OwnConnection(pub ClientName);

impl Credentials {
    /// Reads them from a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        Self::from_parts(request.metadata(), request.extensions())
    }

    fn from_parts(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let token = TOKEN_FIELDS.iter().find_map(|field| metadata.get(*field));
        let token = token.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let name = extensions.get::<OwnConnection>().map(|OwnConnection(name)| name.clone());
        Self { token, name }
    }
}

/// See the module.
pub struct Auth {
    node: Node,
    tokens: Arc<Tokens>,
    passwords: Passwords,
}

impl Auth {
    /// Knows the tokens of `node` from now on.
    pub fn start(node: &Node, config: &AuthConfig) -> Arc<Self> {
        let tokens = Arc::new(Tokens::new(config.token_ttl));
        let known = Arc::clone(&tokens);
        node.set_token_sink(Box::new(move |granted| known.add(granted)));
        Arc::new(Self { node: node.clone(), tokens, passwords: Passwords::new(config.bcrypt_cost) })
    }

    /// Who asks. Nobody in particular, while authentication is off.
    ///
    /// # Errors
    /// [`EtcdError::InvalidAuthToken`].
    pub async fn identify(&self, credentials: &Credentials) -> Result<Requester, EtcdError> {
        if !self.node.is_auth_enabled() {
            return Ok(Requester::default());
        }
        match (&credentials.token, &credentials.name) {
            (Some(token), _) => self.owner(token).await,
            (None, Some(ClientName(name))) => {
                let auth_revision = self.node.view().auth.revision();
                Ok(Requester { user: name.clone(), auth_revision, is_member: false })
            }
            (None, None) => Ok(Requester::default()),
        }
    }

    async fn owner(&self, token: &str) -> Result<Requester, EtcdError> {
        if let Some(owner) = self.tokens.owner(token) {
            return self.still(owner);
        }
        // It may have been granted a moment ago through another member.
        self.node.linearizable().await?;
        self.tokens.owner(token).map_or(Err(EtcdError::InvalidAuthToken), |owner| self.still(owner))
    }

    fn still(&self, owner: Requester) -> Result<Requester, EtcdError> {
        renewed(&owner, &self.node.view().auth).ok_or(EtcdError::InvalidAuthToken)
    }

    /// Lets a request in that is about to work on the state of `now`.
    ///
    /// # Errors
    /// As [`authorise`].
    pub fn admit(&self, by: &Requester, needs: &[Need<'_>], now: &ReadView) -> Result<Requester, EtcdError> {
        // Who was identified a moment ago is so still, unless the password was
        // changed: no reason to send a client back for a new revision.
        let by = renewed(by, &now.auth).unwrap_or_else(|| by.clone());
        authorise(&now.auth, &by, needs, &now.view).map(|()| by)
    }

    /// Has `op` agreed on and applied if `by` may do it.
    ///
    /// # Errors
    /// As [`Auth::admit`] and [`Node::propose_for`].
    pub async fn propose(&self, by: &Requester, op: Op) -> Result<proa_etcd_store::Reply, EtcdError> {
        if !self.node.is_auth_enabled() {
            return self.node.propose(Command { op: Some(op) }).await;
        }
        let mut tries_left = TRIES;
        loop {
            let by = {
                let now = self.node.view();
                self.admit(by, &proa_etcd_store::auth::needs::command(&op), &now)?
            };
            tries_left -= 1;
            match self.node.propose_for(Some(by), Command { op: Some(op.clone()) }).await {
                // Users or permissions changed on the way: nothing was done,
                // and the state here is now the one that it was refused by.
                Err(EtcdError::AuthOldRevision) if tries_left > 0 => {}
                answer => return answer,
            }
        }
    }

    /// Logs a user in: a token that every member knows.
    ///
    /// # Errors
    /// [`EtcdError::AuthNotEnabled`], [`EtcdError::AuthFailed`],
    /// [`EtcdError::TooManyRequests`], those of [`Node::propose_for`].
    pub async fn authenticate(&self, user: &str, password: &str) -> Result<String, EtcdError> {
        self.node.linearizable().await?;
        let mut tries_left = TRIES;
        loop {
            let auth = Arc::clone(&self.node.view().auth);
            if !auth.is_enabled() {
                return Err(EtcdError::AuthNotEnabled);
            }
            let secret = auth.secret(user);
            let checked_revision = auth.revision();
            let hash = secret.and_then(|secret| secret.password_hash);
            if !self.passwords.is_right(password, hash).await? {
                return Err(EtcdError::AuthFailed);
            }
            let (token, digest) = tokens::make();
            let grant = TokenGrant { user: user.to_owned(), digest, checked_revision };
            let change = AuthChange { change: Some(Change::TokenGrant(grant)) };
            tries_left -= 1;
            match self.node.propose_as_member(Command { op: Some(Op::Auth(change)) }).await {
                Ok(_) => return Ok(token),
                // The password was changed while it was looked at.
                Err(EtcdError::AuthOldRevision) if tries_left > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether `hash` is of this password; without a hash none is right.
    ///
    /// # Errors
    /// [`EtcdError::TooManyRequests`].
    pub async fn is_right(&self, password: &str, hash: Option<String>) -> Result<bool, EtcdError> {
        self.passwords.is_right(password, hash).await
    }

    /// What is kept of a password.
    ///
    /// # Errors
    /// [`TooLong`], or [`EtcdError::TooManyRequests`].
    pub async fn hash(&self, password: &str) -> Result<Result<String, TooLong>, EtcdError> {
        self.passwords.hash(password).await
    }
}

/// The same user as of `auth`; `None` if what was proven proves nothing any more.
fn renewed(by: &Requester, auth: &AuthState) -> Option<Requester> {
    let is_known = !by.user.is_empty() && auth.accepts(&by.user, by.auth_revision);
    is_known.then(|| Requester { auth_revision: auth.revision(), ..by.clone() })
}
