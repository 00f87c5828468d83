//! The generated service clients, over the message types of the api crate.

#![allow(missing_docs, reason = "generated code")]

tonic::include_proto!("etcdserverpb");

pub(crate) use auth_client::AuthClient;
pub(crate) use cluster_client::ClusterClient;
pub(crate) use kv_client::KvClient;
pub(crate) use lease_client::LeaseClient;
pub(crate) use maintenance_client::MaintenanceClient;
pub(crate) use watch_client::WatchClient;
