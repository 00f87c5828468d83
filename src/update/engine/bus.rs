//! The D-Bus service of the original, `com.coreos.update1`, with three methods more.
//!
//! Source: CoreOS update_engine, `UpdateEngine.xml`.

#![allow(missing_docs, reason = "the macro makes a public trait for the signal")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};
use zbus::{
    Connection, MessageStream,
    connection::Builder,
    fdo::{self, RequestNameFlags},
    object_server::SignalEmitter,
};

/// The service's name on the bus.
pub const NAME: &str = "com.coreos.update1";
/// Its only object.
pub const PATH: &str = "/com/coreos/update1";
/// The interface of that.
pub const INTERFACE: &str = "com.coreos.update1.Manager";

/// How long a wish may wait for the updater: less than its client waits, so that what
/// a client was refused is not done all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Between two tries to have the name.
const RETRY: Duration = Duration::from_secs(5);
/// Between two signals of progress: a person sees no more.
const SIGNAL_EVERY: Duration = Duration::from_millis(250);

/// What everybody may know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// When the server answered last, in seconds since 1970.
    pub last_checked_unix_s: i64,
    /// How much of the payload is there, 0..=1.
    pub progress: f64,
    /// `UPDATE_STATUS_...`.
    pub operation: String,
    /// The version on its way; empty when there is none.
    pub version: String,
    /// Bytes of its payload.
    pub size_bytes: i64,
    /// The newest failure as JSON; empty when there is none.
    pub last_failure: String,
    /// How many questions to the server have come to an end since the start.
    pub attempts: u64,
    /// Why the last of them did not end well; empty when it did.
    pub last_error: String,
    /// Whether it takes orders: not before it has found out where it is.
    pub is_ready: bool,
}

/// As it is on the wire.
pub type Wire = (i64, f64, String, String, i64);

impl Status {
    fn wire(&self) -> Wire {
        let Self { last_checked_unix_s, progress, operation, version, size_bytes, .. } = self.clone();
        (last_checked_unix_s, progress, operation, version, size_bytes)
    }
}

/// What a person asks for; the answer is `Ok` or one line why not.
#[derive(Debug)]
pub enum Command {
    /// Ask the server now.
    Attempt,
    /// Forget what was staged.
    Reset(oneshot::Sender<Result<(), String>>),
    /// Boot the other slot next.
    Rollback(oneshot::Sender<Result<(), String>>),
}

struct Manager {
    status: watch::Receiver<Status>,
    commands: mpsc::Sender<Command>,
}

impl Manager {
    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
    ) -> fdo::Result<()> {
        let Status { operation, is_ready, .. } = self.status.borrow().clone();
        if !is_ready {
            let text = "the updater is busy: it has not found yet that this boot is good";
            return Err(fdo::Error::Failed(text.to_owned()));
        }
        if !matches!(operation.as_str(), "UPDATE_STATUS_IDLE" | "UPDATE_STATUS_UPDATED_NEED_REBOOT") {
            return Err(fdo::Error::Failed(format!("the updater is busy: {operation}")));
        }
        let (answer, answered) = oneshot::channel();
        let busy = || fdo::Error::Failed("the updater is busy".to_owned());
        self.commands.try_send(command(answer)).map_err(|_| busy())?;
        let answered = tokio::time::timeout(ANSWER_WITHIN, answered).await.map_err(|_| busy())?;
        answered.map_err(|_| busy())?.map_err(fdo::Error::Failed)
    }
}

#[zbus::interface(name = "com.coreos.update1.Manager")]
impl Manager {
    fn attempt_update(&self) {
        // A full queue already holds the wish.
        let _ = self.commands.try_send(Command::Attempt);
    }

    async fn reset_status(&self) -> fdo::Result<()> {
        self.ask(Command::Reset).await
    }

    async fn rollback(&self) -> fdo::Result<()> {
        self.ask(Command::Rollback).await
    }

    #[zbus(out_args("last_checked_time", "progress", "current_operation", "new_version", "new_size"))]
    // Not `Wire`: the macro takes a name for one value, and describes five as a struct.
    fn get_status(&self) -> (i64, f64, String, String, i64) {
        self.status.borrow().wire()
    }

    #[zbus(out_args("failure"))]
    fn last_failure(&self) -> String {
        self.status.borrow().last_failure.clone()
    }

    #[zbus(out_args("attempts", "error"))]
    fn last_attempt(&self) -> (u64, String) {
        let status = self.status.borrow();
        (status.attempts, status.last_error.clone())
    }

    /// Something of the status has changed.
    #[zbus(signal)]
    async fn status_update(
        emitter: &SignalEmitter<'_>,
        last_checked_time: i64,
        progress: f64,
        current_operation: &str,
        new_version: &str,
        new_size: i64,
    ) -> zbus::Result<()>;
}

/// Serves for ever, on a connection after the other; a machine without a bus is
/// updated all the same.
pub async fn serve(socket: PathBuf, status: watch::Receiver<Status>, commands: mpsc::Sender<Command>) {
    let mut told = String::new();
    loop {
        let why = match serve_once(&socket, status.clone(), commands.clone()).await {
            Ok(()) => "it went away".to_owned(),
            Err(zbus::Error::NameTaken) => format!("another process has the name {NAME}"),
            Err(error) => proa_base::cli::chain(&error),
        };
        // Once for each reason: a machine may have no bus at all.
        if why != told {
            let bus = socket.display();
            tracing::warn!("nobody reaches the updater by the message bus {bus}: {why}; tries again");
            told = why;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve_once(
    socket: &Path,
    mut status: watch::Receiver<Status>,
    commands: mpsc::Sender<Command>,
) -> zbus::Result<()> {
    let manager = Manager { status: status.clone(), commands };
    let builder = Builder::unix_stream(UnixStream::connect(socket).await?);
    let connection: Connection = builder.serve_at(PATH, manager)?.build().await?;
    // The builder's own way waits in the queue for the name and says nothing of it.
    connection.request_name_with_flags(NAME, RequestNameFlags::DoNotQueue.into()).await?;
    tracing::info!("has the name {NAME} on the message bus");
    let emitter = SignalEmitter::new(&connection, PATH)?;
    let mut messages = MessageStream::from(&connection);
    loop {
        tokio::select! {
            message = messages.next() => {
                if !matches!(message, Some(Ok(_))) {
                    return Ok(());
                }
            }
            changed = status.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let (checked, progress, operation, version, size) = status.borrow_and_update().wire();
                Manager::status_update(&emitter, checked, progress, &operation, &version, size).await?;
                tokio::time::sleep(SIGNAL_EVERY).await;
            }
        }
    }
}
