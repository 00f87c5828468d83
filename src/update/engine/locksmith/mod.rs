//! Reboots that a cluster survives: `locksmithd` and what `locksmithctl` does.
//!
//! The lock is the original's value under the original's key of the v2 API, so
//! that its clients take part; see `proa_update_model::reboot` for the records
//! beside it and for every decision. Here is what looks and acts.
//!
//! A holder without records (a client of the original, a FleetLock client, a
//! person with `locksmithctl lock`) is respected until it is unlocked, since
//! nothing tells a machine that died from a person who wants no reboots;
//! `update.foreign-lock-limit` bounds it where no person does that.

pub mod command;
pub mod config;
mod daemon;
mod fleet;
mod fleetlock;
mod machine;
mod members;
mod round;
mod store;
mod wire;

pub use daemon::run;
pub use round::Asked;
pub use store::Store;

/// Why something did not happen. Most of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] proa_etcd_client::Error),
    /// The store's keys API did not answer, or refused.
    #[error("cannot reach the reboot lock: {0}")]
    Keys(String),
    /// The lock's value is none.
    #[error(transparent)]
    BadLock(#[from] proa_update_model::reboot::semaphore::BadSemaphore),
    /// The lock says no.
    #[error(transparent)]
    Refused(#[from] proa_update_model::reboot::semaphore::Refused),
    /// Others change the lock all the time.
    #[error("the reboot lock is being changed by others, try again")]
    Contended,
    /// The cluster init did not do what was asked.
    #[error("fleetd: {0}")]
    Fleet(String),
    /// The message bus, or who should be on it.
    #[error("the message bus: {0}")]
    Bus(String),
    /// systemd did not take the order.
    #[error("cannot reboot: {0}")]
    Reboot(String),
    /// The port of FleetLock cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A machine without identity.
    #[error("cannot read /etc/machine-id")]
    NoMachineId,
    /// No signals, no runtime.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}
