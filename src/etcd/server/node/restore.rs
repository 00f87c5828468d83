//! A member that begins with a state from elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use proa_etcd_api::etcdserverpb::Member;

use super::boot::{Fill, Initial, create, initial_of_flags};
use super::error::NodeError;
use super::handle::random_word;
use super::meta::{Identity, Layout};
use crate::log::disk::Files;

/// Who a data dir is made for, as by `etcd`'s flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// `--name`.
    pub name: String,
    /// `--initial-advertise-peer-urls`.
    pub peer_urls: Vec<String>,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--initial-cluster`.
    pub cluster: BTreeMap<String, Vec<String>>,
}

/// Makes the data dir of a first member of a new cluster, its database filled
/// by `fill`. All first members must be filled alike.
///
/// # Errors
/// [`NodeError`]; what is in `data_dir` then is no member's.
pub fn create_from(data_dir: &Path, member: &NewMember, fill: &mut Fill<'_>) -> Result<(), NodeError> {
    let NewMember { name, peer_urls, token, cluster } = member;
    let initial = initial_of_flags(name, peer_urls, token, cluster)?;
    let layout = Layout { disk: Files, root: data_dir.to_owned() };
    create(&layout, &initial, fill)
}

/// Makes the data dir of somebody new, alone in a new cluster, with a database filled by
/// `fill`. It has no address: [`super::Bootstrap::Alone`] gives it one.
///
/// # Errors
/// As [`create_from`].
pub fn create_stranger(data_dir: &Path, fill: &mut Fill<'_>) -> Result<(), NodeError> {
    // 0 is nobody.
    let identity = Identity { cluster_id: random_word().max(1), member_id: random_word().max(1) };
    let member = Member { id: identity.member_id, ..Member::default() };
    let layout = Layout { disk: Files, root: data_dir.to_owned() };
    create(&layout, &Initial::founding(identity, vec![member]), fill)
}
