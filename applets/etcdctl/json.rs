//! Answers as Go's `encoding/json` writes etcd's structures: zero fields left
//! out, bytes in base64, numbers as numbers.

use proa_etcd_client::api::etcdserverpb::response_op::Response;
use proa_etcd_client::api::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, Member, PutResponse, RangeResponse, ResponseHeader,
    ResponseOp, StatusResponse, TxnResponse,
};
use proa_etcd_client::api::mvccpb::{Event, KeyValue};
use serde_json::{Map, Value, json};

/// An object without its fields that are zero, false, empty or null.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_zero = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(true) | Value::Object(_) => false,
    };
    let kept = fields.into_iter().filter(|(_, value)| !is_zero(value));
    Value::Object(kept.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// Bytes as Go's `[]byte`.
pub fn base64(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    Value::String(out)
}

pub fn header(header: Option<&ResponseHeader>) -> Value {
    match header {
        None => Value::Null,
        Some(header) => object([
            ("cluster_id", json!(header.cluster_id)),
            ("member_id", json!(header.member_id)),
            ("revision", json!(header.revision)),
            ("raft_term", json!(header.raft_term)),
        ]),
    }
}

/// The header's fields beside those of `fields`, as Go embeds a structure.
pub fn beside_header<const N: usize>(given: Option<&ResponseHeader>, fields: [(&str, Value); N]) -> Value {
    let mut whole = header(given);
    if let Value::Object(whole) = &mut whole {
        whole.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    whole
}

pub fn key_value(kv: &KeyValue) -> Value {
    object([
        ("key", base64(&kv.key)),
        ("create_revision", json!(kv.create_revision)),
        ("mod_revision", json!(kv.mod_revision)),
        ("version", json!(kv.version)),
        ("value", base64(&kv.value)),
        ("lease", json!(kv.lease)),
    ])
}

fn key_values(kvs: &[KeyValue]) -> Value {
    Value::Array(kvs.iter().map(key_value).collect())
}

pub fn range(answer: &RangeResponse) -> Value {
    object([
        ("header", header(answer.header.as_ref())),
        ("kvs", key_values(&answer.kvs)),
        ("more", json!(answer.more)),
        ("count", json!(answer.count)),
    ])
}

pub fn put(answer: &PutResponse) -> Value {
    object([
        ("header", header(answer.header.as_ref())),
        ("prev_kv", answer.prev_kv.as_ref().map_or(Value::Null, key_value)),
    ])
}

pub fn delete(answer: &DeleteRangeResponse) -> Value {
    object([
        ("header", header(answer.header.as_ref())),
        ("deleted", json!(answer.deleted)),
        ("prev_kvs", key_values(&answer.prev_kvs)),
    ])
}

pub fn txn(answer: &TxnResponse) -> Value {
    object([
        ("header", header(answer.header.as_ref())),
        ("succeeded", json!(answer.succeeded)),
        ("responses", Value::Array(answer.responses.iter().map(op).collect())),
    ])
}

fn op(answer: &ResponseOp) -> Value {
    let (name, body) = match &answer.response {
        Some(Response::ResponseRange(answer)) => ("response_range", range(answer)),
        Some(Response::ResponsePut(answer)) => ("response_put", put(answer)),
        Some(Response::ResponseDeleteRange(answer)) => ("response_delete_range", delete(answer)),
        Some(Response::ResponseTxn(answer)) => ("response_txn", txn(answer)),
        None => return json!({ "Response": null }),
    };
    json!({ "Response": { name: body } })
}

pub fn event(event: &Event) -> Value {
    object([
        ("type", json!(event.r#type)),
        ("kv", event.kv.as_ref().map_or(Value::Null, key_value)),
        ("prev_kv", event.prev_kv.as_ref().map_or(Value::Null, key_value)),
    ])
}

pub fn member(member: &Member) -> Value {
    member_with_id(member, json!(member.id))
}

/// A member whose id is written as people write it.
pub fn member_in_hex(member: &Member) -> Value {
    member_with_id(member, json!(format!("{:x}", member.id)))
}

/// A header whose ids are written as people write them.
pub fn header_in_hex(header: Option<&ResponseHeader>) -> Value {
    let header = header.copied().unwrap_or_default();
    object([
        ("cluster_id", json!(format!("{:x}", header.cluster_id))),
        ("member_id", json!(format!("{:x}", header.member_id))),
        ("revision", json!(header.revision)),
        ("raft_term", json!(header.raft_term)),
    ])
}

fn member_with_id(member: &Member, id: Value) -> Value {
    object([
        ("ID", id),
        ("name", json!(member.name)),
        ("peerURLs", json!(member.peer_urls)),
        ("clientURLs", json!(member.client_urls)),
        ("isLearner", json!(member.is_learner)),
    ])
}

/// An alarm list; alarms are numbers in Go's JSON.
pub fn alarms(answer: &AlarmResponse) -> Value {
    let alarms = answer
        .alarms
        .iter()
        .map(|raised| object([("memberID", json!(raised.member_id)), ("alarm", json!(raised.alarm))]));
    object([("header", header(answer.header.as_ref())), ("alarms", alarms.collect())])
}

pub fn hash_kv(answer: &HashKvResponse) -> Value {
    object([
        ("header", header(answer.header.as_ref())),
        ("hash", json!(answer.hash)),
        ("compact_revision", json!(answer.compact_revision)),
    ])
}

pub fn status(status: &StatusResponse) -> Value {
    object([
        ("header", header(status.header.as_ref())),
        ("version", json!(status.version)),
        ("dbSize", json!(status.db_size)),
        ("leader", json!(status.leader)),
        ("raftIndex", json!(status.raft_index)),
        ("raftTerm", json!(status.raft_term)),
        ("raftAppliedIndex", json!(status.raft_applied_index)),
        ("errors", json!(status.errors)),
        ("dbSizeInUse", json!(status.db_size_in_use)),
        ("isLearner", json!(status.is_learner)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (text, want) in
            [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("lk\u{7f}~", "bGt/fg==")]
        {
            assert_eq!(base64(text.as_bytes()), json!(want), "{text:?}");
        }
    }

    #[test]
    fn zero_fields_are_left_out() {
        let kv = KeyValue { key: "a".into(), mod_revision: 2, ..KeyValue::default() };
        assert_eq!(key_value(&kv), json!({ "key": "YQ==", "mod_revision": 2 }));
    }
}
