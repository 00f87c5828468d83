//! What waits to be sent to one peer: bounded, urgent first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::Frame;

/// Frames that may wait in each of the two queues; raft repeats what is lost.
const MAX_FRAMES: usize = 4_096;
/// Bytes that may wait; what raft has in flight at most for one follower.
const MAX_BYTES: usize = 64 << 20;
/// Bytes given to the socket at once: a heartbeat waits for no more than this
/// and one frame.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Waiting {
    urgent: VecDeque<Vec<u8>>,
    bulk: VecDeque<Vec<u8>>,
    size_bytes: usize,
    is_connected: bool,
}

/// The frames for one peer.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; `false` when it was dropped: nobody is connected or too
    /// much waits already.
    pub fn push(&self, frame: &Frame) -> bool {
        let mut bytes = Vec::with_capacity(64);
        frame.encode(&mut bytes);
        let mut waiting = self.lock();
        let has_room = waiting.size_bytes + bytes.len() <= MAX_BYTES;
        let length = bytes.len();
        let is_open = waiting.is_connected && has_room;
        let queue = if frame.is_urgent() { &mut waiting.urgent } else { &mut waiting.bulk };
        if !is_open || queue.len() >= MAX_FRAMES {
            return false;
        }
        queue.push_back(bytes);
        waiting.size_bytes += length;
        drop(waiting);
        self.wake.notify_one();
        true
    }

    /// Opens the queue for a new connection, or closes it and forgets all.
    pub fn set_connected(&self, is_connected: bool) {
        *self.lock() = Waiting { is_connected, ..Waiting::default() };
    }

    /// Waits for frames and moves as many as go at once into `out`.
    pub async fn take(&self, out: &mut Vec<u8>) {
        loop {
            {
                let mut waiting = self.lock();
                while out.len() < CHUNK_BYTES {
                    let next = waiting.urgent.pop_front();
                    let Some(frame) = next.or_else(|| waiting.bulk.pop_front()) else { break };
                    waiting.size_bytes -= frame.len();
                    out.extend_from_slice(&frame);
                }
            }
            if !out.is_empty() {
                return;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn bulk(size: usize) -> Frame {
        Frame::Forward { id: 1, term: 1, body: Bytes::from(vec![0; size]) }
    }

    #[tokio::test]
    async fn urgent_frames_overtake_bulk() {
        let queue = Queue::default();
        queue.set_connected(true);
        assert!(queue.push(&bulk(CHUNK_BYTES)) && queue.push(&bulk(CHUNK_BYTES)));
        assert!(queue.push(&Frame::Refused { id: 7, term: 1, is_full: false }));
        let mut out = Vec::new();
        queue.take(&mut out).await;
        assert_eq!(out[4], 3, "the refusal comes first");
        assert!(out.len() < 2 * CHUNK_BYTES, "and the second bulk frame waits its turn");
    }

    #[test]
    fn without_a_connection_nothing_waits() {
        let queue = Queue::default();
        assert!(!queue.push(&bulk(1)));
        queue.set_connected(true);
        assert!(queue.push(&bulk(1)));
        assert_eq!(queue.lock().bulk.len(), 1);
    }

    #[test]
    fn too_much_is_dropped() {
        let queue = Queue::default();
        queue.set_connected(true);
        let pushed = (0..100).filter(|_| queue.push(&bulk(1 << 20))).count();
        assert_eq!(pushed, 63);
    }
}
