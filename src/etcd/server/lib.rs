//! The store's server: log, database, peers, gRPC.
