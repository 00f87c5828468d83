//! The generated service traits, over the message types of the api crate.

#![allow(missing_docs, reason = "generated code")]

tonic::include_proto!("etcdserverpb");
