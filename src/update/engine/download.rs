//! Fetching a payload and handing its operations on as they come: cut anywhere, held
//! nowhere, and taken up where the disk is known to have it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proa_update_model::{
    kept::Kept,
    payload::{Checkpoint, Event, Fault, Reader, rsa::PublicKey},
};

use crate::{
    error::Error,
    http::Http,
    install::Slot,
    medium::Medium,
    offer::Offer,
    pipeline::{Job, Pipeline, Work},
};

/// How often, at most, the transfer's place is kept: that costs some 10 milliseconds,
/// in which a good disk and network could move the bytes themselves.
const KEEP_EVERY: Duration = Duration::from_millis(250);
/// Failures in a row, without a byte in between, before the next URL is tried.
///
/// Source: CoreOS update_engine, `MaxFailureCountPerUrl`.
const FAILURES_MAX: u32 = 10;
/// A connection that brings less than this has brought nothing: a server that gives a
/// byte at a time would be listened to for months.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Before the first new try; twice as long before each further one, to the limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What a transfer is made with.
pub struct Transfer<'a, M: Medium> {
    /// What is fetched.
    pub offer: &'a Offer,
    /// Where it is written.
    pub medium: &'a Arc<M>,
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

/// A transfer that has begun.
struct UnderWay {
    reader: Reader,
    /// Runs once the manifest is there.
    pipeline: Option<Pipeline>,
    kept_at: Instant,
}

