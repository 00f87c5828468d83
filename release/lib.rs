//! Making releases: slots, payloads, signed metadata.
//!
//! A host tool: nothing of it is in the image. What a machine makes of a release is
//! in `proa-update-model`; this crate writes what that one reads.

mod encode;
pub mod error;
pub mod inspect;
pub mod keys;
mod matches;
pub mod metadata;
pub mod payload;
pub mod seal;
mod spans;
