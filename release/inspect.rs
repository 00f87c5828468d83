//! What a file of a release says, for people.

use crate::{
    error::{Error, content, file},
    payload::head_bytes,
};
use proa_update_model::{
    hash::hex,
    metadata::{Envelope, KeyId, KeySet, Release},
    payload::{HEADER_BYTES, MAGIC, manifest::Kind, wire},
    verity::{self, BLOCK_BYTES, Superblock},
};
use prost::Message;
use std::{fmt::Write, fs, path::Path};

/// The text for the file at `path`: a slot, a payload, or signed JSON.
///
/// Nothing is checked but the form: that is for machines, which have the keys.
///
/// # Errors
/// When it is none of these.
pub fn inspect(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    match bytes.as_slice() {
        [b'h', b's', b'q', b's', ..] => slot(path, &bytes),
        bytes if bytes.starts_with(MAGIC) => payload(path, bytes),
        [b'{', ..] => signed(path, &bytes),
        _ => Err(content(path, "no slot, no payload and no signed JSON")),
    }
}

fn slot(path: &Path, bytes: &[u8]) -> Result<String, Error> {
    let data_blocks = verity::data_blocks_of_squashfs(bytes).map_err(|fault| content(path, fault))?;
    let at = data_blocks as usize * BLOCK_BYTES;
    let superblock = Superblock::parse(bytes.get(at..).unwrap_or_default());
    let superblock = superblock.map_err(|fault| content(path, fault))?;
    Ok(format!(
        "slot of {} bytes\n  data       {at} bytes\n  hash tree  {} bytes\n  salt       {}\n  root hash  {}\n",
        bytes.len(),
        bytes.len() - at,
        hex(&superblock.salt),
        superblock.root_hash,
    ))
}

fn payload(path: &Path, bytes: &[u8]) -> Result<String, Error> {
    let head = head_bytes(bytes).ok_or_else(|| content(path, "a payload that ends in its head"))?;
    let manifest = wire::DeltaArchiveManifest::decode(&bytes[HEADER_BYTES..head]);
    let manifest = manifest.map_err(|error| content(path, format!("bad manifest: {error}")))?;
    let sort = if manifest.old_partition_info.is_some() { "difference" } else { "whole" };
    let mut text = format!("payload of {} bytes, {sort}\n  head       {head} bytes\n", bytes.len());
    for (name, info) in [("from", &manifest.old_partition_info), ("to", &manifest.new_partition_info)] {
        if let Some(info) = info {
            let _ = writeln!(text, "  {name:10} {} bytes, SHA-256 {}", info.size, hex(&info.hash));
        }
    }
    if let Some(verity) = &manifest.verity {
        let _ = writeln!(text, "  root hash  {}", hex(&verity.root_hash));
    }
    text += "  operations      count   MiB written    bytes sent\n";
    for kind in Kind::ALL {
        let of_kind = || manifest.partition_operations.iter().filter(|step| step.kind == kind as u32);
        let blocks: u64 = of_kind().flat_map(|step| &step.dst_extents).map(|extent| extent.num_blocks).sum();
        let sent: u64 = of_kind().map(|step| step.data_length).sum();
        let written = blocks as f64 * BLOCK_BYTES as f64 / f64::from(1 << 20);
        let name = format!("{kind:?}");
        let _ = writeln!(text, "    {name:14} {:5}   {written:11.2}   {sent:11}", of_kind().count());
    }
    Ok(text)
}

fn signed(path: &Path, bytes: &[u8]) -> Result<String, Error> {
    if let Ok(set) = KeySet::parse(bytes) {
        return Ok(key_set(&set));
    }
    let envelope = Envelope::parse(bytes).map_err(|refusal| content(path, refusal))?;
    let mut text = match (Release::parse(&envelope.signed), KeySet::parse(&envelope.signed)) {
        (Ok(said), _) => release(&said),
        (_, Ok(set)) => key_set(&set),
        (Err(refusal), Err(_)) => return Err(content(path, refusal)),
    };
    for signature in &envelope.signatures {
        let _ = writeln!(text, "  signed by  {}", name(signature.key));
    }
    for link in &envelope.keys {
        let set = KeySet::parse(&link.signed).map_err(|refusal| content(path, refusal))?;
        text += &key_set(&set);
    }
    Ok(text)
}

fn release(release: &Release) -> String {
    let mut text = format!(
        "release {}\n  app        {}\n  root hash  {}\n  slot       {} bytes\n  for        {} and later\n  until      {}\n",
        release.version,
        release.app,
        release.root_hash,
        release.slot_bytes,
        release.minimum,
        date(release.expires_unix_s),
    );
    for payload in &release.payloads {
        let from =
            payload.from.as_ref().map_or("all of it".to_owned(), |from| format!("from {}", from.version));
        let _ = writeln!(text, "  payload    {} bytes, {from}: {}", payload.size_bytes, payload.name);
    }
    text
}

fn key_set(set: &KeySet) -> String {
    let mut text = format!("key set {}, of which {} must sign\n", set.epoch, set.threshold);
    for key in &set.keys {
        let _ = writeln!(text, "  key        {}", name(key.id()));
    }
    text
}

fn name(key: KeyId) -> String {
    hex(&key.0)
}

/// The day, as YYYY-MM-DD in UTC.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`;
/// days are counted from 1 March of year 0, so that leap days come last.
fn date(unix_s: u64) -> String {
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @SECONDS +%F`.
        for (unix_s, want) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_600, "2025-01-01"),
            (4_107_542_399, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(unix_s), want, "{unix_s}");
        }
    }
}
