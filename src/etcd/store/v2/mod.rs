//! The v2 tree: directories and files with values, times to live and indexes.
//!
//! It lives beside the v3 keys in the same view, under the tag `V`, and has a
//! counter of its own. Answers, errors and indexes are those of etcd 2.3 and
//! 3.4 for the same requests. Differences, all on purpose: children are always
//! told in order; deleting `/foo` does not wake who looks into the past of
//! `/foobar`; history is bounded by bytes instead of 1000 events; a member's
//! own bookkeeping takes no index, so a new store stands where etcd's does
//! with one member.

mod head;
mod history;
mod keys;
mod read;
mod tree;

pub use head::Head;
pub use history::{HISTORY_BYTES, Past, Rules, Watch, past};
pub(crate) use keys::{ALL, ALL_END};
pub use read::{get, head, is_dir, next_expiry, seconds_left};
pub(crate) use tree::{expire, write};
