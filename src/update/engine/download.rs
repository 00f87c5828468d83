//! Fetching a payload and writing its operations as they come: cut anywhere, held
//! nowhere, and taken up where the disk is known to have it.

use std::time::{Duration, Instant};

use proa_update_model::{
    kept::Kept,
    payload::{Checkpoint, Event, Fault, OPERATION_BYTES_MAX, Reader, apply, rsa::PublicKey},
};

use crate::{
    error::{Error, file},
    http::Http,
    install::Slot,
    medium::{Medium, Room},
    offer::Offer,
};

/// How much is written, and how long, before it is flushed and the transfer's place is
/// kept. A cut costs as much again at most. A flush and what is kept cost some 10
/// milliseconds, in which a good disk and network could move the bytes themselves.
const KEEP_EVERY: (u64, Duration) = (8 << 20, Duration::from_millis(250));
/// Failures in a row, without a byte in between, before the next URL is tried.
///
/// Source: CoreOS update_engine, `MaxFailureCountPerUrl`.
const FAILURES_MAX: u32 = 10;
/// Before the first new try; twice as long before each further one, to the limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What a transfer is made with.
pub struct Transfer<'a, M: Medium> {
    /// What is fetched.
    pub offer: &'a Offer,
    /// Where it is written.
    pub medium: &'a mut M,
    /// The slot.
    pub slot: Slot,
    /// The slot that runs: what a difference is to.
    pub running: Slot,
    /// Who fetches.
    pub http: &'a mut Http,
}

/// What the transfer tells while it goes on.
pub trait Progress {
    /// So much of the payload is there.
    fn at(&mut self, offset: u64);

    /// What is before this place is on the medium: to be kept, durably.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn keep(&mut self, checkpoint: Checkpoint) -> Result<(), Error>;
}

impl<M: Medium> Transfer<'_, M> {
    /// Fetches and writes everything that is missing; the reader knows the
    /// manifest then.
    ///
    /// # Errors
    /// Of the transfer, when no URL gives it; what is wrong with the payload; the
    /// disk's.
    pub async fn run(
        &mut self,
        key: PublicKey,
        checkpoint: Option<Checkpoint>,
        progress: &mut impl Progress,
    ) -> Result<Reader, Error> {
        let mut failures = 0;
        let mut url = 0;
        let mut reader = None;
        loop {
            let before = reader.as_ref().map_or(0, Reader::offset);
            let error = match self.try_once(url, &key, checkpoint.as_ref(), &mut reader, progress).await {
                Ok(()) => return Ok(reader.expect("it has come to its end")),
                Err(error) if error.is_of_the_transfer() => error,
                Err(error) => return Err(error),
            };
            failures = if reader.as_ref().map_or(0, Reader::offset) > before { 1 } else { failures + 1 };
            tracing::warn!("{}", proa_base::cli::chain(&error));
            if failures >= FAILURES_MAX {
                (failures, url) = (0, url + 1);
                if url >= self.offer.urls.len() {
                    return Err(error);
                }
            }
            tokio::time::sleep((RETRY.0 * (1 << failures.min(6))).min(RETRY.1)).await;
        }
    }

    async fn try_once(
        &mut self,
        url: usize,
        key: &PublicKey,
        checkpoint: Option<&Checkpoint>,
        reader: &mut Option<Reader>,
        progress: &mut impl Progress,
    ) -> Result<(), Error> {
        if reader.is_none() {
            *reader = Some(self.begin(url, key, checkpoint).await?);
        }
        let reader = reader.as_mut().expect("just made");
        let (url, size) = (&self.offer.urls[url], self.offer.expected.size_bytes);
        let mut body = self.http.get(url, reader.offset(), size).await?;
        let mut room = Room::new(OPERATION_BYTES_MAX);
        let (mut unkept, mut kept_at) = (0, Instant::now());
        while let Some(bytes) = body.next().await? {
            let mut input = &bytes[..];
            while let Some(event) = reader.push(&mut input)? {
                if let Event::Operation { index, data } = event {
                    unkept += self.write(reader, index, &data, &mut room)?;
                    if unkept >= KEEP_EVERY.0 && kept_at.elapsed() >= KEEP_EVERY.1 {
                        self.medium.sync().map_err(file("write", "the slot"))?;
                        progress.keep(reader.checkpoint().expect("there is a manifest"))?;
                        (unkept, kept_at) = (0, Instant::now());
                    }
                    body.resume_clock();
                }
            }
            progress.at(reader.offset());
        }
        let (got, want) = (reader.offset(), size);
        match reader.finish() {
            Ok(()) => Ok(()),
            Err(Fault::Truncated { .. }) => Err(Error::Cut { url: url.to_string(), got, want }),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Writes what operation `index` makes; how many bytes.
    fn write(&mut self, reader: &Reader, index: usize, data: &[u8], room: &mut Room) -> Result<u64, Error> {
        let Self { medium, slot, running, .. } = self;
        let manifest = reader.manifest().expect("it comes before its operations");
        let operation = &manifest.operations[index];
        let target = room.part(operation.target_bytes);
        let mut source = |offset: u64, into: &mut [u8]| medium.read(running.start + offset, into);
        apply::render_into(target, operation, data, &mut source)
            .map_err(|source| Error::Apply { index, source })?;
        let bytes = target.len() as u64;
        // The manifest was checked against the signed size, and that against the slot.
        assert!(operation.target_offset + bytes <= slot.bytes, "operation {index} leaves the slot");
        medium.write(slot.start + operation.target_offset, target).map_err(file("write", "the slot"))?;
        Ok(bytes)
    }

    /// A reader that stands where the last one was kept, or at the beginning.
    async fn begin(
        &mut self,
        url: usize,
        key: &PublicKey,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Reader, Error> {
        let expected = &self.offer.expected;
        if let Some(checkpoint) = checkpoint {
            let url = &self.offer.urls[url];
            let mut body = self.http.get(url, 0, expected.head_bytes).await?;
            let mut head = Vec::new();
            while let Some(bytes) = body.next().await? {
                head.extend_from_slice(&bytes);
            }
            if (head.len() as u64) < expected.head_bytes {
                let (got, want) = (head.len() as u64, expected.head_bytes);
                return Err(Error::Cut { url: url.to_string(), got, want });
            }
            match Reader::resume(expected.clone(), key.clone(), &head, checkpoint) {
                Ok(reader) => return Ok(reader),
                // What was kept is of no use: everything is fetched again.
                Err(Fault::Checkpoint) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(Reader::new(expected.clone(), key.clone())?)
    }
}

/// The place of the transfer of this payload into this slot, if one is kept.
pub fn checkpoint(kept: &Kept, offer: &Offer, slot: u32) -> Option<Checkpoint> {
    let transfer = kept.transfer.as_ref().filter(|transfer| crate::offer::is_same(transfer, offer, slot));
    transfer.and_then(|transfer| transfer.checkpoint.clone())
}
