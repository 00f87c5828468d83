//! The folder of payloads: serving them in parts, taking new ones.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use proa_update_model::hash::hex;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::{
    error::Refused,
    http::{Body, answer, full},
    range::{Part, part},
};

/// A payload is read and sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// The largest payload that is taken: a slot of ours twice.
const PACKAGE_BYTES_MAX: u64 = 4 << 30;
/// How long an upload may make no progress.
const UPLOAD_IDLE: Duration = Duration::from_secs(30);
/// Longest name of a payload, as in release metadata.
const NAME_CHARACTERS_MAX: usize = 128;

/// The folder.
#[derive(Clone, Debug)]
pub struct Packages {
    folder: PathBuf,
}

/// What a payload's bytes add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// How many there are.
    pub size_bytes: u64,
    /// SHA-256 in hex digits.
    pub sha256: String,
    /// SHA-1 in base64.
    pub sha1: String,
}

struct Digesting {
    size_bytes: u64,
    sha256: Context,
    sha1: Context,
}

impl Digesting {
    fn new() -> Self {
        Self { size_bytes: 0, sha256: Context::new(&SHA256), sha1: Context::new(&SHA1_FOR_LEGACY_USE_ONLY) }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        self.sha1.update(bytes);
    }

    fn finish(self) -> Digests {
        Digests {
            size_bytes: self.size_bytes,
            sha256: hex(self.sha256.finish().as_ref()),
            sha1: STANDARD.encode(self.sha1.finish()),
        }
    }
}

/// Reads a file for its digests.
///
/// # Errors
/// When it cannot be read.
pub fn digests_of_file(path: &Path) -> io::Result<Digests> {
    let mut file = fs::File::open(path)?;
    let mut digesting = Digesting::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match io::Read::read(&mut file, &mut piece)? {
            0 => return Ok(digesting.finish()),
            count => digesting.update(&piece[..count]),
        }
    }
}

impl Packages {
    /// The folder, made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Left behind by a process that was killed: a part of a payload, or
            // of a hash. No name of a payload begins with a dot.
            if name.starts_with('.') && (name.ends_with(".part") || name.ends_with(".new")) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Whether another payload is here by this name, one with another hash.
    pub fn has_other(&self, name: &str, sha256: &str) -> bool {
        let is_here = self.path(name).is_some_and(|path| path.exists());
        is_here && self.sha256(name).is_some_and(|known| known != sha256)
    }

    /// Whether a payload is here, by name and size.
    pub fn has(&self, name: &str, size_bytes: u64) -> bool {
        let Some(path) = self.path(name) else { return false };
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size_bytes)
    }

    /// The hash that a payload here had when it was taken. What is no hash is
    /// none: the payload is only taken again.
    pub fn sha256(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.hash_path(name)).ok()?;
        let is_hash = |text: &&str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(text.trim()).filter(is_hash).map(str::to_owned)
    }

    /// Removes a payload, if it is here.
    pub fn remove(&self, name: &str) {
        let Some(path) = self.path(name) else { return };
        for path in [path, self.hash_path(name)] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("cannot remove {}: {error}", path.display()),
            }
        }
    }

    /// The path of a name that is one: a file here and nowhere else.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        let is_name = (1..=NAME_CHARACTERS_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(is_good);
        is_name.then(|| self.folder.join(name))
    }

    /// No name of a payload begins with a dot, so this is never one.
    fn hash_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.sha256"))
    }

    /// Answers `GET` and `HEAD` of one payload.
    pub async fn serve(&self, method: &Method, name: &str, headers: &HeaderMap) -> Response<Body> {
        let absent = || answer(StatusCode::NOT_FOUND, "text/plain", "no such package\n");
        let Some(path) = self.path(name) else { return absent() };
        let Ok(mut file) = tokio::fs::File::open(&path).await else { return absent() };
        let size_bytes = match file.metadata().await {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) | Err(_) => return absent(),
        };
        let tag = self.tag(name, &path);
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if text(header::IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|word| word.trim() == tag)) {
            return with_headers(StatusCode::NOT_MODIFIED, &tag, None, None, full(""));
        }
        // A part of something else would be of no use.
        let is_same = text(header::IF_RANGE).is_none_or(|known| known.trim() == tag);
        let wanted = text(header::RANGE).filter(|_| is_same);
        let (status, first, last) = match part(wanted, size_bytes) {
            Part::Whole => (StatusCode::OK, 0, size_bytes.saturating_sub(1)),
            Part::Bytes(first, last) => (StatusCode::PARTIAL_CONTENT, first, last),
            Part::Unsatisfiable => {
                let range = format!("bytes */{size_bytes}");
                return with_headers(StatusCode::RANGE_NOT_SATISFIABLE, &tag, Some(range), None, full(""));
            }
        };
        let length = if size_bytes == 0 { 0 } else { last - first + 1 };
        let range =
            (status == StatusCode::PARTIAL_CONTENT).then(|| format!("bytes {first}-{last}/{size_bytes}"));
        if method == Method::HEAD {
            return with_headers(status, &tag, range, Some(length), full(""));
        }
        if first > 0 && file.seek(io::SeekFrom::Start(first)).await.is_err() {
            return answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "cannot read the package\n");
        }
        with_headers(status, &tag, range, Some(length), pieces(file, length))
    }

    /// What changes when the payload does: its hash where that is known, so
    /// that all servers have the same.
    fn tag(&self, name: &str, path: &Path) -> String {
        if let Some(sha256) = self.sha256(name) {
            return format!("\"{sha256}\"");
        }
        let found = fs::metadata(path).ok();
        let changed = found.as_ref().and_then(|found| found.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let size_bytes = found.map_or(0, |found| found.len());
        format!("\"{size_bytes:x}-{:x}\"", changed.unwrap_or_default().as_nanos())
    }

    /// Takes a payload that has to have this hash and size. Nobody sees it
    /// before it is whole and on the disk.
    ///
    /// # Errors
    /// 400 for a bad name or other bytes, 413, 408, 507 when the disk is full.
    pub async fn take(
        &self,
        name: &str,
        sha256: &str,
        size_bytes: u64,
        body: &mut Incoming,
    ) -> Result<Digests, Refused> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let bad_name =
            || Refused::bad(format!("{name:?} is no name of a package: give letters, digits and ._+-"));
        let path = self.path(name).ok_or_else(bad_name)?;
        if size_bytes > PACKAGE_BYTES_MAX {
            let text = format!("a package may have at most {PACKAGE_BYTES_MAX} bytes");
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let part = self.folder.join(format!(".{}-{number}.part", std::process::id()));
        let taken = receive(&part, size_bytes, body).await;
        let kept = match taken {
            Ok(digests) if digests.sha256 == sha256 && digests.size_bytes == size_bytes => {
                self.keep(&part, &path, name, sha256).map(|()| digests).map_err(cannot_write)
            }
            Ok(digests) => Err(Refused::bad(format!(
                "{name} is not what the metadata says: {} bytes with SHA-256 {}",
                digests.size_bytes, digests.sha256
            ))),
            Err(refused) => Err(refused),
        };
        if kept.is_err() {
            // It may be gone already.
            let _ = fs::remove_file(&part);
        }
        kept
    }

    /// The hash last: a payload without one is only taken again.
    fn keep(&self, part: &Path, path: &Path, name: &str, sha256: &str) -> io::Result<()> {
        fs::rename(part, path)?;
        // This makes the payload's name durable as well: they share the folder.
        proa_base::file::replace(&self.hash_path(name), format!("{sha256}\n").as_bytes())
    }
}

