//! Signed release metadata: what may be installed, said by who publishes, and
//! checked without believing the server or the connection.
//!
//! An [`Envelope`] holds bytes and signatures of exactly these bytes. The bytes
//! are a [`Release`], or a [`KeySet`] in the chain that leads from the keys a
//! machine trusts to those a release is signed with. Which of the two they are
//! stands in the signed bytes, so neither can be passed off as the other.
//!
//! What an attacker can do who owns the server and the network: offer nothing,
//! and offer an older release that is still newer than what runs, until it
//! expires. Nothing else, without `threshold` of the private keys.
//!
//! Caller's duties:
//! 1. Read no more than [`ENVELOPE_BYTES_MAX`] bytes.
//! 2. Keep [`Accepted::keys`] before anything of the release is used: a key that
//!    was retired once must never count again.
//! 3. Hand in a time that is not before the build of the running system, whatever
//!    the clock says: a machine without a battery wakes up in 1970.
//! 4. Compare [`Release::root_hash`] with what was read back from the slot.
//!
//! Source: the idea of thresholds and of rotation by old and new keys is that of
//! The Update Framework, version 1.0, sections 4.3 and 5.3.

mod envelope;
mod keys;
mod release;

pub use envelope::{Envelope, Signature};
pub use keys::{KeyId, KeySet, ReleaseKey};
pub use release::{Origin, Payload, Release};

use proa_base::utc::utc;

use crate::{error_code::ErrorCode, version::Version};

/// Most bytes of an envelope with its chain of key sets. A release with 16
/// payloads has some 8 KiB; each link of a chain with 2 keys of 3 some 700 bytes.
pub const ENVELOPE_BYTES_MAX: usize = 32 << 10;

/// Most keys of a set, and most signatures of an envelope.
pub const KEYS_MAX: usize = 16;

/// Most key sets that come with a release: one a year for longer than a machine lives.
pub const CHAIN_MAX: usize = 16;

/// Most payloads of a release: the whole one and the differences to 15 others.
pub const PAYLOADS_MAX: usize = 16;

/// Whether a release may be older than what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downgrade {
    /// Older ones, and the running one again, are refused.
    Refused,
    /// Someone who may has asked for it on this machine.
    Asked,
}

/// The machine that a release is checked for.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its application id, with or without braces.
    pub app: &'a str,
    /// The version that runs.
    pub running: &'a Version,
    /// Seconds since 1970.
    pub now_unix_s: u64,
    /// Whether it was told to go back.
    pub downgrade: Downgrade,
}

/// A release that may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it is.
    pub release: Release,
    /// The newest key set of the chain: what is trusted from now on.
    pub keys: KeySet,
}

/// Checks `bytes`, the JSON of an envelope, from the outside in: form, chain of
/// keys, signatures, and only then what is said and whether it suits `machine`.
///
/// # Errors
/// [`Refusal`]: the first check that fails.
pub fn verify(bytes: &[u8], trusted: &KeySet, machine: &Machine<'_>) -> Result<Accepted, Refusal> {
    let envelope = Envelope::parse(bytes)?;
    let keys = trusted.advance(&envelope.keys)?;
    keys.check(&envelope)?;
    let release = Release::parse(&envelope.signed)?;
    suits(&release, machine)?;
    Ok(Accepted { release, keys })
}

fn suits(release: &Release, machine: &Machine<'_>) -> Result<(), Refusal> {
    let (app, now_unix_s) = (bare(machine.app), machine.now_unix_s);
    if !bare(&release.app).eq_ignore_ascii_case(app) {
        return Err(Refusal::WrongApp { offered: release.app.clone(), ours: machine.app.to_owned() });
    }
    if now_unix_s >= release.expires_unix_s {
        return Err(Refusal::Expired { expires_unix_s: release.expires_unix_s, now_unix_s });
    }
    let running = machine.running.to_string();
    if machine.downgrade == Downgrade::Refused && release.version <= *machine.running {
        return Err(Refusal::Older { offered: release.version.to_string(), running });
    }
    if *machine.running < release.minimum {
        return Err(Refusal::BelowMinimum { minimum: release.minimum.to_string(), running });
    }
    Ok(())
}

