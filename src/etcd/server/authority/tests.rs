//! The filter against frames made here, whole and cut.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bytes::BytesMut;
use proptest::prelude::*;

use super::huffman::tests::encode;
use super::{END_HEADERS, FRAME_HEADER_BYTES, Filter, HEADERS, MAX_HEADERS_BYTES, PADDED, PREFACE, PRIORITY};

const DATA: u8 = 0x0;
const SETTINGS: u8 = 0x4;
const CONTINUATION: u8 = 0x9;

const URL: &str = "http://127.0.0.1:2379";
const BARE: &str = "127.0.0.1:2379";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn headers(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, block)
}

/// What a client says: the preface, its settings, and then this.
fn client(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, &[]), &frames.concat()].concat()
}

/// A string of under 127 bytes as it is.
fn raw(text: &str) -> Vec<u8> {
    assert!(text.len() < 0x7f);
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// A Huffman-coded string of under 127 bytes.
fn huffman(text: &str) -> Vec<u8> {
    let coded = encode(text.as_bytes());
    assert!(coded.len() < 0x7f);
    [&[0x80 | coded.len() as u8], &coded[..]].concat()
}

/// `:method: POST`, `:path: /` and this.
fn block(authority: &[&[u8]]) -> Vec<u8> {
    [&[0x83, 0x84], &authority.concat()[..], &[0x86]].concat()
}

/// What goes on of pieces that came one after another, and whether the filter
/// is open before the end.
fn pass<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut filter = Filter::default();
    let mut output = BytesMut::new();
    for piece in pieces {
        filter.feed(piece, &mut output);
        assert!(filter.held.len() <= MAX_HEADERS_BYTES);
    }
    let is_open = filter.is_open();
    filter.finish(&mut output);
    assert!(filter.is_open());
    (output.to_vec(), is_open)
}

/// The same input gives the same output whole, in bytes, and in two pieces
/// wherever it is cut.
fn check(name: &str, input: &[u8], want: &[u8]) {
    assert_eq!(pass([input]).0, want, "{name}: whole");
    assert_eq!(pass(input.chunks(1)).0, want, "{name}: byte by byte");
    for at in 0..=input.len() {
        let (before, after) = input.split_at(at);
        assert_eq!(pass([before, after]).0, want, "{name}: cut at {at}");
    }
}

/// As `check`, with one header block after the preface.
fn check_block(name: &str, given: &[u8], want: &[u8]) {
    check(name, &client(&[headers(given)]), &client(&[headers(want)]));
}

#[test]
fn every_kind_of_literal_is_rewritten() {
    let (name, coded_name) = (raw(":authority"), huffman(":authority"));
    let (url, coded_url, bare) = (raw(URL), huffman(URL), raw(BARE));
    #[rustfmt::skip]
    let rows: [(&str, &[u8], &[u8]); 9] = [
        ("kept, indexed name",              &[0x41], &[]),
        ("kept, raw name",                  &[0x40], &name),
        ("kept, coded name",                &[0x40], &coded_name),
        ("not kept, indexed name",          &[0x01], &[]),
        ("not kept, raw name",              &[0x00], &name),
        ("not kept, coded name",            &[0x00], &coded_name),
        ("never kept, indexed name",        &[0x11], &[]),
        ("never kept, raw name",            &[0x10], &name),
        ("after a change of table size",    &[0x3f, 0xe1, 0x1f, 0x41], &[]),
    ];
    for (row, start, name) in rows {
        let want = block(&[start, name, &bare]);
        check_block(&format!("{row}, raw value"), &block(&[start, name, &url]), &want);
        check_block(&format!("{row}, coded value"), &block(&[start, name, &coded_url]), &want);
    }
}

#[test]
fn urls_become_authorities() {
    let long = format!("{}.example:2379", "a".repeat(100));
    #[rustfmt::skip]
    let rows = [
        ("http://127.0.0.1:2379",          "127.0.0.1:2379"),
        ("https://127.0.0.1:2379",         "127.0.0.1:2379"),
        ("http://[::1]:2379",              "[::1]:2379"),
        ("http://etcd-0.example:2379/",    "etcd-0.example:2379"),
        ("http://etcd/a?b#c",              "etcd"),
        ("http://etcd?b",                  "etcd"),
        ("127.0.0.1:2379",                 "127.0.0.1:2379"),
        ("localhost",                      "localhost"),
        ("http://",                        "http://"),
        ("http:///path",                   "http:///path"),
        ("unix://socket",                  "-"),
        ("unix:///run/etcd.sock",          "-"),
        ("/run/etcd.sock",                 "-"),
        ("etcd.unix:1",                    "etcd.unix:1"),
        ("",                               ""),
        (&format!("https://{long}"),       &long),
    ];
    for (url, want) in rows {
        check_block(url, &block(&[&[0x41], &raw(url)]), &block(&[&[0x41], &raw(want)]));
        if url != want {
            check_block(url, &block(&[&[0x41], &huffman(url)]), &block(&[&[0x41], &raw(want)]));
        }
    }
}

