//! The store's server: log, database, peers, gRPC.

pub mod database;
pub mod log;
