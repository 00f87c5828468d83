//! Writes a bbolt file from its first byte to its last, in bounded memory.
//!
//! The meta pages stand first and say how many pages there are and where the
//! root is. So the same entries are given twice: once to a [`Writer::measure`],
//! which only counts, and then to a [`Writer::write`]. Pages are written in
//! the order in which they are full, those of a bucket's entries and the branches
//! above them alike; what is kept is one page a level.

use super::{
    BRANCH, ELEMENT_BYTES, FREELIST, HEADER_BYTES, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_BYTES,
    VERSION, checksum,
};

/// Whoever takes the bytes takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the file any more")]
pub struct Stopped;

/// What the meta pages say of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    freelist: u64,
    /// Number of pages.
    pages: u64,
}

impl Layout {
    /// Bytes of the whole file.
    pub fn size_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// The first page that is no meta page.
const FIRST_PAGE: u64 = 2;
/// A page of a branch has so many entries when it is left behind at the least:
/// two stay for the next one, because bbolt wants two in each.
const BRANCH_SPLIT: usize = 4;

/// A file in the making.
pub struct Writer<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), Stopped>,
    measures: bool,
    next: u64,
    buckets: Leaf,
}

impl<'a> Writer<'a> {
    /// Finds out the layout. The sink gets no bytes, but is asked at each page
    /// whether to go on.
    pub fn measure(sink: &'a mut dyn FnMut(&[u8]) -> Result<(), Stopped>) -> Self {
        Self { sink, measures: true, next: FIRST_PAGE, buckets: Leaf::default() }
    }

    /// Writes a file of this layout, its meta pages at once.
    ///
    /// # Errors
    /// [`Stopped`] by the sink.
    pub fn write(
        layout: &Layout,
        sink: &'a mut dyn FnMut(&[u8]) -> Result<(), Stopped>,
    ) -> Result<Self, Stopped> {
        // Transactions 2 and 1: the first page is the newer one.
        sink(&meta_page(0, 2, layout))?;
        sink(&meta_page(1, 1, layout))?;
        Ok(Self { sink, measures: false, next: FIRST_PAGE, buckets: Leaf::default() })
    }

    /// Adds a bucket that is written. Names must ascend.
    ///
    /// # Errors
    /// [`Stopped`] by the sink.
    pub fn end_bucket(&mut self, name: &str, bucket: BucketWriter) -> Result<(), Stopped> {
        let root = bucket.finish(self)?;
        let mut value = root.to_le_bytes().to_vec();
        value.extend_from_slice(&0u64.to_le_bytes());
        self.buckets.push(IS_BUCKET, name.as_bytes(), &value);
        Ok(())
    }

    /// Writes the root bucket and an empty list of free pages.
    ///
    /// # Errors
    /// [`Stopped`] by the sink.
    pub fn finish(mut self) -> Result<Layout, Stopped> {
        let buckets = std::mem::take(&mut self.buckets);
        let root = self.page(LEAF, buckets.elements.len(), &buckets.body())?;
        let freelist = self.page(FREELIST, 0, &[])?;
        Ok(Layout { root, freelist, pages: self.next })
    }

    fn page(&mut self, flags: u16, count: usize, body: &[u8]) -> Result<u64, Stopped> {
        let id = self.next;
        let pages = (HEADER_BYTES + body.len()).div_ceil(PAGE_BYTES);
        self.next += pages as u64;
        if self.measures {
            (self.sink)(&[])?;
            return Ok(id);
        }
        let mut out = header(id, flags, count, pages - 1);
        out.extend_from_slice(body);
        out.resize(pages * PAGE_BYTES, 0);
        (self.sink)(&out)?;
        Ok(id)
    }
}

fn header(id: u64, flags: u16, count: usize, overflow: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_BYTES * (overflow + 1));
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    // A page that is not full has less than 256 entries.
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(&(overflow as u32).to_le_bytes());
    out
}

fn meta_page(id: u64, transaction: u64, layout: &Layout) -> Vec<u8> {
    let mut meta = Vec::with_capacity(META_BYTES + 8);
    meta.extend_from_slice(&MAGIC.to_le_bytes());
    meta.extend_from_slice(&VERSION.to_le_bytes());
    meta.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    meta.extend_from_slice(&0u32.to_le_bytes());
    // The root bucket's page and sequence number.
    for number in [layout.root, 0, layout.freelist, layout.pages, transaction] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    let sum = checksum(&meta);
    meta.extend_from_slice(&sum.to_le_bytes());
    let mut out = header(id, META, 0, 0);
    out.extend_from_slice(&meta);
    out.resize(PAGE_BYTES, 0);
    out
}

