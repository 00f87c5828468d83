//! Who the client is: a token from a name and a password, again when the
//! store does not know it any more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::call::Caller;
use crate::error::Error;
use crate::pb::AuthClient;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::AuthenticateRequest;

/// The metadata field of the token. Source: etcd's `TokenFieldNameGRPC`.
const TOKEN: &str = "token";

/// A user's name and password, and what they were exchanged for.
pub(crate) struct Login {
    name: String,
    password: String,
    token: Mutex<Token>,
}

#[derive(Clone, Default)]
enum Token {
    /// Nobody has asked yet, or the last one is void.
    #[default]
    Unknown,
    /// Authentication was off when it was asked for.
    NotNeeded,
    Known(MetadataValue<Ascii>),
}

impl Login {
    pub(crate) fn new(name: &str, password: &str) -> Self {
        Self { name: name.to_owned(), password: password.to_owned(), token: Mutex::default() }
    }

    fn token(&self) -> MutexGuard<'_, Token> {
        // It is replaced whole.
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// A request that says who sends it. Logs in first when that is due.
    ///
    /// # Errors
    /// Of logging in.
    pub(crate) async fn signed<Q>(&self, channel: &Channel, message: Q) -> Result<Request<Q>, Error> {
        let mut request = Request::new(message);
        let Some(login) = &self.login else { return Ok(request) };
        let known = login.token().clone();
        let token = match known {
            Token::Unknown => self.log_in(login, channel).await?,
            known => known,
        };
        if let Token::Known(token) = token {
            request.metadata_mut().insert(TOKEN, token);
        }
        Ok(request)
    }

    async fn log_in(&self, login: &Login, channel: &Channel) -> Result<Token, Error> {
        let Login { name, password, .. } = login;
        let question = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let mut client = AuthClient::new(channel.clone());
        let token = match self.ask_once(client.authenticate(question)).await {
            Ok(answer) => {
                let bad = |_| Error::Protocol("the token is no text".to_owned());
                Token::Known(answer.token.parse().map_err(bad)?)
            }
            Err(Error::Refused { text, .. }) if text == EtcdError::AuthNotEnabled.text() => Token::NotNeeded,
            Err(error) => return Err(error),
        };
        *login.token() = token.clone();
        Ok(token)
    }

    /// Whether a request that ended so may be sent once more with a new token;
    /// the old one is forgotten.
    pub(crate) fn is_token_void(&self, error: &Error) -> bool {
        let (Some(login), true) = (&self.login, is_about_token(error)) else { return false };
        *login.token() = Token::Unknown;
        true
    }
}

/// A request that was refused for its token has done nothing.
fn is_about_token(error: &Error) -> bool {
    let Error::Refused { code, text } = error else { return false };
    *code == Code::Unauthenticated || is_token_reason(text)
}

/// Whether a refusal says that the token is unknown, void or out of date.
pub(crate) fn is_token_reason(text: &str) -> bool {
    let reasons = [EtcdError::InvalidAuthToken, EtcdError::AuthOldRevision, EtcdError::UserEmpty];
    reasons.iter().any(|reason| text.ends_with(reason.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_token_is_worth_a_new_one() {
        let refused = |error: EtcdError| Error::Refused {
            code: Code::from_i32(error.code() as i32),
            text: error.text().to_owned(),
        };
        #[rustfmt::skip]
        let rows = [
            (refused(EtcdError::InvalidAuthToken), true),
            (refused(EtcdError::AuthOldRevision),  true),
            (refused(EtcdError::UserEmpty),        true),
            (refused(EtcdError::PermissionDenied), false),
            (refused(EtcdError::AuthFailed),       false),
            (Error::Unavailable { text: "etcdserver: invalid auth token".to_owned(), sent: true }, false),
        ];
        for (error, want) in rows {
            assert_eq!(is_about_token(&error), want, "{error}");
        }
    }
}
