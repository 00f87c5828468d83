//! The connection this member dials to one peer, for as long as it is one.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use proa_etcd_api::url::{self, Url};
use proa_etcd_client::Socket;
use proa_etcd_client::tls::{Stream, in_words};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::frame::{ANSWER_BYTES, Purpose, Verdict};
use super::queue::Queue;
use super::{Incoming, Shared, dialing};
use crate::metrics::METRICS;

/// Longest wait for a connection and for its handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two dials; a peer that restarts is found again within it.
const REDIAL: Duration = Duration::from_millis(100);
/// Longest time one chunk may take: a peer whose machine vanished would
/// otherwise hold the connection for minutes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at how long it takes to a peer and back.
/// Source: etcd's `proberInterval`.
const MEASURE_EVERY: Duration = Duration::from_secs(3);
/// Unsent bytes the kernel may hold: more would queue in front of heartbeats.
const UNSENT_BYTES: libc::c_int = 128 << 10;

/// Dials, sends, and dials again, until the task is aborted.
pub(super) async fn run(
    shared: Weak<Shared>,
    to: u64,
    mut urls: watch::Receiver<Vec<String>>,
    queue: Arc<Queue>,
) {
    let mut last_trouble = String::new();
    loop {
        let now = urls.borrow_and_update().clone();
        let connected = match connect(&shared, to, &now).await {
            Ok(stream) => {
                last_trouble.clear();
                tracing::info!("connected to member {to:x}");
                queue.set_connected(true);
                METRICS.peers.connected(to);
                let ended = send(stream, to, &queue, &mut urls).await;
                METRICS.peers.disconnected(to);
                queue.set_connected(false);
                ended
            }
            Err(error) => Err(error),
        };
        let Some(shared) = shared.upgrade() else { return };
        (shared.inbox)(Incoming::Unreachable(to));
        drop(shared);
        if let Err(error) = connected {
            // One line for each new reason, not ten a second.
            let trouble = in_words(&error);
            if trouble != last_trouble {
                tracing::warn!("no connection to member {to:x}: {trouble}");
                last_trouble = trouble;
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn connect(shared: &Weak<Shared>, to: u64, urls: &[String]) -> io::Result<Stream<Socket>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its peer URL is not known yet");
    for url in urls {
        match timeout(DIAL_TIMEOUT, dial(shared, to, url)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = io::Error::other(format!("{url}: {}", in_words(&error))),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{url}: no answer")),
        }
    }
    Err(last)
}

async fn dial(shared: &Weak<Shared>, to: u64, url: &str) -> io::Result<Stream<Socket>> {
    let Url { encrypted, address } =
        url::parse(url).map_err(|right| io::Error::new(io::ErrorKind::InvalidInput, right))?;
    let stream = Socket::connect(&address).await?;
    limit_unsent(&stream);
    let stopping = || io::Error::other("stopping");
    let tls = shared.upgrade().ok_or_else(stopping)?.config.tls.client.clone();
    let mut stream = match encrypted {
        false => Stream::Plain(stream),
        true => dialing(tls.as_ref())?.connect(&address.authority(), stream).await?,
    };
    let handshake = shared.upgrade().ok_or_else(stopping)?.handshake(to, Purpose::Frames);
    stream.write_all(&handshake.encode()).await?;
    stream.flush().await?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await?;
    let (verdict, cluster_id) = Verdict::decode(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let refused = |what: String| Err(io::Error::new(io::ErrorKind::ConnectionRefused, what));
    match verdict {
        Verdict::Welcome => Ok(stream),
        Verdict::OtherCluster => refused(format!(
            "it is of cluster {cluster_id:x}, this member is of cluster {:x}; correct --initial-cluster or its data dir",
            handshake.cluster_id
        )),
        Verdict::OtherMember => refused("another member lives there".to_owned()),
        Verdict::Busy => refused("it has a later connection".to_owned()),
        Verdict::Removed => {
            if let Some(shared) = shared.upgrade() {
                (shared.inbox)(Incoming::Removed);
            }
            refused("it says this member was removed from the cluster".to_owned())
        }
    }
}

/// A unix socket holds less anyway, and refuses the option.
fn limit_unsent(stream: &Socket) {
    let bytes = UNSENT_BYTES;
    // SAFETY: the descriptor is open and the option is a plain int.
    let _ = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// Sends what is queued until the connection ends or the peer has moved.
async fn send(
    stream: Stream<Socket>,
    to: u64,
    queue: &Queue,
    urls: &mut watch::Receiver<Vec<String>>,
) -> io::Result<()> {
    let socket = stream.socket().as_raw_fd();
    // It is open for as long as the halves are, which outlive this.
    let measure = async {
        let mut turns = tokio::time::interval(MEASURE_EVERY);
        loop {
            turns.tick().await;
            round_trip(socket).into_iter().for_each(|took| METRICS.peers.round_trip(to, took));
        }
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut chunk = Vec::new();
    let write = async {
        loop {
            queue.take(&mut chunk).await;
            let begun = Instant::now();
            let written = async {
                writer.write_all(&chunk).await?;
                writer.flush().await
            };
            let written = timeout(WRITE_TIMEOUT, written)
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it takes nothing more")));
            let sent_bytes = chunk.len() as u64;
            METRICS.peers.note(to, |counts| match written {
                Ok(()) => {
                    counts.sent_bytes += sent_bytes;
                    counts.chunks += 1;
                    counts.latency.observe(begun.elapsed());
                }
                Err(_) => counts.failures += 1,
            });
            written?;
            chunk.clear();
        }
    };
    // The peer says nothing here: whatever is read means the end.
    let mut byte = [0];
    tokio::select! {
        ended = write => ended,
        read = reader.read(&mut byte) => match read {
            Ok(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Err(error) => Err(error),
        },
        _ = urls.changed() => Ok(()),
        never = measure => never,
    }
}

/// How long a segment and its acknowledgement take on a connection, smoothed by
/// the kernel: a question of our own would also measure how busy the peer is,
/// and would need an answer in the protocol. Nothing is known of a unix socket.
fn round_trip(socket: RawFd) -> Option<Duration> {
    // SAFETY: a plain structure of numbers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the buffer is as long as is said.
    let outcome = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    (outcome == 0 && info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}
