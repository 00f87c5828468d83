//! Golden pairs, and messages of any shape there and back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::descriptor::{Kind, Message, RPCS};
use crate::etcdserverpb::{LeaseTimeToLiveResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest};
use crate::mvccpb::KeyValue;
use crate::routes;

fn request(path: &str) -> &'static Message {
    routes::find(path).unwrap().request
}

fn answer(path: &str) -> &'static Message {
    routes::find(path).unwrap().answer
}

fn read(path: &str, text: &str) -> Result<Vec<u8>, BadJson> {
    to_wire(request(path), &parse(text.as_bytes())?)
}

#[test]
fn requests_are_read_as_etcd_reads_them() {
    let check = |text: &str, want: RangeRequest| {
        let wire = read("/v3/kv/range", text).unwrap();
        assert_eq!(RangeRequest::decode(wire.as_slice()).unwrap(), want, "{text}");
    };
    let foo = || RangeRequest { key: "foo".into(), ..RangeRequest::default() };
    let end = || RangeRequest { range_end: vec![0].into(), limit: 1, ..foo() };
    check("", RangeRequest::default());
    check(" \n", RangeRequest::default());
    check(r#"{"key":"Zm9v"}"#, foo());
    check(r#"{"key":"Zm9v"} what follows"#, foo());
    check(r#"{"key":"Zm9v","range_end":"AA==","limit":"1"}"#, end());
    check(r#"{"key":"Zm9v","rangeEnd":"AA","limit":1}"#, end());
    check(r#"{"key":"Zm9v","limit":1e2}"#, RangeRequest { limit: 100, ..foo() });
    check(r#"{"key":"Zm9v","limit":null,"from_the_future":{"x":[1]}}"#, foo());
    check(
        r#"{"key":"-_-_"}"#,
        RangeRequest { key: vec![0xfb, 0xff, 0xbf].into(), ..RangeRequest::default() },
    );
    let sorted = RangeRequest { sort_order: 2, sort_target: 3, serializable: true, ..foo() };
    check(r#"{"key":"Zm9v","sort_order":"DESCEND","sortTarget":"MOD","serializable":true}"#, sorted.clone());
    check(r#"{"key":"Zm9v","sort_order":2,"sort_target":"MOD","serializable":true}"#, sorted);
    check(r#"{"key":"Zm9v","revision":"-5"}"#, RangeRequest { revision: -5, ..foo() });
}

#[test]
fn what_cannot_be_read_is_named() {
    #[rustfmt::skip]
    let rows = [
        (r#"{"limit":"x"}"#,                "invalid value for int64 field limit: \"x\""),
        (r#"{"limit":1.5}"#,                "invalid value for int64 field limit: 1.5"),
        (r#"{"limit":""}"#,                 "invalid value for int64 field limit: \"\""),
        (r#"{"limit":9223372036854775808}"#, "invalid value for int64 field limit: 9223372036854775808"),
        (r#"{"serializable":"true"}"#,      "invalid value for bool field serializable: \"true\""),
        (r#"{"sort_order":"UP"}"#,          "invalid value for enum field sort_order: \"UP\""),
        (r#"{"key":5}"#,                    "invalid value for bytes field key: 5"),
        (r#"{"key":"$"}"#,                  "invalid value for bytes field key: \"$\""),
        (r#"{"key":["Zm9v"]}"#,             "invalid value for bytes field key: [\"Zm9v\"]"),
        ("[]",                              "a JSON object is wanted for etcdserverpb.RangeRequest, not []"),
        ("null",                            "a JSON object is wanted for etcdserverpb.RangeRequest, not null"),
        (r#"{"key":"Zm9v""#,                "EOF while parsing an object at line 1 column 13"),
        ("xx",                              "expected value at line 1 column 1"),
    ];
    for (text, want) in rows {
        assert_eq!(read("/v3/kv/range", text).unwrap_err().to_string(), want, "{text}");
    }
    let both = r#"{"success":[{"request_put":{},"requestRange":{}}]}"#;
    let want = "request_put: another field of the same choice in etcdserverpb.RequestOp is already set";
    assert_eq!(read("/v3/kv/txn", both).unwrap_err().to_string(), want);
    let one = r#"{"success":{"request_put":{}}}"#;
    let want = r#"invalid value for etcdserverpb.RequestOp field success: {"request_put":{}}"#;
    assert_eq!(read("/v3/kv/txn", one).unwrap_err().to_string(), want);
}

#[test]
fn transactions_keep_their_shape() {
    let text = r#"{"compare":[{"key":"YQ==","target":"VALUE","value":""}],
        "success":[{"request_txn":{"failure":[{"requestDeleteRange":{"key":"YQ=="}}]}}]}"#;
    let request = TxnRequest::decode(read("/v3/kv/txn", text).unwrap().as_slice()).unwrap();
    // An empty operand is there, which is not the same as none.
    assert!(request.compare[0].target_union.is_some());
    assert!(format!("{:?}", request.success).contains("RequestDeleteRange"));
}

#[test]
fn nesting_has_an_end() {
    let deep = r#"{"success":[{"request_txn":"#.repeat(200);
    assert!(matches!(read("/v3/kv/txn", &deep), Err(BadJson::Syntax(text)) if text.contains("recursion")));
}

#[test]
fn answers_are_written_as_etcd_writes_them() {
    let header = ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 3, raft_term: 4 };
    let kv = |key: &'static str, lease| KeyValue {
        key: key.into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: "bar".into(),
        lease,
    };
    let ranged =
        RangeResponse { header: Some(header), kvs: vec![kv("foo", 0), kv("fop", -1)], more: true, count: 2 };
    let want = concat!(
        r#"{"header":{"cluster_id":"18446744073709551615","member_id":"2","revision":"3","raft_term":"4"},"#,
        r#""kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"YmFy"},"#,
        r#"{"key":"Zm9w","create_revision":"2","mod_revision":"3","version":"2","value":"YmFy","lease":"-1"}],"#,
        r#""more":true,"count":"2"}"#
    );
    assert_eq!(to_json(answer("/v3/kv/range"), &ranged.encode_to_vec()).unwrap(), want);
    let left = LeaseTimeToLiveResponse {
        header: Some(ResponseHeader::default()),
        id: 77,
        ttl: -1,
        granted_ttl: 60,
        keys: vec!["a".into(), "".into()],
    };
    let want = r#"{"header":{},"ID":"77","TTL":"-1","grantedTTL":"60","keys":["YQ==",""]}"#;
    assert_eq!(to_json(answer("/v3/lease/timetolive"), &left.encode_to_vec()).unwrap(), want);
    assert_eq!(to_json(answer("/v3/kv/range"), &[]).unwrap(), "{}");
}

#[test]
fn names_are_those_of_etcds_own_files() {
    let names =
        |message: &Message| message.fields.iter().map(|field| field.name).collect::<Vec<_>>().join(" ");
    #[rustfmt::skip]
    let rows = [
        (answer("/v3/cluster/member/list"),  "header members"),
        (request("/v3/cluster/member/add"),  "peerURLs isLearner"),
        (request("/v3/lease/grant"),         "TTL ID"),
        (answer("/v3/lease/timetolive"),     "header ID TTL grantedTTL keys"),
        (answer("/v3/maintenance/status"),
            "header version dbSize leader raftIndex raftTerm raftAppliedIndex errors dbSizeInUse isLearner"),
        (request("/v3/maintenance/alarm"),   "action memberID alarm"),
        (request("/v3/maintenance/transfer-leadership"), "targetID"),
        (request("/v3/election/proclaim"),   "leader value"),
        (answer("/v3/lock/lock"),            "header key"),
    ];
    for (message, want) in rows {
        assert_eq!(names(message), want, "{}", message.name);
    }
}

#[test]
fn bytes_of_another_message_are_not_written() {
    let bad = |wire: &[u8]| to_json(answer("/v3/kv/range"), wire).unwrap_err().number;
    assert_eq!(bad(&[0x7a, 0]), 15, "no such field");
    assert_eq!(bad(&[0x20, 1, 0x18, 1]), 3, "out of order");
    assert_eq!(bad(&[0x20, 1, 0x20, 1]), 4, "twice");
    assert_eq!(bad(&[0x0a, 9, 0]), 1, "cut");
    assert_eq!(bad(&[0x22, 0]), 4, "a number as bytes");
    assert_eq!(bad(&[0x80]), 0, "no key");
}

/// Any JSON object for a message, every name and value as answers have them.
fn any_json(message: &'static Message, depth: u32) -> BoxedStrategy<serde_json::Value> {
    let mut all = Just(serde_json::Map::new()).boxed();
    for field in message.fields {
        // One field of a choice at most; nothing below a depth.
        let is_later = message
            .fields
            .iter()
            .any(|other| other.oneof.is_some() && other.oneof == field.oneof && other.number < field.number);
        if is_later || depth == 0 && matches!(field.kind, Kind::Message(_)) {
            continue;
        }
        let one = match field.kind {
            Kind::Bool => Just(json!(true)).boxed(),
            Kind::Int32 => (1..i32::MAX).prop_map(|n| json!(n)).boxed(),
            Kind::Uint32 => (1..u32::MAX).prop_map(|n| json!(n)).boxed(),
            Kind::Int64 => {
                any::<i64>().prop_filter("a default", |n| *n != 0).prop_map(|n| json!(n.to_string())).boxed()
            }
            Kind::Uint64 => (1..u64::MAX).prop_map(|n| json!(n.to_string())).boxed(),
            Kind::String => ".+".prop_map(|text| json!(text)).boxed(),
            Kind::Bytes => proptest::collection::vec(any::<u8>(), 1..9)
                .prop_map(|bytes| json!(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes)))
                .boxed(),
            Kind::Enum(values) => (1..values.len()).prop_map(|n| json!(values[n].1)).boxed(),
            Kind::Message(inner) => any_json(inner, depth - 1),
        };
        let value = match field.repeated {
            true => proptest::collection::vec(one, 1..3).prop_map(serde_json::Value::from).boxed(),
            false => one,
        };
        let value = proptest::option::of(value);
        all = (all, value)
            .prop_map(move |(mut object, value)| {
                if let Some(value) = value {
                    object.insert(field.name.to_owned(), value);
                }
                object
            })
            .boxed();
    }
    all.prop_map(serde_json::Value::Object).boxed()
}

proptest! {
    /// Every message of every RPC: JSON, wire, and the same JSON again.
    #[test]
    fn what_is_written_can_be_read_and_back(
        (message, json) in (0..RPCS.len(), any::<bool>()).prop_flat_map(|(n, ask)| {
            let message = if ask { RPCS[n].request } else { RPCS[n].answer };
            (Just(message), any_json(message, 2))
        })
    ) {
        let text = to_json(message, &to_wire(message, &json).unwrap()).unwrap();
        prop_assert_eq!(parse(text.as_bytes()).unwrap(), json, "{}", message.name);
    }

    #[test]
    fn any_bytes_are_refused_or_written_as_json(number in 0..RPCS.len(), wire: Vec<u8>) {
        if let Ok(text) = to_json(RPCS[number].answer, &wire) {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn objects_are_the_same_however_they_arrive(
        texts in proptest::collection::vec(r#"\{("[a\\"{}\[]{0,4}":\[\{\},"\}"\])?\}"#, 1..4),
        size in 1..9_usize,
    ) {
        let valid: Vec<String> = texts
            .into_iter()
            .filter(|text| serde_json::from_str::<serde_json::Value>(text).is_ok())
            .collect();
        let body = valid.join(" \n");
        let mut objects = Objects::new(100);
        let mut got = Vec::new();
        for piece in body.as_bytes().chunks(size) {
            objects.push(piece);
            while let Some(object) = objects.take().unwrap() {
                got.push(String::from_utf8(object).unwrap().trim().to_owned());
            }
        }
        prop_assert_eq!(got, valid);
        prop_assert!(!objects.is_cut());
    }
}

#[test]
fn a_stream_takes_objects_of_a_bounded_size_alone() {
    let mut objects = Objects::new(8);
    objects.push(b"{\"a\":1} {\"abcd");
    assert_eq!(objects.take(), Ok(Some(b"{\"a\":1}".to_vec())));
    assert_eq!(objects.take(), Ok(None));
    assert!(objects.is_cut());
    objects.push(b"efgh");
    assert_eq!(objects.take(), Err(BadJson::TooLong { limit: 8 }));
    let mut objects = Objects::new(8);
    objects.push(b" xx");
    let want = "invalid character 'x' looking for the beginning of an object";
    assert_eq!(objects.take().unwrap_err().to_string(), want);
}