/// Lengths from 127 on take more than a byte.
#[test]
fn long_authorities_have_long_lengths() {
    for (length, coded) in [
        (126, vec![126]),
        (127, vec![127, 0]),
        (254, vec![127, 127]),
        (255, vec![127, 128, 1]),
        (20_000, vec![127, 0xa1, 0x9b, 1]),
    ] {
        let host = "h".repeat(length);
        let url = encode(format!("http://{host}").as_bytes());
        let mut length_of_url = vec![0xff];
        let mut rest = url.len() - 0x7f.min(url.len());
        if url.len() < 0x7f {
            length_of_url = vec![0x80 | url.len() as u8];
        } else {
            while rest >= 0x80 {
                length_of_url.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            length_of_url.push(rest as u8);
        }
        let given = client(&[headers(&block(&[&[0x41], &length_of_url, &url]))]);
        let want = client(&[headers(&block(&[&[0x41], &coded, host.as_bytes()]))]);
        assert!(pass([&given[..]]).0 == want, "{length} bytes");
    }
}

#[test]
fn what_is_no_authority_stays() {
    let (url, coded_url) = (raw(URL), huffman(URL));
    #[rustfmt::skip]
    let rows: [(&str, Vec<u8>); 12] = [
        ("only indexed fields",            vec![0x83, 0x84, 0xbe, 0xff, 0x00]),
        ("another header, kept",           block(&[&[0x7a], &url])),
        ("another header, not kept",       block(&[&[0x0f, 0x2b], &coded_url])),
        ("another name",                   block(&[&[0x40], &raw("referer"), &url])),
        ("a name with more at its end",    block(&[&[0x40], &raw(":authority2"), &url])),
        ("a dynamic name",                 block(&[&[0x7f, 0x00], &url])),
        ("a value cut off",                [&[0x41], &url[..url.len() - 1]].concat()),
        ("a value that is missing",        vec![0x83, 0x41]),
        ("cut off after an authority",     [&[0x41], &url[..], &[0x40]].concat()),
        ("a bad code",                     block(&[&[0x41], &[0x84, 0xff, 0xff, 0xff, 0xff]])),
        ("an endless integer",             [&[0x41], &url[..], &[0xff; 9]].concat()),
        ("a huge length",                  [&[0x41], &url[..], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0x7f]].concat()),
    ];
    for (name, given) in rows {
        check_block(name, &given, &given);
        let given = client(&[headers(&given)]);
        assert!(pass([&given[..]]).1, "{name}: closed");
    }
}

#[test]
fn padding_and_priority_are_kept() {
    let given = block(&[&[0x41], &huffman(URL)]);
    let want = block(&[&[0x41], &raw(BARE)]);
    let priority = [0x80, 0, 0, 3, 15];
    for (name, flags, before, padding) in [
        ("priority", PRIORITY, &priority[..], 0),
        ("padding", PADDED, &[7][..], 7),
        ("padding of nothing", PADDED, &[0], 0),
        ("both", PADDED | PRIORITY, &[[200].as_slice(), &priority].concat(), 200),
    ] {
        let one = |block: &[u8]| {
            let payload = [before, block, &vec![0; padding]].concat();
            client(&[frame(HEADERS, flags | END_HEADERS | 1, &payload)])
        };
        check(name, &one(&given), &one(&want));
    }
    for (name, flags, payload) in [
        ("more padding than there is", PADDED, [&[250], &given[..]].concat()),
        ("padding over the priority", PADDED | PRIORITY, vec![3, 0, 0, 0, 0, 0]),
        ("no room for the priority", PRIORITY, vec![0x80, 0, 0]),
        ("no room for the padding's length", PADDED, vec![]),
    ] {
        let input = client(&[frame(HEADERS, flags | END_HEADERS, &payload)]);
        check(name, &input, &input);
    }
}

#[test]
fn once_needed_the_filter_stays() {
    let (given, want) = (headers(&block(&[&[0x41], &raw(URL)])), headers(&block(&[&[0x41], &raw(BARE)])));
    let other = headers(&[0x83, 0x84, 0xbe, 0x86]);
    // It has the very bytes of a frame that would be rewritten.
    let body = frame(DATA, 0, &given);
    let input = client(&[given.clone(), body.clone(), other.clone(), given.clone()]);
    let output = client(&[want.clone(), body, other.clone(), want]);
    check("several requests", &input, &output);
    assert!(!pass([&input[..]]).1);
    // And where the first request needs nothing, later ones are not looked at.
    let input = client(&[other, given]);
    check("nothing to do", &input, &input);
    assert!(pass([&input[..]]).1);
}

