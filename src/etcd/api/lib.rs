//! The store's wire messages, shared by server and client.
