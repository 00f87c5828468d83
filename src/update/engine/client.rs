//! The other end of [`crate::bus`]: what `update_engine_client` asks.

use std::path::Path;

use futures_util::StreamExt as _;
use zbus::{Connection, MatchRule, MessageStream, message::Type};

use crate::{
    bus::{INTERFACE, NAME, PATH, Wire},
    systemd,
};

/// A connection to the updater.
pub struct Updater(Connection);

impl Updater {
    /// Connects to the bus at `socket`.
    ///
    /// # Errors
    /// D-Bus's.
    pub async fn connect(socket: &Path) -> zbus::Result<Self> {
        systemd::connect(socket).await.map(Self)
    }

    async fn call(&self, method: &str) -> zbus::Result<zbus::Message> {
        self.0.call_method(Some(NAME), PATH, Some(INTERFACE), method, &()).await
    }

    /// Calls a method without arguments and answer.
    ///
    /// # Errors
    /// D-Bus's, and the updater's refusal.
    pub async fn tell(&self, method: &str) -> zbus::Result<()> {
        self.call(method).await.map(drop)
    }

    /// Where the updater is.
    ///
    /// # Errors
    /// D-Bus's.
    pub async fn status(&self) -> zbus::Result<Wire> {
        self.call("GetStatus").await?.body().deserialize()
    }

    /// The newest failure as JSON; empty when there is none.
    ///
    /// # Errors
    /// D-Bus's.
    pub async fn last_failure(&self) -> zbus::Result<String> {
        self.call("LastFailure").await?.body().deserialize()
    }

    /// Hands every status to `show`, the present one first, until it says `false`
    /// or the bus ends.
    ///
    /// # Errors
    /// D-Bus's.
    pub async fn watch(&self, mut show: impl FnMut(Wire) -> bool) -> zbus::Result<()> {
        let rule = MatchRule::builder().msg_type(Type::Signal).path(PATH)?.interface(INTERFACE)?.build();
        let mut signals = MessageStream::for_match_rule(rule, &self.0, None).await?;
        let mut status = self.status().await?;
        while show(status) {
            match signals.next().await {
                Some(signal) => status = signal?.body().deserialize()?,
                None => break,
            }
        }
        Ok(())
    }
}
