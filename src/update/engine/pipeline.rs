//! Writing a slot while its payload arrives. Three threads stand in a row behind the
//! transfer: one unpacks and writes, one flushes and reads back, one hashes what was
//! read. None waits for another unless the little room between them is full.
//!
//! ```text
//! transfer -> unpack, write -> flush, read back -> hash tree
//!     ^             | memory      | places that are durable
//!     +-------------+-------------+
//! ```
//!
//! What is read back was flushed before: a stretch is read when a flush that began
//! after its last write has ended. So the tree is that of what lies on the medium,
//! and it is whole soon after the last byte came. Its leaves are written as it grows:
//! what is kept in memory does not grow with the slot.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use proa_update_model::{
    hash::Sha256,
    payload::{Checkpoint, Manifest, OPERATION_BYTES_MAX, Operation, apply::Renderer},
    verity::{self, BLOCK_BYTES, SALT_BYTES, Tree, TreeBuilder},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    error::{Error, file},
    install::{Matched, Slot},
    medium::{Medium, Room},
};

/// Writes that reading back may be behind. They hold no memory of ours.
const BEHIND_MAX: usize = 64;
/// How much is written, at least, before it is flushed and read back. A good disk
/// flushes in a millisecond or two and takes five times as long to write this. A cut
/// of the power costs as much again. Tests write less and want several flushes.
const FLUSH_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// Pieces of memory to read into: while one is filled, the other is hashed.
const CHUNKS: usize = 2;
/// How much is read back at once: with half of it the disk's answer takes longer
/// than the bytes. An operation and the chunks fill a large page.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of leaves, at least, that are written at once.
const LEAVES_BYTES: usize = if cfg!(test) { BLOCK_BYTES } else { 128 << 10 };

/// Which slot is written with what.
#[derive(Clone, Debug)]
pub struct Job {
    /// The slot.
    pub slot: Slot,
    /// The slot that runs: what a difference is to.
    pub running: Slot,
    /// Blocks of data that the slot will have.
    pub data_blocks: u64,
    /// The salt of their tree.
    pub salt: [u8; SALT_BYTES],
    /// The root hash that was signed.
    pub root_hash: Sha256,
    /// How many bytes an earlier start wrote.
    pub written_bytes: u64,
}

impl Job {
    /// What `manifest` makes, of which operations before `next` are done.
    pub fn new(slot: Slot, running: Slot, manifest: &Manifest, next: usize) -> Self {
        let Manifest { data_blocks, salt, root_hash, .. } = *manifest;
        let whole = data_blocks * BLOCK_BYTES as u64;
        let written_bytes = manifest.operations.get(next).map_or(whole, |operation| operation.target_offset);
        Self { slot, running, data_blocks, salt, root_hash, written_bytes }
    }

    fn data_bytes(&self) -> u64 {
        self.data_blocks * BLOCK_BYTES as u64
    }
}

/// An operation whose data was compared with its signed hash.
pub struct Work {
    /// Its place in the manifest.
    pub index: usize,
    /// What is to be done.
    pub operation: Operation,
    /// With what.
    pub data: Vec<u8>,
    /// Where the transfer stands when it is done.
    pub after: Checkpoint,
}

/// What was written, up to a place in the slot, and where the transfer stood then.
type Written = (u64, Checkpoint);

/// Memory, and how many bytes of it are filled.
type Chunk<'a> = (&'a mut [u8], usize);

/// The threads. When this is dropped they stop, which [`Self::finish`] waits for.
pub struct Pipeline {
    job: Job,
    work: mpsc::Sender<Work>,
    spare: Receiver<Vec<u8>>,
    durable: watch::Receiver<Option<Checkpoint>>,
    tree: oneshot::Receiver<Result<Tree, Error>>,
}

impl Pipeline {
    /// Starts the threads. Nobody else may write to the slot until they have ended.
    pub fn start(medium: Arc<impl Medium>, job: Job) -> Self {
        let (work, to_do) = mpsc::channel(1);
        let (used, spare) = channel();
        let (place, durable) = watch::channel(None);
        let (result, tree) = oneshot::channel();
        let its_job = job.clone();
        // Not one of the runtime's threads: the end of the process waits for those.
        thread::spawn(move || {
            // Whoever started this may be gone.
            let _ = result.send(run(&*medium, &its_job, to_do, &used, &place));
        });
        Self { job, work, spare, durable, tree }
    }

    /// Hands over the next operation, and returns when it is being unpacked; `false`
    /// when an error has ended the threads, which [`Self::finish`] tells.
    pub async fn write(&self, work: Work) -> bool {
        // The second time, for the place that this one was in: one that waited while
        // the next arrives would be a third in memory, and made nothing faster.
        self.work.send(work).await.is_ok() && self.work.reserve().await.is_ok()
    }

    /// Memory of an operation that is done.
    pub fn spare(&self) -> Option<Vec<u8>> {
        self.spare.try_recv().ok()
    }

    /// Ends before everything was handed over, and gives the last place before which
    /// everything is on the medium; `None` where nothing was written. Nobody writes to
    /// the slot any more then.
    pub async fn put_down(self) -> Option<Checkpoint> {
        let Self { work, tree, durable, .. } = self;
        drop(work);
        // That not everything came is known.
        let _ = tree.await;
        durable.borrow().clone()
    }

    /// A place before which everything is on the medium, if there is a new one.
    pub fn durable(&mut self) -> Option<Checkpoint> {
        let is_new = self.durable.has_changed().unwrap_or(false);
        if is_new { self.durable.borrow_and_update().clone() } else { None }
    }

