//! The store's server: log, database, peers, gRPC, the JSON gateway.

pub mod auth;
mod authority;
mod compaction;
pub mod config;
pub mod database;
mod discovery;
mod ending;
mod enter;
mod fetch;
mod gateway;
pub mod grpc;
mod health;
mod http;
pub mod lan;
pub mod lease;
mod lessor;
mod listen;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod node;
pub mod peer;
mod place;
mod prompt;
pub mod relay;
mod run;
pub mod settings;
pub mod snapshot;
pub mod space;
pub mod tls;
mod v2;
pub mod watch;

pub use run::{RunError, run};

/// The version of etcd whose protocol is spoken; clients ask for it.
pub const PROTOCOL_VERSION: &str = "3.5.0";
/// The version of the cluster as a whole.
pub const CLUSTER_VERSION: &str = "3.5.0";
