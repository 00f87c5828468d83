//! Payloads made for tests, and the laws of reading and applying them.

mod applying;
mod builder;
mod reading;
#[allow(clippy::unwrap_used)]
mod rules;