#[test]
fn frames_that_are_not_whole_requests_decide_nothing() {
    let (given, want) = (headers(&block(&[&[0x41], &raw(URL)])), headers(&block(&[&[0x41], &raw(BARE)])));
    let split = frame(HEADERS, 0, &block(&[&[0x41], &raw(URL)]));
    let rest = frame(CONTINUATION, END_HEADERS, &block(&[&[0x41], &raw(URL)]));
    let empty = headers(&[]);
    let input = client(&[split.clone(), rest.clone(), empty.clone(), given]);
    check("a split block", &input, &client(&[split, rest, empty, want]));
}

#[test]
fn frames_over_the_limit_pass() {
    let field = [&[0x41], &raw(URL)[..]].concat();
    let small = headers(&field);
    for (name, length, is_rewritten) in [
        ("at the limit", MAX_HEADERS_BYTES - FRAME_HEADER_BYTES, true),
        ("over the limit", MAX_HEADERS_BYTES - FRAME_HEADER_BYTES + 1, false),
        ("as long as can be", (1 << 24) - 1, false),
    ] {
        let mut block = field.clone();
        block.resize(length, 0x83);
        let input = client(&[headers(&block), small.clone()]);
        let output = pass(input.chunks(1000)).0;
        let shorter = if is_rewritten { 14 } else { 7 };
        assert_eq!(input.len() - output.len(), shorter, "{name}");
        assert!(output.ends_with(&headers(&[&[0x41], &raw(BARE)[..]].concat())), "{name}");
    }
}

#[test]
fn other_protocols_pass_at_once() {
    let mut beginnings: Vec<Vec<u8>> =
        vec![b"GET /health HTTP/1.1\r\n\r\n".to_vec(), b"\x16\x03\x01".to_vec()];
    for at in 0..PREFACE.len() {
        let mut other = PREFACE.to_vec();
        other[at] ^= 1;
        beginnings.push(other);
    }
    let request = headers(&block(&[&[0x41], &raw(URL)]));
    for beginning in beginnings {
        let input = [&beginning[..], &request].concat();
        let name = String::from_utf8_lossy(&beginning).into_owned();
        check(&name, &input, &input);
        assert!(pass([&beginning[..]]).1, "{name}");
    }
}

/// Nothing of a preface or of a frame without interest is held back: the other
/// side may wait for it.
#[test]
fn only_headers_wait() {
    let input = client(&[frame(DATA, 0, b"some bytes")]);
    let mut filter = Filter::default();
    let mut output = BytesMut::new();
    for (at, byte) in input.iter().enumerate() {
        filter.feed(&[*byte], &mut output);
        let is_in_payload = (PREFACE.len() + 2 * FRAME_HEADER_BYTES..).contains(&at);
        if at < PREFACE.len() || is_in_payload {
            assert_eq!(output.len(), at + 1);
        }
    }
}

/// Cuts `input` into pieces of these lengths, again and again.
fn cut<'a>(input: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = input;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, others) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = others;
    }
    pieces
}

/// One frame; many are HEADERS, some with a length that is not theirs.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![3 => Just(HEADERS), 1 => 0..12u8];
    let field = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just([&[0x41], &raw(URL)[..]].concat()),
        Just([&[0x41], &huffman(URL)[..]].concat()),
        Just(vec![0x83]),
    ];
    let payload = prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat());
    let flags = prop_oneof![2 => Just(END_HEADERS), 1 => any::<u8>()];
    (kind, flags, payload, prop_oneof![9 => Just(0), 1 => any::<u8>()]).prop_map(
        |(kind, flags, payload, wrong)| {
            let mut frame = frame(kind, flags, &payload);
            frame[2] ^= wrong;
            frame
        },
    )
}

proptest! {
    #[test]
    fn other_input_is_unchanged(
        input in prop::collection::vec(any::<u8>(), 0..300),
        lengths in prop::collection::vec(1..50usize, 1..10),
    ) {
        prop_assume!(!input.starts_with(PREFACE));
        prop_assert_eq!(&pass(cut(&input, &lengths)).0, &input);
    }

    #[test]
    fn a_truncated_preface_is_unchanged(
        size in 0..PREFACE.len(),
        more in prop::collection::vec(any::<u8>(), 0..100),
        lengths in prop::collection::vec(1..50usize, 1..10),
    ) {
        let input = [&PREFACE[..size], &more].concat();
        prop_assume!(!input.starts_with(PREFACE));
        prop_assert_eq!(&pass(cut(&input, &lengths)).0, &input);
    }

    #[test]
    fn cuts_make_no_difference(
        frames in prop::collection::vec(any_frame(), 0..8),
        garbage in prop::collection::vec(any::<u8>(), 0..100),
        lengths in prop::collection::vec(1..50usize, 1..10),
    ) {
        let input = [&client(&frames)[..], &garbage].concat();
        let whole = pass([&input[..]]);
        prop_assert_eq!(&pass(cut(&input, &lengths)), &whole);
        // Once through is enough.
        prop_assert_eq!(&pass([&whole.0[..]]).0, &whole.0);
    }
}
