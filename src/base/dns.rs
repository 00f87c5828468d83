//! DNS as far as SRV records need it: one question, one answer, and whom to
//! ask. Everything here is a function of its arguments; who sends the bytes is
//! elsewhere.
//!
//! A resolver library would have brought caches, DNSSEC and every kind of
//! record: ten times the code of what a question and an answer take.

mod message;
mod resolv_conf;

pub use message::{Answer, BadName, Srv, order, srv_answer, srv_query};
pub use resolv_conf::ResolvConf;
