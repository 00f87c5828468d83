//! Reading a payload as it arrives: cut anywhere, held nowhere.

use super::{Fault, HEAD_BYTES_MAX, HEADER_BYTES, Manifest, OPERATION_DATA_BYTES_MAX, rsa::PublicKey, wire};
use crate::{
    hash::{Sha256, running::RunningSha256},
    verity,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// Most signatures that are looked at: checking one costs some milliseconds.
const SIGNATURES_MAX: usize = 8;

/// Most pieces of memory that wait for a later operation: two are in use at a time.
const SPARE_MAX: usize = 2;

/// What the signed release, the slots and the machine's key say about a payload
/// before its first byte arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the payload.
    pub size_bytes: u64,
    /// SHA-256 of the payload.
    pub sha256: Sha256,
    /// Bytes of its head: header and manifest.
    pub head_bytes: u64,
    /// SHA-256 of its head.
    pub head_sha256: Sha256,
    /// Root hash of the system that it makes.
    pub root_hash: Sha256,
    /// Bytes of that system in its slot, with superblock and hash tree.
    pub slot_bytes: u64,
    /// Bytes of the data area of the old system, when the payload is the
    /// difference to it: [`verity::Superblock::offset`] of the running slot.
    pub source_bytes: Option<u64>,
}

impl Expected {
    /// Refuses what is beyond all limits, before anything is fetched.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let slot_most = verity::sealed_bytes(verity::DATA_BLOCKS_MAX);
        // The second limit follows from the first number, which may be anything.
        let size_most = size_bytes_max(self.slot_bytes.min(slot_most));
        let limits = [
            ("the size of the slot", self.slot_bytes, slot_most),
            ("the size of the payload", self.size_bytes, size_most),
            ("the size of the manifest", self.head_bytes, HEAD_BYTES_MAX.min(self.size_bytes)),
        ];
        match limits.into_iter().find(|(_, value, most)| value > most) {
            Some((what, value, most)) => Err(Fault::Limit { what, value, most }),
            None if self.head_bytes < HEADER_BYTES as u64 => Err(Fault::BadMagic),
            None => Ok(()),
        }
    }
}

/// The largest payload for a slot of `slot_bytes`: all of it uncompressed, a
/// 16th more for a careless compressor, the largest manifest and the signatures.
fn size_bytes_max(slot_bytes: u64) -> u64 {
    slot_bytes + slot_bytes / 16 + OPERATION_DATA_BYTES_MAX + HEAD_BYTES_MAX + super::SIGNATURES_BYTES_MAX
}

/// What a [`Reader`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The manifest came and is good: [`Reader::manifest`] has it.
    Manifest,
    /// The data of the next operation came and is the one that was signed.
    Operation {
        /// Its place in [`Manifest::operations`].
        index: usize,
        /// Its data.
        data: Vec<u8>,
    },
    /// The payload is whole, its hash is the signed one, and its own signature is
    /// by the payload key.
    End,
}

/// Where a transfer stands between two operations.
///
/// It is kept as JSON by who transfers; nothing in it is trusted: with a wrong
/// one the hash of the payload comes out wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// How many operations are done.
    pub next_operation: usize,
    /// How many bytes of the payload have been read: where to go on.
    pub offset: u64,
    /// The state of the payload's hash there.
    pub sha256_state: String,
}

/// What the next bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Operation(usize),
    Signatures,
    Done,
    Refused,
}

/// Takes the bytes of a payload in any cut and gives out what they mean.
///
/// It holds the manifest, the data of one operation, and what [`Self::reuse`] gave it.
pub struct Reader {
    expected: Expected,
    key: PublicKey,
    stage: Stage,
    /// The bytes of the current stage that came so far.
    pending: Vec<u8>,
    /// Memory of operations that are done.
    spare: Vec<Vec<u8>>,
    /// Hash of all that came before the current stage.
    running: RunningSha256,
    /// Hashes of all that came and of the current operation's data alone, made as it
    /// comes, when it is still in the processor's cache.
    at_once: (RunningSha256, RunningSha256),
    manifest: Option<Manifest>,
}

impl Reader {
    /// A reader that has seen nothing of the payload.
    ///
    /// # Errors
    /// [`Fault::Limit`] when what is expected is beyond the limits.
    pub fn new(expected: Expected, key: PublicKey) -> Result<Self, Fault> {
        expected.check()?;
        let (stage, pending, spare) = (Stage::Head, Vec::new(), Vec::new());
        let (running, at_once) = Default::default();
        Ok(Self { expected, key, stage, pending, spare, running, at_once, manifest: None })
    }

    /// A reader that goes on at `checkpoint`: the next bytes to push are those
    /// from [`Checkpoint::offset`] on.
    ///
    /// `head` is the first [`Expected::head_bytes`] bytes of the payload, fetched
    /// again or kept; they are checked as the first time.
    ///
    /// # Errors
    /// [`Fault::Checkpoint`] when it does not belong to this payload, and what
    /// [`Self::push`] says about the head.
    pub fn resume(
        expected: Expected,
        key: PublicKey,
        head: &[u8],
        checkpoint: &Checkpoint,
    ) -> Result<Self, Fault> {
        let mut reader = Self::new(expected, key)?;
        let mut left = head;
        if reader.push(&mut left)? != Some(Event::Manifest) || !left.is_empty() {
            return Err(Fault::Truncated { got: head.len() as u64, want: reader.expected.head_bytes });
        }
        let next = checkpoint.next_operation;
        let done = reader.manifest.iter().flat_map(|manifest| manifest.operations.iter().take(next));
        let offset =
            done.fold(reader.expected.head_bytes, |sum, operation| sum + operation.data_bytes as u64);
        let running = RunningSha256::load(&checkpoint.sha256_state, checkpoint.offset);
        let count = reader.manifest.as_ref().map_or(0, |manifest| manifest.operations.len());
        match running {
            Some(running) if offset == checkpoint.offset && next <= count => {
                reader.running = running;
                reader.begin_operation(next);
                Ok(reader)
            }
            Some(_) | None => Err(Fault::Checkpoint),
        }
    }

