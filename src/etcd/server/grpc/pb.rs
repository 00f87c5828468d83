//! The generated service traits, over the message types of the api crate.

#![allow(missing_docs, reason = "generated code")]

tonic::include_proto!("etcdserverpb");

/// Package `grpc.health.v1`.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Package `v3lockpb`.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Package `v3electionpb`.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