impl<M: Medium> Transfer<'_, M> {
    /// Fetches everything that is missing and hands it to the pipeline, which it
    /// gives back: what is left is to wait until all was written and read back.
    ///
    /// # Errors
    /// Of the transfer, when no URL gives it; what is wrong with the payload; the
    /// disk's. Then nobody writes to the slot any more.
    pub async fn run(
        &mut self,
        key: PublicKey,
        checkpoint: Option<Checkpoint>,
        progress: &mut impl Progress,
    ) -> Result<Pipeline, Error> {
        let mut under_way = None;
        if let Err(error) = self.try_all(&key, checkpoint, &mut under_way, progress).await {
            // The error that is told is the one that led here.
            let _ = put_down(under_way, progress).await;
            return Err(error);
        }
        let pipeline = under_way.and_then(|under_way| under_way.pipeline);
        Ok(pipeline.expect("a whole payload has a manifest"))
    }

    async fn try_all(
        &mut self,
        key: &PublicKey,
        mut checkpoint: Option<Checkpoint>,
        under_way: &mut Option<UnderWay>,
        progress: &mut impl Progress,
    ) -> Result<(), Error> {
        let (mut failures, mut url) = (0, 0);
        let offset = |under_way: &Option<UnderWay>| under_way.as_ref().map_or(0, |it| it.reader.offset());
        loop {
            let before = offset(under_way);
            let error = match self.try_once(url, key, checkpoint.as_ref(), under_way, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let has_next = url + 1 < self.offer.urls.len();
            if !(error.is_of_the_transfer() || error.is_of_the_place() && has_next) {
                return Err(error);
            }
            tracing::warn!("{}", proa_base::cli::chain(&error));
            if !error.is_of_the_transfer() {
                checkpoint = put_down(under_way.take(), progress).await?.or(checkpoint);
                (failures, url) = (0, url + 1);
                continue;
            }
            failures = if offset(under_way) >= before + PROGRESS_BYTES { 1 } else { failures + 1 };
            under_way.as_mut().map_or(Ok(()), |it| it.keep(progress))?;
            if failures >= FAILURES_MAX {
                if !has_next {
                    return Err(error);
                }
                (failures, url) = (0, url + 1);
            }
            tokio::time::sleep((RETRY.0 * (1 << failures.min(6))).min(RETRY.1)).await;
        }
    }

    async fn try_once(
        &mut self,
        url: usize,
        key: &PublicKey,
        checkpoint: Option<&Checkpoint>,
        under_way: &mut Option<UnderWay>,
        progress: &mut impl Progress,
    ) -> Result<(), Error> {
        if under_way.is_none() {
            *under_way = Some(self.begin(url, key, checkpoint).await?);
        }
        let it = under_way.as_mut().expect("just made");
        let (url, size) = (&self.offer.urls[url], self.offer.expected.size_bytes);
        let mut body = self.http.get(url, it.reader.offset(), size, size).await?;
        // Whatever the body may still do: what is whole is whole.
        let mut is_whole = false;
        while !is_whole && let Some(bytes) = body.next().await? {
            let mut input = &bytes[..];
            while let Some(event) = it.reader.push(&mut input)? {
                match event {
                    Event::Manifest => it.pipeline = Some(self.pipeline(&it.reader, 0)),
                    Event::Operation { index, data } => it.hand_on(index, data).await?,
                    Event::End => is_whole = true,
                }
                body.resume_clock();
            }
            progress.at(it.reader.offset());
            it.keep(progress)?;
        }
        let (got, want) = (it.reader.offset(), size);
        match it.reader.finish() {
            Ok(()) => Ok(()),
            Err(Fault::Truncated { .. }) => Err(Error::Cut { url: url.to_string(), got, want }),
            Err(fault) => Err(fault.into()),
        }
    }

    fn pipeline(&self, reader: &Reader, next: usize) -> Pipeline {
        let manifest = reader.manifest().expect("it was read");
        Pipeline::start(Arc::clone(self.medium), Job::new(self.slot, self.running, manifest, next))
    }

    /// A reader that stands where the last one was kept, or at the beginning.
    async fn begin(
        &mut self,
        url: usize,
        key: &PublicKey,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<UnderWay, Error> {
        let expected = &self.offer.expected;
        let kept_at = Instant::now();
        if let Some(checkpoint) = checkpoint {
            let url = &self.offer.urls[url];
            let want = expected.head_bytes as usize;
            let mut body = self.http.get(url, 0, expected.head_bytes, expected.size_bytes).await?;
            let mut head = Vec::with_capacity(want);
            while head.len() < want
                && let Some(bytes) = body.next().await?
            {
                head.extend_from_slice(&bytes[..bytes.len().min(want - head.len())]);
            }
            if head.len() < want {
                let (got, want) = (head.len() as u64, want as u64);
                return Err(Error::Cut { url: url.to_string(), got, want });
            }
            match Reader::resume(expected.clone(), key.clone(), &head, checkpoint) {
                Ok(reader) => {
                    let pipeline = Some(self.pipeline(&reader, checkpoint.next_operation));
                    return Ok(UnderWay { reader, pipeline, kept_at });
                }
                // What was kept is of no use: everything is fetched again.
                Err(Fault::Checkpoint) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        let reader = Reader::new(expected.clone(), key.clone())?;
        Ok(UnderWay { reader, pipeline: None, kept_at })
    }
}

impl UnderWay {
    async fn hand_on(&mut self, index: usize, data: Vec<u8>) -> Result<(), Error> {
        let pipeline = self.pipeline.as_mut().expect("the manifest comes before its operations");
        let manifest = self.reader.manifest().expect("it comes before its operations");
        let operation = manifest.operations[index].clone();
        let after = self.reader.checkpoint().expect("there is a manifest");
        if pipeline.write(Work { index, operation, data, after }).await {
            // The one before is done by then.
            while let Some(spare) = pipeline.spare() {
                self.reader.reuse(spare);
            }
            return Ok(());
        }
        let pipeline = self.pipeline.take().expect("it is there");
        Err(pipeline.finish().await.err().expect("only an error ends it before its time"))
    }

    fn keep(&mut self, progress: &mut impl Progress) -> Result<(), Error> {
        if self.kept_at.elapsed() < KEEP_EVERY {
            return Ok(());
        }
        if let Some(checkpoint) = self.pipeline.as_mut().and_then(Pipeline::durable) {
            progress.keep(checkpoint)?;
            self.kept_at = Instant::now();
        }
        Ok(())
    }
}

/// Ends a transfer where it is, and keeps the place from which another one may go on.
async fn put_down(
    under_way: Option<UnderWay>,
    progress: &mut impl Progress,
) -> Result<Option<Checkpoint>, Error> {
    let Some(pipeline) = under_way.and_then(|it| it.pipeline) else { return Ok(None) };
    let place = pipeline.put_down().await;
    if let Some(place) = &place {
        progress.keep(place.clone())?;
    }
    Ok(place)
}

/// The place of the transfer of this payload into this slot, if one is kept.
pub fn checkpoint(kept: &Kept, offer: &Offer, slot: u32) -> Option<Checkpoint> {
    let transfer = kept.transfer.as_ref().filter(|transfer| crate::offer::is_same(transfer, offer, slot));
    transfer.and_then(|transfer| transfer.checkpoint.clone())
}