    /// The manifest, once [`Event::Manifest`] was given out.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// How many bytes of the payload have been taken: where to go on after a cut
    /// of the connection.
    pub fn offset(&self) -> u64 {
        self.running.bytes() + self.pending.len() as u64
    }

    /// The checkpoint behind the operation that was given out last; the end of the
    /// manifest when there is none yet; `None` before that.
    ///
    /// It may be taken at any time; bytes of an operation that is not whole yet
    /// are not counted.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let next_operation = match self.stage {
            Stage::Operation(index) => index,
            Stage::Signatures => self.manifest.as_ref()?.operations.len(),
            Stage::Head | Stage::Done | Stage::Refused => return None,
        };
        let (offset, sha256_state) = (self.running.bytes(), self.running.save());
        Some(Checkpoint { next_operation, offset, sha256_state })
    }

    /// Takes bytes from the front of `input` up to the next event.
    ///
    /// To be called until it gives `None`, which means that all of `input` was
    /// taken: operations without data are events without bytes.
    ///
    /// # Errors
    /// [`Fault`] when the payload is not the one that was signed. Everything that
    /// is pushed afterwards is refused.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Fault> {
        let result = self.take(input);
        if result.is_err() {
            self.stage = Stage::Refused;
            self.pending = Vec::new();
        }
        result
    }

    fn take(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Fault> {
        let wanted = match self.stage {
            Stage::Head => self.expected.head_bytes as usize,
            Stage::Operation(index) => self.operation(index).data_bytes,
            Stage::Signatures => self.manifest.as_ref().map_or(0, |manifest| manifest.signatures_bytes),
            Stage::Done if input.is_empty() => return Ok(None),
            Stage::Done => return Err(Fault::TooLong { want: self.expected.size_bytes }),
            Stage::Refused => return Err(Fault::Refused),
        };
        if self.pending.is_empty() && wanted > 0 && !input.is_empty() {
            // Not before its first bytes are there: until then another may be done.
            self.pending = self.spare.pop().unwrap_or_default();
            self.pending.clear();
            self.pending.reserve_exact(wanted);
        }
        let (now, later) = input.split_at((wanted - self.pending.len()).min(input.len()));
        self.pending.extend_from_slice(now);
        *input = later;
        if let Stage::Operation(_) = self.stage {
            RunningSha256::update_both(&mut self.at_once.0, &mut self.at_once.1, now);
        }
        if self.pending.len() < wanted {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.pending);
        match self.stage {
            Stage::Head => self.take_head(&bytes).map(Some),
            Stage::Operation(index) => self.take_operation(index, bytes).map(Some),
            Stage::Signatures | Stage::Done | Stage::Refused => self.take_signatures(&bytes).map(Some),
        }
    }

    fn operation(&self, index: usize) -> &super::Operation {
        let manifest = self.manifest.as_ref().expect("the manifest comes before its operations");
        &manifest.operations[index]
    }

    fn take_head(&mut self, head: &[u8]) -> Result<Event, Fault> {
        let (got, want) = (Sha256::of(head), self.expected.head_sha256);
        if got != want {
            return Err(Fault::HeadHash { got, want });
        }
        self.running.update(head);
        self.manifest = Some(Manifest::read(head, &self.expected)?);
        self.begin_operation(0);
        Ok(Event::Manifest)
    }

    fn begin_operation(&mut self, index: usize) {
        let manifest = self.manifest.as_ref().expect("the manifest comes before its operations");
        self.stage = match index < manifest.operations.len() {
            true => Stage::Operation(index),
            false => Stage::Signatures,
        };
        self.at_once = (self.running.clone(), RunningSha256::default());
    }

    /// Takes back the data of an operation that is done, as memory for a later one:
    /// the kernel has to make new memory page by page.
    pub fn reuse(&mut self, data: Vec<u8>) {
        if data.capacity() > 0 && self.spare.len() < SPARE_MAX {
            self.spare.push(data);
        }
    }

    fn take_operation(&mut self, index: usize, data: Vec<u8>) -> Result<Event, Fault> {
        let (running, alone) = std::mem::take(&mut self.at_once);
        self.operation(index).check_data_hash(index, alone.finish())?;
        self.running = running;
        self.begin_operation(index + 1);
        Ok(Event::Operation { index, data })
    }

    fn take_signatures(&mut self, blob: &[u8]) -> Result<Event, Fault> {
        let covered = self.running.clone().finish();
        self.running.update(blob);
        let (got, want) = (self.running.clone().finish(), self.expected.sha256);
        if got != want {
            return Err(Fault::PayloadHash { got, want });
        }
        let signatures = wire::Signatures::decode(blob).map_err(|_| Fault::Signature)?.signatures;
        let mut candidates = signatures.iter().take(SIGNATURES_MAX);
        if !candidates.any(|signature| self.key.verifies(&covered, &signature.data)) {
            return Err(Fault::Signature);
        }
        self.stage = Stage::Done;
        Ok(Event::End)
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// [`Fault::Truncated`] when [`Event::End`] was not given out yet.
    pub fn finish(&self) -> Result<(), Fault> {
        match self.stage {
            Stage::Done => Ok(()),
            Stage::Refused => Err(Fault::Refused),
            Stage::Head | Stage::Operation(_) | Stage::Signatures => {
                Err(Fault::Truncated { got: self.offset(), want: self.expected.size_bytes })
            }
        }
    }
}