/// Entries of a leaf page that is not full yet.
#[derive(Default)]
struct Leaf {
    /// Flags, key length, value length.
    elements: Vec<[u32; 3]>,
    entries: Vec<u8>,
}

impl Leaf {
    fn size(&self) -> usize {
        HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.entries.len()
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.elements.push([flags, key.len() as u32, value.len() as u32]);
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(value);
    }

    fn first_key(&self) -> Vec<u8> {
        let length = self.elements.first().map_or(0, |element| element[1] as usize);
        self.entries[..length].to_vec()
    }

    fn body(&self) -> Vec<u8> {
        let heads = self.elements.len() * ELEMENT_BYTES;
        let mut out = Vec::with_capacity(heads + self.entries.len());
        let mut at = 0;
        for [flags, key, value] in &self.elements {
            // Places count from the element's own beginning.
            let place = (heads - out.len() + at) as u32;
            for number in [*flags, place, *key, *value] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            at += (key + value) as usize;
        }
        out.extend_from_slice(&self.entries);
        out
    }
}

type Children = Vec<(Vec<u8>, u64)>;

/// One bucket in the making: give it its entries by ascending key.
#[derive(Default)]
pub struct BucketWriter {
    leaf: Leaf,
    /// From the level above the leaves up.
    branches: Vec<Children>,
}

impl BucketWriter {
    /// Adds an entry behind all others.
    ///
    /// # Errors
    /// [`Stopped`] by the writer's sink.
    pub fn put(&mut self, out: &mut Writer<'_>, key: &[u8], value: &[u8]) -> Result<(), Stopped> {
        let more = ELEMENT_BYTES + key.len() + value.len();
        if !self.leaf.elements.is_empty() && self.leaf.size() + more > PAGE_BYTES {
            let (first, id) = self.end_leaf(out)?;
            self.add_child(out, 0, first, id)?;
        }
        self.leaf.push(0, key, value);
        Ok(())
    }

    fn end_leaf(&mut self, out: &mut Writer<'_>) -> Result<(Vec<u8>, u64), Stopped> {
        let leaf = std::mem::take(&mut self.leaf);
        let id = out.page(LEAF, leaf.elements.len(), &leaf.body())?;
        Ok((leaf.first_key(), id))
    }

    fn add_child(
        &mut self,
        out: &mut Writer<'_>,
        level: usize,
        first: Vec<u8>,
        id: u64,
    ) -> Result<(), Stopped> {
        if level == self.branches.len() {
            self.branches.push(Vec::new());
        }
        let children = &mut self.branches[level];
        children.push((first, id));
        if branch_size(children) <= PAGE_BYTES || children.len() < BRANCH_SPLIT {
            return Ok(());
        }
        let kept = children.split_off(children.len() - 2);
        let full = std::mem::replace(children, kept);
        let (first, id) = end_branch(out, full)?;
        self.add_child(out, level + 1, first, id)
    }

    /// Writes what is left and returns the root page.
    fn finish(mut self, out: &mut Writer<'_>) -> Result<u64, Stopped> {
        let (first, id) = self.end_leaf(out)?;
        if self.branches.is_empty() {
            return Ok(id);
        }
        self.add_child(out, 0, first, id)?;
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.branches[level]);
            let (first, id) = end_branch(out, children)?;
            level += 1;
            if level == self.branches.len() {
                return Ok(id);
            }
            self.add_child(out, level, first, id)?;
        }
    }
}

fn branch_size(children: &Children) -> usize {
    HEADER_BYTES + children.iter().map(|(key, _)| ELEMENT_BYTES + key.len()).sum::<usize>()
}

fn end_branch(out: &mut Writer<'_>, children: Children) -> Result<(Vec<u8>, u64), Stopped> {
    let heads = children.len() * ELEMENT_BYTES;
    let mut body = Vec::with_capacity(branch_size(&children));
    let mut at = 0;
    for (key, id) in &children {
        let place = (heads - body.len() + at) as u32;
        body.extend_from_slice(&place.to_le_bytes());
        body.extend_from_slice(&(key.len() as u32).to_le_bytes());
        body.extend_from_slice(&id.to_le_bytes());
        at += key.len();
    }
    children.iter().for_each(|(key, _)| body.extend_from_slice(key));
    let id = out.page(BRANCH, children.len(), &body)?;
    let first = children.into_iter().next().map(|(key, _)| key).unwrap_or_default();
    Ok((first, id))
}
