//! The Omaha server: tells machines which release to install, and serves it.
//!
//! ```text
//! machines -> omaha (POST /v1/update) -> store <- api <- omahactl
//! machines -> packages (GET /packages/NAME) -> folder <- api <- omahactl
//! ```
//!
//! What is decided is decided in `update/model/rollout`; what is remembered is
//! in the store. So several servers can serve one store: each writes only what
//! it decided from records that nobody has changed meanwhile.

mod api;
mod changes;
pub mod client;
pub mod config;
mod error;
mod http;
mod omaha;
mod packages;
mod range;
mod release;
mod serve;
mod store;
mod tls;

pub use packages::{Digests, digests_of_file};
pub use release::{NewPackage, NewRelease};
pub use serve::{Failed, run};
