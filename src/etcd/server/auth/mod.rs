//! Finding out who asks, and giving out tokens.
//!
//! What somebody may do is decided in the store (`proa_etcd_store::authorise`);
//! this module finds out who they are: by a token in the metadata field
//! `token` or `authorization`, else by the name in their TLS certificate.

mod jwt;
mod passwords;
mod pem;
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
pub use jwt::{Jwt, JwtOptions};
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
    /// `--auth-token`.
    pub tokens: TokenKind,
}

/// What `--auth-token` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Random words that the members remember.
    Simple,
    /// Words that are signed.
    Jwt(JwtOptions),
}

/// A file of `--auth-token` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--auth-token: {0}")]
pub struct BadTokenKey(String);

impl TokenKind {
    /// Reads the value of `--auth-token`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            Some(("jwt", options)) => JwtOptions::parse(options).map(Self::Jwt),
            None if text == "jwt" => JwtOptions::parse("").map(Self::Jwt),
            None if text == "simple" => Ok(Self::Simple),
            Some(_) | None => Err("give simple, or jwt,sign-method=METHOD,priv-key=FILE".to_owned()),
        }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn open(&self) -> Result<Option<Jwt>, BadTokenKey> {
        let Self::Jwt(options) = self else { return Ok(None) };
        let read = |name: &str, path: &Option<String>| match path {
            None => Ok(None),
            Some(path) => {
                let failed = |error| BadTokenKey(format!("{name}={path}: {error}"));
                std::fs::read(path).map(Some).map_err(failed)
            }
        };
        let public_key = read("pub-key", &options.public_key)?;
        let private_key = read("priv-key", &options.private_key)?;
        let jwt = Jwt::new(options.method, options.ttl, public_key.as_deref(), private_key.as_deref());
        jwt.map(Some).map_err(BadTokenKey)
    }
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
    /// Instead of `tokens`, when tokens are signed.
    jwt: Option<Jwt>,
    passwords: Passwords,
}

impl Auth {
    /// Knows the tokens of `node` from now on.
    pub fn start(node: &Node, config: &AuthConfig, jwt: Option<Jwt>) -> Arc<Self> {
        let tokens = Arc::new(Tokens::new(config.token_ttl));
        let known = Arc::clone(&tokens);
        node.set_token_sink(Box::new(move |granted| known.add(granted)));
        Arc::new(Self { node: node.clone(), tokens, jwt, passwords: Passwords::new(config.bcrypt_cost) })
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
        if let Some(jwt) = &self.jwt {
            let owner = jwt.owner(token, now_s()).ok_or(EtcdError::InvalidAuthToken)?;
            // Another member may have given it out at a revision that is still on its way here.
            if owner.auth_revision > self.node.auth_stamp().revision {
                self.node.linearizable().await?;
            }
            return self.still(owner);
        }
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
            if let Some(jwt) = &self.jwt {
                let (user, auth_revision) = (user.to_owned(), checked_revision);
                let owner = Requester { user, auth_revision, is_member: false };
                // As etcd, a member without a private key cannot log anybody in.
                return jwt.sign(&owner, now_s()).ok_or(EtcdError::AuthFailed);
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

/// Seconds since 1970; a clock before that makes every signed token old.
fn now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(u64::MAX, |now| now.as_secs())
}

/// The same user as of `auth`; `None` if what was proven proves nothing any more.
fn renewed(by: &Requester, auth: &AuthState) -> Option<Requester> {
    let is_known = !by.user.is_empty() && auth.accepts(&by.user, by.auth_revision);
    is_known.then(|| Requester { auth_revision: auth.revision(), ..by.clone() })
}