/// An application id without its braces, which some write and others do not.
fn bare(app: &str) -> &str {
    app.strip_prefix('{').and_then(|app| app.strip_suffix('}')).unwrap_or(app)
}

/// Why a release is not installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something has more bytes or members than any honest one.
    #[error("{what}: {count}, of at most {most}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The envelope or what is signed does not have the right form.
    #[error("bad {what}: {wrong}")]
    BadForm {
        /// Envelope, key set, release.
        what: &'static str,
        /// What is wrong with it.
        wrong: String,
    },
    /// No signature is by a key of the set.
    #[error("not signed by any trusted key")]
    WrongKey,
    /// Too few signatures by different keys of the set are right.
    #[error("{valid} good signatures by trusted keys, of {needed} that are needed")]
    NotEnoughSignatures {
        /// How many are right.
        valid: usize,
        /// How many have to be.
        needed: usize,
    },
    /// The chain does not go on from the trusted key set.
    #[error("key set {epoch} does not follow key set {trusted}")]
    KeyGap {
        /// The epoch of the link.
        epoch: u64,
        /// The epoch that is trusted.
        trusted: u64,
    },
    /// Its time is over.
    #[error("the release expired on {} and it is {}, UTC", utc(*.expires_unix_s), utc(*.now_unix_s))]
    Expired {
        /// When it expired.
        expires_unix_s: u64,
        /// What time it is.
        now_unix_s: u64,
    },
    /// It is not newer than what runs.
    #[error("version {offered} is not newer than {running}, which runs")]
    Older {
        /// The release.
        offered: String,
        /// What runs.
        running: String,
    },
    /// What runs is too old for it.
    #[error("version {running} runs; the release can be installed from {minimum} on")]
    BelowMinimum {
        /// The oldest version that may install it.
        minimum: String,
        /// What runs.
        running: String,
    },
    /// It is for another system.
    #[error("the release is for the application {offered}; this is {ours}")]
    WrongApp {
        /// The release's.
        offered: String,
        /// This machine's.
        ours: String,
    },
}

impl Refusal {
    /// How Omaha calls it.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::MetadataSize,
            Self::BadForm { .. } => ErrorCode::MetadataSignatureForm,
            Self::WrongKey | Self::NotEnoughSignatures { .. } | Self::KeyGap { .. } => {
                ErrorCode::MetadataSignature
            }
            Self::Expired { .. } | Self::WrongApp { .. } => ErrorCode::ResponseInvalid,
            Self::Older { .. } | Self::BelowMinimum { .. } => ErrorCode::IgnoredPolicy,
        }
    }
}

/// Refuses more than `most`.
fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), Refusal> {
    if count <= most { Ok(()) } else { Err(Refusal::TooLarge { what, count, most }) }
}

fn bad(what: &'static str) -> impl Fn(String) -> Refusal {
    move |wrong| Refusal::BadForm { what, wrong }
}

/// Reads signed JSON after checking that it says it is a `kind`.
///
/// Fields with other names are skipped: a later version may say more to those
/// who understand it, and will change `kind` if what it says must be understood.
fn parse_signed<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
    kind: &str,
) -> Result<T, Refusal> {
    #[derive(serde::Deserialize)]
    struct Typed {
        r#type: String,
    }
    let json = |error: serde_json::Error| bad(what)(error.to_string());
    let typed: Typed = serde_json::from_slice(bytes).map_err(json)?;
    if typed.r#type != kind {
        return Err(bad(what)(format!("its type is not {kind:?}")));
    }
    serde_json::from_slice(bytes).map_err(json)
}

#[cfg(test)]
mod tests;