    /// Waits until everything was read back, and compares it with what was signed.
    /// Nobody writes to the slot any more then.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::Apply`], [`Error::Tree`] when not all was handed
    /// over, and the disk's.
    pub async fn finish(self) -> Result<Matched, Error> {
        let Self { job, work, tree, .. } = self;
        drop(work);
        let tree = tree.await.expect("the threads end with a result")?;
        Matched::new(tree, job.data_blocks, job.salt, job.root_hash)
    }
}

fn run(
    medium: &impl Medium,
    job: &Job,
    to_do: mpsc::Receiver<Work>,
    used: &Sender<Vec<u8>>,
    durable: &watch::Sender<Option<Checkpoint>>,
) -> Result<Tree, Error> {
    let mut room = Room::of_large_page();
    let (target, chunks) = room.all().split_at_mut(OPERATION_BYTES_MAX);
    let (written, to_read) = sync_channel(BEHIND_MAX);
    let (full, to_hash) = sync_channel(CHUNKS);
    let (empty, to_fill) = sync_channel(CHUNKS);
    for chunk in chunks.chunks_exact_mut(CHUNK_BYTES) {
        empty.send(chunk).expect("there is room for all");
    }
    let tree = thread::scope(|scope| {
        let writing = scope.spawn(move || write(medium, job, target, to_do, used, &written));
        let reading = scope.spawn(move || read_back(medium, job, &to_read, durable, &to_fill, &full));
        let tree = hash(medium, job, &to_hash, &empty);
        // Who waits for the other thread has nothing to tell when that one fails.
        drop((to_hash, empty));
        writing.join().expect("it does not panic")?;
        reading.join().expect("it does not panic")?;
        tree
    })?;
    Ok(tree.finish()?)
}

fn write(
    medium: &impl Medium,
    job: &Job,
    room: &mut [u8],
    mut to_do: mpsc::Receiver<Work>,
    used: &Sender<Vec<u8>>,
    written: &SyncSender<Written>,
) -> Result<(), Error> {
    let mut renderer = Renderer::default();
    let mut source = |offset: u64, into: &mut [u8]| medium.read(job.running.start + offset, into);
    while let Some(Work { index, operation, data, after }) = to_do.blocking_recv() {
        let target = &mut room[..operation.target_bytes];
        renderer
            .render_into(target, &operation, &data, &mut source)
            .map_err(|source| Error::Apply { index, source })?;
        let end = operation.target_offset + target.len() as u64;
        // The manifest was checked against the signed size, and that against the slot.
        assert!(end <= job.slot.bytes, "operation {index} leaves the slot");
        medium.write(job.slot.start + operation.target_offset, target).map_err(file("write", "the slot"))?;
        // The transfer may have ended.
        let _ = used.send(data);
        if written.send((end, after)).is_err() {
            break;
        }
    }
    Ok(())
}

fn read_back<'a>(
    medium: &impl Medium,
    job: &Job,
    written: &Receiver<Written>,
    durable: &watch::Sender<Option<Checkpoint>>,
    empty: &Receiver<&'a mut [u8]>,
    full: &SyncSender<Chunk<'a>>,
) -> Result<(), Error> {
    let (mut at, mut end, whole) = (0, job.written_bytes, job.data_bytes());
    while at < whole {
        let mut place = None;
        while end < whole && end - at < FLUSH_BYTES {
            let Ok((to, after)) = written.recv() else {
                // Without the rest there is nothing to find out, but to go on from.
                return place.map_or(Ok(()), |place| make_durable(medium, durable, place));
            };
            (end, place) = (to, Some(after));
        }
        // What came while the last stretch was read goes with this one.
        while let Ok((to, after)) = written.try_recv() {
            (end, place) = (to, Some(after));
        }
        match place {
            Some(place) => make_durable(medium, durable, place)?,
            None => medium.sync().map_err(file("write", "the slot"))?,
        }
        let (from, bytes) = (job.slot.start + at, end - at);
        medium.forget(from, bytes);
        while at < end {
            let Ok(chunk) = empty.recv() else { return Ok(()) };
            let count = (end - at).min(CHUNK_BYTES as u64) as usize;
            medium.read(job.slot.start + at, &mut chunk[..count]).map_err(file("read back", "the slot"))?;
            if full.send((chunk, count)).is_err() {
                return Ok(());
            }
            at += count as u64;
        }
        medium.forget(from, bytes);
    }
    Ok(())
}

fn make_durable(
    medium: &impl Medium,
    durable: &watch::Sender<Option<Checkpoint>>,
    place: Checkpoint,
) -> Result<(), Error> {
    medium.sync().map_err(file("write", "the slot"))?;
    durable.send_replace(Some(place));
    Ok(())
}

/// Makes the tree of what was read back, and writes those of its leaves that fill whole
/// blocks, some blocks at a time; the rest is in the tree.
fn hash<'a>(
    medium: &impl Medium,
    job: &Job,
    full: &Receiver<Chunk<'a>>,
    empty: &SyncSender<&'a mut [u8]>,
) -> Result<TreeBuilder, Error> {
    let mut tree = TreeBuilder::new(job.data_blocks, &job.salt)?;
    let mut room = Room::of_small_pages(LEAVES_BYTES);
    let mut at = job.slot.start + verity::leaves_offset(job.data_blocks);
    for (chunk, count) in full {
        tree.push(&chunk[..count])?;
        // All was read when nobody wants it.
        let _ = empty.send(chunk);
        if let Some(leaves) = tree.take_leaves(LEAVES_BYTES) {
            room.write(medium, at, &leaves).map_err(file("write", "the hash tree"))?;
            at += leaves.len() as u64;
        }
    }
    Ok(tree)
}
