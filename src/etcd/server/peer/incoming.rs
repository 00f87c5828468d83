//! Connections that other members dial to this one.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use proa_etcd_client::Socket;
use proa_etcd_client::tls::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::frame::{Frame, HANDSHAKE_BYTES, Handshake, MAX_FRAME_BYTES, Purpose, Verdict};
use super::question;
use super::snapshot::{self, Receiving};
use super::{Incoming, Shared, lock};
use crate::listener::Listener;
use crate::metrics::METRICS;
use crate::tls::ServerTls;

/// Connections of members at a time: a few for each of seven. Strangers are
/// bounded by the [`crate::tls::Gate`].
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for a stranger to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after `accept` failed, which it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(super) async fn accept(listener: Listener, tls: Option<Arc<ServerTls>>, shared: Weak<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("cannot accept peers: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, tls, slots) = (shared.clone(), tls.clone(), slots.clone());
        tokio::spawn(async move {
            let peer = stream.peer();
            if let Err(error) = serve(stream, tls, &slots, shared).await {
                tracing::debug!("peer connection from {peer:?} ended: {error}");
            }
        });
    }
}

/// Who it is that has dialed.
async fn greet(stream: Socket, tls: Option<Arc<ServerTls>>) -> io::Result<(Stream<Socket>, Handshake)> {
    let mut stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => tls.accept(stream).await?.0,
    };
    let mut bytes = [0; HANDSHAKE_BYTES];
    timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut bytes)).await??;
    Ok((stream, Handshake::decode(&bytes).map_err(invalid)?))
}

async fn serve(
    stream: Socket,
    tls: Option<Arc<ServerTls>>,
    slots: &Semaphore,
    weak: Weak<Shared>,
) -> io::Result<()> {
    let Some(shared) = weak.upgrade() else { return Ok(()) };
    let (mut stream, handshake) = shared.gate.pass(greet(stream, tls)).await?;
    let _slot = slots.try_acquire().map_err(|_| io::Error::other("too many connections"))?;
    let mut verdict = shared.judge(&handshake);
    let mut hold = None;
    if verdict == Verdict::Welcome && handshake.purpose == Purpose::Snapshot {
        hold = Receiving::begin(&shared.receiving);
        if hold.is_none() {
            verdict = Verdict::Busy;
        }
    }
    if verdict == Verdict::OtherCluster && shared.is_new_stranger(&handshake) {
        tracing::warn!(
            "refused member {:x} at {}: it is of cluster {:x}, this is cluster {:x}",
            handshake.from,
            stream
                .socket()
                .peer()
                .map_or_else(|_| "an unknown address".to_owned(), |address| address.to_string()),
            handshake.cluster_id,
            shared.config.cluster_id
        );
    }
    stream.write_all(&verdict.encode(shared.config.cluster_id)).await?;
    stream.flush().await?;
    if verdict != Verdict::Welcome {
        return Ok(());
    }
    match (handshake.purpose, hold) {
        (Purpose::Snapshot, Some(hold)) => {
            let (database, inbox) = (shared.config.database.clone(), shared.inbox.clone());
            drop(shared);
            let stream = stream.into_blocking()?;
            let receive = move || snapshot::receive(stream, &handshake, &database, hold, &inbox);
            let received = tokio::task::spawn_blocking(receive).await;
            received.map_err(io::Error::other)?
        }
        (Purpose::Question, _) => {
            let source = stream.socket().peer()?.ip();
            drop(shared);
            question::answer(stream, source, &weak).await
        }
        (Purpose::Snapshot, None) | (Purpose::Frames, _) => {
            let epoch = (handshake.boot, handshake.count);
            drop(shared);
            read_frames(stream, &weak, handshake.from, epoch).await
        }
    }
}

async fn read_frames(
    stream: Stream<Socket>,
    weak: &Weak<Shared>,
    from: u64,
    epoch: (u64, u64),
) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    loop {
        let length = stream.read_u32().await? as usize;
        if length == 0 || length > MAX_FRAME_BYTES {
            return Err(invalid(format!("a frame of {length} bytes")));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        METRICS.peers.note(from, |counts| counts.received_bytes += 4 + length as u64);
        let frame = Frame::decode(Bytes::from(body)).map_err(invalid)?;
        let Some(shared) = weak.upgrade() else { return Ok(()) };
        // A later connection has taken over: what comes here is from before.
        if lock(&shared.epochs).get(&from) != Some(&epoch) {
            return Ok(());
        }
        // It dials again and is told why it is refused.
        if lock(&shared.removed).contains(&from) {
            return Err(invalid(format!("member {from:x} was removed")));
        }
        if let Frame::Raft(message) = &frame
            && message.from != from
        {
            return Err(invalid(format!("member {from:x} speaks for {:x}", message.from)));
        }
        (shared.inbox)(Incoming::Frame { from, frame });
    }
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Shared {
    /// Whether this stranger was not complained about yet: it dials ten times
    /// a second, and one line says it all.
    fn is_new_stranger(&self, handshake: &Handshake) -> bool {
        let mut strangers = lock(&self.strangers);
        strangers.len() < MAX_CONNECTIONS && strangers.insert((handshake.from, handshake.cluster_id))
    }

    /// Decides on a handshake, and makes it the current one of its peer.
    fn judge(&self, handshake: &Handshake) -> Verdict {
        let asks_for_cluster = handshake.purpose == Purpose::Question && handshake.cluster_id == 0;
        if handshake.cluster_id != self.config.cluster_id && !asks_for_cluster {
            return Verdict::OtherCluster;
        }
        if handshake.purpose == Purpose::Question {
            return Verdict::Welcome;
        }
        if handshake.to != self.config.member_id || handshake.from == self.config.member_id {
            return Verdict::OtherMember;
        }
        if lock(&self.removed).contains(&handshake.from) {
            return Verdict::Removed;
        }
        if handshake.purpose == Purpose::Frames {
            let mut epochs = lock(&self.epochs);
            // The number grows within one boot; between boots the later one
            // to arrive counts, for nobody has a clock that says more.
            if let Some((boot, count)) = epochs.get(&handshake.from)
                && *boot == handshake.boot
                && *count >= handshake.count
            {
                return Verdict::Busy;
            }
            epochs.insert(handshake.from, (handshake.boot, handshake.count));
        }
        Verdict::Welcome
    }
}
