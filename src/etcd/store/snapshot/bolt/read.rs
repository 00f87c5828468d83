//! Reads a bbolt file that may hold anything.

use std::cell::Cell;
use std::ops::ControlFlow;

use super::checksum;
use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, VERSION,
};

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    /// It does not begin like a bbolt file.
    #[error("the file is no bbolt database: {0}")]
    NotBolt(&'static str),
    /// A page is not as it must be.
    #[error("page {page} of the file is damaged: {what}")]
    Page {
        /// Its number.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry is not as etcd writes it.
    #[error("the entry {key} of the bucket {bucket} cannot be read: {what}")]
    Entry {
        /// The bucket.
        bucket: String,
        /// The key, escaped.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file cannot be read at all, or what is read cannot be stored.
    #[error("{0}")]
    Io(String),
}

/// The bytes of a file.
pub trait Bytes {
    /// How many there are.
    fn len(&self) -> u64;

    /// True if there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with what stands at `offset`.
    ///
    /// # Errors
    /// A text that names the file.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String>;
}

impl Bytes for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        let from = usize::try_from(offset).ok();
        let found = from.and_then(|from| self.get(from..from.checked_add(out.len())?));
        out.copy_from_slice(found.ok_or("it ends too early")?);
        Ok(())
    }
}

/// Pages of the tree above each other. With two children each, more levels
/// than this would need more pages than there are numbers.
const MAX_DEPTH: usize = 64;
/// Largest page that is believed. bbolt puts up to four entries of any size
/// into one, and etcd's are bounded by its `--max-request-bytes`.
const MAX_PAGE_BYTES: u64 = 512 << 20;

/// Takes key and value of an entry.
pub type Take<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), BadFile> + 'a;
/// Names of buckets, and where each lies.
type Places = Vec<(Vec<u8>, Vec<u8>)>;
type Visit<'a> = dyn FnMut(&Entry<'_>) -> Result<(), BadFile> + 'a;

/// One entry of a leaf page.
struct Entry<'a> {
    is_bucket: bool,
    key: &'a [u8],
    value: &'a [u8],
}

/// What the first look at a file shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// CRC-32C over the names, keys and values of all buckets.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// Entries of all buckets.
    pub total_keys: u64,
    /// Bytes of all pages.
    pub total_bytes: u64,
}

/// An open file.
pub struct Bolt<'a> {
    bytes: &'a dyn Bytes,
    page_bytes: u64,
    pages: u64,
    root: u64,
    /// Pages that may still be read in one walk: each page has one place.
    left: Cell<u64>,
}

struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at).map_or(0, u64::from_le_bytes)
}

fn read_meta(bytes: &dyn Bytes, offset: u64) -> Result<Meta, BadFile> {
    let mut page = [0; HEADER_BYTES + META_BYTES + 8];
    if bytes.len() < offset + page.len() as u64 {
        return Err(BadFile::NotBolt("it is too short"));
    }
    bytes.read(offset, &mut page).map_err(BadFile::Io)?;
    let meta = &page[HEADER_BYTES..];
    if u16_at(&page, 8) & META == 0 || u32_at(meta, 0) != MAGIC {
        return Err(BadFile::NotBolt("it does not begin like one"));
    }
    if u32_at(meta, 4) != VERSION {
        return Err(BadFile::NotBolt("it has another version than 2"));
    }
    if checksum(&meta[..META_BYTES]) != u64_at(meta, META_BYTES) {
        return Err(BadFile::NotBolt("the checksum of its meta page is wrong"));
    }
    let page_bytes = u64::from(u32_at(meta, 8));
    if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
        return Err(BadFile::NotBolt("its pages have no possible size"));
    }
    Ok(Meta { page_bytes, root: u64_at(meta, 16), pages: u64_at(meta, 40), transaction: u64_at(meta, 48) })
}

impl<'a> Bolt<'a> {
    /// Looks at the meta pages.
    ///
    /// # Errors
    /// [`BadFile::NotBolt`], or [`BadFile::Page`] for a file that is cut off.
    pub fn open(bytes: &'a dyn Bytes) -> Result<Self, BadFile> {
        let first = read_meta(bytes, 0);
        // Where the second stands is said by the first; a damaged one leaves a guess.
        let size = first.as_ref().map_or(super::PAGE_BYTES as u64, |meta| meta.page_bytes);
        let second = read_meta(bytes, size);
        let meta = match (first, second) {
            (Ok(first), Ok(second)) if second.transaction > first.transaction => second,
            (Ok(first), _) => first,
            (Err(_), Ok(second)) => second,
            (Err(error), Err(_)) => return Err(error),
        };
        let end = meta.pages.checked_mul(meta.page_bytes);
        if end.is_none_or(|end| end > bytes.len()) {
            return Err(BadFile::Page { page: meta.pages, what: "the file ends before it" });
        }
        let Meta { page_bytes, root, pages, .. } = meta;
        Ok(Self { bytes, page_bytes, pages, root, left: Cell::new(0) })
    }

    /// Visits the entries of a bucket by ascending key; a bucket that is not
    /// there has none.
    ///
    /// # Errors
    /// [`BadFile`], also by `visit`.
    pub fn each(&self, bucket: &str, visit: &mut Take<'_>) -> Result<(), BadFile> {
        match self.buckets()?.into_iter().find(|(name, _)| name == bucket.as_bytes()) {
            Some((_, header)) => self.entries(&header, visit),
            None => Ok(()),
        }
    }

