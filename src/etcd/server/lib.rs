//! The store's server: log, database, peers, gRPC.

pub mod log;
