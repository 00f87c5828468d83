//! The updater's decisions: slot flags, which slot boots, and how the
//! partition table is changed so that a power cut never loses it.
//!
//! Caller's duties:
//! 1. Read whole sectors from the disk and hand them in unchanged.
//! 2. Perform a plan's steps in order, and treat [`gpt::Step::Sync`] as a real
//!    flush of the disk's cache.
//! 3. Boot an unproven slot only after the plan that spends its try succeeded.

pub mod boot_record;
pub mod crc;
pub mod engine;
pub mod error_code;
pub mod failure;
pub mod gpt;
pub mod guid;
pub mod hash;
pub mod health;
pub mod kept;
pub mod layout;
pub mod metadata;
pub mod omaha;
pub mod payload;
pub mod poll;
pub mod reboot;
pub mod rollout;
pub mod slots;
pub mod verity;
pub mod version;
