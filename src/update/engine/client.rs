//! The other end of [`crate::bus`]: what `update_engine_client` asks.

use std::{path::Path, time::Duration};

use futures_util::StreamExt as _;
use zbus::{Connection, MatchRule, MessageStream, message::Type};

use crate::{
    bus::{INTERFACE, NAME, PATH, Wire},
    systemd,
};

/// An updater that has been silent for so long is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no message bus.
    #[error("cannot reach the message bus {socket}")]
    NoBus {
        /// Where it was looked for.
        socket: String,
        /// Why not.
        source: zbus::Error,
    },
    /// Nobody has the updater's name.
    #[error("update_engine does not run; \"journalctl -u update-engine\" says why")]
    NotRunning,
    /// The bus lets only root tell the updater what to do.
    #[error("only root may do that")]
    NotAllowed,
    /// The updater is there and does not answer.
    #[error("update_engine does not answer")]
    Silent,
    /// The updater's own words.
    #[error("{0}")]
    Refused(String),
    /// The bus went away.
    #[error("lost the message bus")]
    Lost,
    /// Anything else that D-Bus says.
    #[error(transparent)]
    Bus(zbus::Error),
}

impl From<zbus::Error> for ClientError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => match name.as_str() {
                "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                    Self::NotRunning
                }
                "org.freedesktop.DBus.Error.AccessDenied" => Self::NotAllowed,
                // The bus says it of an owner that ended before it answered.
                "org.freedesktop.DBus.Error.NoReply" => Self::Silent,
                other => Self::Refused(text.unwrap_or_else(|| other.to_owned())),
            },
            zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Silent,
            zbus::Error::InputOutput(_) => Self::Lost,
            error => Self::Bus(error),
        }
    }
}

/// A connection to the updater.
pub struct Updater(Connection);

impl Updater {
    /// Connects to the bus at `socket`.
    ///
    /// # Errors
    /// [`ClientError::NoBus`].
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connected = systemd::connect(socket).await;
        let failed = |source| ClientError::NoBus { socket: socket.display().to_string(), source };
        connected.map(Self).map_err(failed)
    }

    async fn call(&self, method: &str) -> Result<zbus::Message, ClientError> {
        Ok(self.0.call_method(Some(NAME), PATH, Some(INTERFACE), method, &()).await?)
    }

    /// Calls a method without arguments and answer.
    ///
    /// # Errors
    /// [`ClientError`], also the updater's refusal.
    pub async fn tell(&self, method: &str) -> Result<(), ClientError> {
        self.call(method).await.map(drop)
    }

    /// Where the updater is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Wire, ClientError> {
        Ok(self.call("GetStatus").await?.body().deserialize()?)
    }

    /// The newest failure as JSON; empty when there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn last_failure(&self) -> Result<String, ClientError> {
        Ok(self.call("LastFailure").await?.body().deserialize()?)
    }

    /// How many questions to the server have come to an end, and why the last did not
    /// end well; that is empty when it did.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn last_attempt(&self) -> Result<(u64, String), ClientError> {
        Ok(self.call("LastAttempt").await?.body().deserialize()?)
    }

    async fn signals(&self) -> Result<MessageStream, ClientError> {
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(NAME)?;
        let rule = rule.path(PATH)?.interface(INTERFACE)?.build();
        Ok(MessageStream::for_match_rule(rule, &self.0, None).await?)
    }

    /// Hands every status to `show`, the present one first, until the bus ends. An
    /// updater that starts again goes on to be seen.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&self, mut show: impl FnMut(&Wire)) -> Result<(), ClientError> {
        let mut signals = self.signals().await?;
        show(&self.status().await?);
        while let Some(signal) = signals.next().await {
            show(&signal?.body().deserialize()?);
        }
        Err(ClientError::Lost)
    }

    /// Has the server asked, hands every status to `show` and returns when a question
    /// has come to its end: why it did not end well, or nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn update(&self, mut show: impl FnMut(&Wire)) -> Result<String, ClientError> {
        // Whoever looks after the question may find all of it over.
        let mut signals = self.signals().await?;
        let (before, _) = self.last_attempt().await?;
        self.tell("AttemptUpdate").await?;
        let mut shown = None;
        loop {
            let (attempts, error) = self.last_attempt().await?;
            let status = self.status().await?;
            if shown.as_ref() != Some(&status) {
                show(&status);
                shown = Some(status);
            }
            if attempts != before {
                return Ok(error);
            }
            if let Ok(None) = tokio::time::timeout(SILENCE, signals.next()).await {
                return Err(ClientError::Lost);
            }
        }
    }
}