/// Reads what is left of an upload that is not needed, or is refused: an answer
/// before its end would be lost with the connection.
pub async fn read_to_end(body: &mut Incoming) {
    let mut left = PACKAGE_BYTES_MAX;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(UPLOAD_IDLE, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
        left = left.saturating_sub(bytes);
        if left == 0 {
            return;
        }
    }
}

async fn receive(part: &Path, size_bytes: u64, body: &mut Incoming) -> Result<Digests, Refused> {
    let mut file = tokio::fs::File::create(part).await.map_err(cannot_write)?;
    let mut digesting = Digesting::new();
    let late = || Refused::new(StatusCode::REQUEST_TIMEOUT, "the package did not arrive");
    loop {
        let frame = tokio::time::timeout(UPLOAD_IDLE, body.frame()).await.map_err(|_| late())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| late())?;
        let Some(bytes) = frame.data_ref() else { continue };
        digesting.update(bytes);
        if digesting.size_bytes > size_bytes {
            return Err(Refused::bad(format!("the package has more than the {size_bytes} bytes announced")));
        }
        file.write_all(bytes).await.map_err(cannot_write)?;
    }
    file.flush().await.map_err(cannot_write)?;
    file.sync_all().await.map_err(cannot_write)?;
    Ok(digesting.finish())
}

fn cannot_write(error: io::Error) -> Refused {
    Refused::new(StatusCode::INSUFFICIENT_STORAGE, format!("cannot write the package: {error}"))
}

/// The next `length` bytes of a file, read as the client takes them.
fn pieces(file: tokio::fs::File, length: u64) -> Body {
    let next = |(mut file, left): (tokio::fs::File, u64)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        let count = match file.read(&mut piece).await {
            // The connection is cut, so the client sees that it is not all.
            Ok(0) => return Some((Err(io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(count) => count,
            Err(error) => return Some((Err(error), (file, 0))),
        };
        piece.truncate(count);
        Some((Ok(Frame::data(Bytes::from(piece))), (file, left - count as u64)))
    };
    StreamBody::new(stream::unfold((file, length), next)).boxed_unsync()
}

fn with_headers(
    status: StatusCode,
    tag: &str,
    range: Option<String>,
    length: Option<u64>,
    body: Body,
) -> Response<Body> {
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, tag);
    if let Some(range) = range {
        response = response.header(header::CONTENT_RANGE, range);
    }
    if let Some(length) = length {
        response = response.header(header::CONTENT_LENGTH, length);
    }
    response.body(body).expect("numbers and hex digits are good headers")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_power_cut_left_of_a_hash_refuses_no_upload() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::open(folder.path()).unwrap();
        fs::write(folder.path().join("p"), "payload").unwrap();
        let (hash, other) = ("ab".repeat(32), "cd".repeat(32));
        let rows = [("", None), ("\0\0", None), (&hash[..63], None), (hash.as_str(), Some(&hash))];
        for (text, want) in rows {
            fs::write(folder.path().join(".p.sha256"), text).unwrap();
            assert_eq!(packages.sha256("p").as_ref(), want, "{text:?}");
            assert_eq!(packages.has_other("p", &other), want.is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_start_removes_parts_and_no_payloads() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".1-0.part", ".p.new", ".p.sha256", "p", "p.part", "p.new"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        Packages::open(folder.path()).unwrap();
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".p.sha256", "p", "p.new", "p.part"]);
    }

    #[test]
    fn a_payload_is_kept_with_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::open(folder.path()).unwrap();
        let (part, hash) = (folder.path().join(".1-0.part"), "ab".repeat(32));
        fs::write(&part, "payload").unwrap();
        packages.keep(&part, &folder.path().join("p.full"), "p.full", &hash).unwrap();
        assert!(packages.has("p.full", 7));
        assert_eq!(packages.sha256("p.full"), Some(hash));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
