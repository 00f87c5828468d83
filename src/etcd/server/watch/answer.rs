//! The answer of a watch stream, with its events already encoded.
//!
//! However many watchers get an event, it is encoded once: an [`Answer`] holds
//! the encoded events and writes only header and watch id of its own.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proa_etcd_api::etcdserverpb::{ResponseHeader, WatchResponse};
use proa_etcd_api::mvccpb::Event;
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint};
use prost::{DecodeError, Message};

/// Field number of `WatchResponse.events`. Source: etcd's `rpc.proto`.
const EVENTS_FIELD: u32 = 11;

/// A `WatchResponse` on the wire: what `base` says, followed by `events`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    base: WatchResponse,
    /// Whole fields number 11, tag and length included.
    events: Vec<Bytes>,
}

impl Answer {
    /// An answer without events.
    pub fn new(base: WatchResponse) -> Self {
        Self { base, events: Vec::new() }
    }

    /// Events for one watcher.
    pub fn events(header: ResponseHeader, watch_id: i64, events: &[Bytes]) -> Self {
        let base = WatchResponse { header: Some(header), watch_id, ..WatchResponse::default() };
        Self { base, events: events.to_vec() }
    }

    /// The answer in pieces of at most `limit` bytes of events each, all but
    /// the last marked as fragments. One event is never cut.
    pub fn fragments(self, limit: usize) -> Vec<Self> {
        let mut pieces = vec![Self::new(self.base.clone())];
        let mut size_bytes = 0;
        for event in self.events {
            if size_bytes > 0 && size_bytes + event.len() > limit {
                pieces.push(Self::new(self.base.clone()));
                size_bytes = 0;
            }
            size_bytes += event.len();
            if let Some(last) = pieces.last_mut() {
                last.events.push(event);
            }
        }
        let before_last = pieces.len() - 1;
        pieces[..before_last].iter_mut().for_each(|piece| piece.base.fragment = true);
        pieces
    }
}

/// The field that `event` becomes in an [`Answer`].
pub fn encode_event(event: &Event) -> Bytes {
    let length = event.encoded_len();
    let mut out = BytesMut::with_capacity(length + 8);
    encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut out);
    encode_varint(length as u64, &mut out);
    event.encode_raw(&mut out);
    out.freeze()
}

/// Encoding only: a server never reads its own answers.
impl Message for Answer {
    fn encode_raw(&self, out: &mut impl BufMut) {
        // Field 11 is the last one, so that this is the canonical order.
        self.base.encode_raw(out);
        for event in &self.events {
            out.put_slice(event);
        }
    }

    fn encoded_len(&self) -> usize {
        self.base.encoded_len() + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        input: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.base.merge_field(tag, wire_type, input, context)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proa_etcd_api::mvccpb::KeyValue;

    fn event(key: &'static str, value: usize) -> Event {
        let value = vec![b'x'; value].into();
        let kv = KeyValue { key: key.into(), value, mod_revision: 5, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    #[test]
    fn the_wire_is_that_of_a_plain_watch_response() {
        let header = ResponseHeader { cluster_id: 1, revision: 9, ..ResponseHeader::default() };
        let events = vec![event("a", 3), event("b", 0)];
        let plain = WatchResponse { header: Some(header), watch_id: 4, events, ..WatchResponse::default() };
        let encoded: Vec<Bytes> = plain.events.iter().map(encode_event).collect();
        let answer = Answer::events(header, 4, &encoded);
        assert_eq!(answer.encode_to_vec(), plain.encode_to_vec());
        assert_eq!(answer.encoded_len(), plain.encoded_len());
    }

    #[test]
    fn fragments_hold_every_event_once_and_only_the_last_is_unmarked() {
        let events: Vec<Bytes> = [10, 500, 20, 20].map(|size| encode_event(&event("k", size))).into();
        let answer = Answer::events(ResponseHeader::default(), 0, &events);
        let pieces = answer.fragments(100);
        let decoded: Vec<_> = pieces
            .iter()
            .map(|piece| WatchResponse::decode(piece.encode_to_vec().as_slice()).unwrap())
            .collect();
        let shape: Vec<_> = decoded.iter().map(|piece| (piece.events.len(), piece.fragment)).collect();
        assert_eq!(shape, [(1, true), (1, true), (2, false)]);
    }
}