    /// What `etcdctl snapshot status` says.
    ///
    /// # Errors
    /// [`BadFile`].
    pub fn summary(&self) -> Result<Summary, BadFile> {
        let total_bytes = self.pages * self.page_bytes;
        let mut summary = Summary { total_bytes, ..Summary::default() };
        for (name, header) in self.buckets()? {
            let mut hash = crc32c::crc32c_append(summary.hash, &name);
            self.entries(&header, &mut |key, value| {
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
                summary.total_keys += 1;
                if name == b"key" {
                    summary.revision = number(key, 0).map_or(0, i64::from_be_bytes);
                }
                Ok(())
            })?;
            summary.hash = hash;
        }
        Ok(summary)
    }

    /// Name and value of each bucket.
    fn buckets(&self) -> Result<Places, BadFile> {
        let mut found = Vec::new();
        self.left.set(self.pages);
        let mut last = None;
        self.walk(self.root, 0, &mut last, &mut |entry| {
            if !entry.is_bucket {
                return Err(BadFile::Page { page: self.root, what: "the root holds what is no bucket" });
            }
            found.push((entry.key.to_vec(), entry.value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    /// Visits the entries of the bucket of this value.
    fn entries(&self, header: &[u8], visit: &mut Take<'_>) -> Result<(), BadFile> {
        let mut visit = |entry: &Entry<'_>| match entry.is_bucket {
            true => Err(BadFile::Page { page: self.root, what: "a bucket holds a bucket" }),
            false => visit(entry.key, entry.value),
        };
        let mut last = None;
        let root = u64_at(header, 0);
        if header.len() >= BUCKET_BYTES && root != 0 {
            self.left.set(self.pages);
            return self.walk(root, 0, &mut last, &mut visit);
        }
        match header.get(BUCKET_BYTES..).filter(|page| page.len() >= HEADER_BYTES) {
            Some(page) if u16_at(page, 8) & LEAF != 0 => leaf(0, page, &mut last, &mut visit),
            Some(_) | None => Err(BadFile::Page { page: self.root, what: "a bucket has no pages" }),
        }
    }

    fn walk(
        &self,
        id: u64,
        depth: usize,
        last: &mut Option<Vec<u8>>,
        visit: &mut Visit<'_>,
    ) -> Result<(), BadFile> {
        let page = self.page(id)?;
        match u16_at(&page, 8) {
            LEAF => leaf(id, &page, last, visit),
            BRANCH if depth < MAX_DEPTH => {
                let children: Vec<u64> = (0..usize::from(u16_at(&page, 10)))
                    .map(|number| u64_at(&page, HEADER_BYTES + number * ELEMENT_BYTES + 8))
                    .collect();
                children.into_iter().try_for_each(|child| self.walk(child, depth + 1, last, visit))
            }
            BRANCH => Err(BadFile::Page { page: id, what: "the tree is too deep" }),
            _ => Err(BadFile::Page { page: id, what: "it is neither leaf nor branch" }),
        }
    }

    fn page(&self, id: u64) -> Result<Vec<u8>, BadFile> {
        let bad = |what| BadFile::Page { page: id, what };
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(bad("it is reached more than once")),
        }
        if id < 2 || id >= self.pages {
            return Err(bad("it lies outside of the file"));
        }
        let offset = id * self.page_bytes;
        let mut header = [0; HEADER_BYTES];
        self.bytes.read(offset, &mut header).map_err(BadFile::Io)?;
        if u64_at(&header, 0) != id {
            return Err(bad("it has another number"));
        }
        let pages = u64::from(u32_at(&header, 12)) + 1;
        let size = pages * self.page_bytes;
        if pages > self.pages - id || size > MAX_PAGE_BYTES {
            return Err(bad("it is too long"));
        }
        let mut page = vec![0; size as usize];
        self.bytes.read(offset, &mut page).map_err(BadFile::Io)?;
        if usize::from(u16_at(&page, 10)) * ELEMENT_BYTES + HEADER_BYTES > page.len() {
            return Err(bad("it has more entries than room"));
        }
        Ok(page)
    }
}

fn leaf(id: u64, page: &[u8], last: &mut Option<Vec<u8>>, visit: &mut Visit<'_>) -> Result<(), BadFile> {
    let bad = |what| BadFile::Page { page: id, what };
    let found = (0..usize::from(u16_at(page, 10))).try_for_each(|number| {
        let at = HEADER_BYTES + number * ELEMENT_BYTES;
        let entry = match entry(page, at) {
            Some(entry) => entry,
            None => return ControlFlow::Break(bad("an entry lies outside of it")),
        };
        if last.as_deref().is_some_and(|last| last >= entry.key) {
            return ControlFlow::Break(bad("its keys are not in order"));
        }
        let key = last.get_or_insert_default();
        key.clear();
        key.extend_from_slice(entry.key);
        match visit(&entry) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    });
    found.break_value().map_or(Ok(()), Err)
}

fn entry(page: &[u8], at: usize) -> Option<Entry<'_>> {
    page.get(at..at + ELEMENT_BYTES)?;
    let [flags, place, key, value] = [0, 4, 8, 12].map(|field| u32_at(page, at + field));
    let begin = at.checked_add(place as usize)?;
    let middle = begin.checked_add(key as usize)?;
    let end = middle.checked_add(value as usize)?;
    Some(Entry {
        is_bucket: flags & IS_BUCKET != 0,
        key: page.get(begin..middle)?,
        value: page.get(middle..end)?,
    })
}
