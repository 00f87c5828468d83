//! A query for SRV records as bytes, and its answer from bytes.

use std::fmt;

/// A service's host and port.
///
/// Source: RFC 2782.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// Hosts of the lowest are asked first.
    pub priority: u16,
    /// How often a host is asked among those of its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host's name, without the dot at its end.
    pub target: String,
}

/// A text that is no name: labels of 1 to 63 visible ASCII characters with dots
/// between them, 253 in all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no domain name")]
pub struct BadName(pub String);

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The records in the server's order; none when the name has none of the
    /// kind, or says that there is no such service (RFC 2782, target `.`).
    Records(Vec<Srv>),
    /// There is no such name.
    NoSuchName,
    /// It does not fit a datagram: to be asked again by TCP.
    Truncated,
    /// The server could not answer; its response code. Source: RFC 1035, 4.1.1.
    Failed(u8),
    /// It answers the query and is against the rules of RFC 1035.
    Malformed,
}

const HEADER_BYTES: usize = 12;
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
/// Longest name as text. Source: RFC 1035, 2.3.4: 255 bytes with the length of
/// the first label and the root.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
const NO_SUCH_NAME: u8 = 3;

/// The query for the SRV records of `name`, recursion desired. A dot at its end
/// changes nothing.
///
/// # Errors
/// [`BadName`].
pub fn srv_query(id: u16, name: &str) -> Result<Vec<u8>, BadName> {
    let mut query = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
    query.extend(id.to_be_bytes());
    // Recursion desired; one question and nothing else.
    query.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    let bad = || BadName(name.to_owned());
    let text = name.strip_suffix('.').unwrap_or(name);
    if text.len() > MAX_NAME {
        return Err(bad());
    }
    for label in text.split('.') {
        let is_visible = label.bytes().all(|byte| byte.is_ascii_graphic());
        match u8::try_from(label.len()) {
            Ok(length) if length > 0 && label.len() <= MAX_LABEL && is_visible => query.push(length),
            Ok(_) | Err(_) => return Err(bad()),
        }
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(TYPE_SRV.to_be_bytes());
    query.extend(CLASS_IN.to_be_bytes());
    Ok(query)
}

/// What `packet` answers to `query`, which is one of [`srv_query`]; `None` when
/// it is no answer to it, as a late one to another query is not.
pub fn srv_answer(packet: &[u8], query: &[u8]) -> Option<Answer> {
    let (header, body) = packet.split_at_checked(HEADER_BYTES)?;
    let (_, question) = query.split_at_checked(HEADER_BYTES)?;
    let is_response = header[2] & 0x80 != 0;
    let opcode = (header[2] >> 3) & 0x0f;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[..2] != query[..2] || !is_response || opcode != 0 || count(4) != 1 {
        return None;
    }
    // A server may write the question in other letters; lengths and types are
    // no letters, and stay as they are.
    if !body.get(..question.len())?.eq_ignore_ascii_case(question) {
        return None;
    }
    let is_truncated = header[2] & 0x02 != 0;
    Some(match header[3] & 0x0f {
        _ if is_truncated => Answer::Truncated,
        0 => match records(packet, HEADER_BYTES + question.len(), count(6)) {
            Ok(records) => Answer::Records(records),
            Err(Malformed) => Answer::Malformed,
        },
        NO_SUCH_NAME => Answer::NoSuchName,
        code => Answer::Failed(code),
    })
}

/// Bytes that RFC 1035 does not allow.
struct Malformed;

/// The SRV records among `count` records from byte `at` on. Records of other
/// kinds are aliases on the way to the name's own, or of no interest.
fn records(packet: &[u8], mut at: usize, count: u16) -> Result<Vec<Srv>, Malformed> {
    let mut found = Vec::new();
    for _ in 0..count {
        let (_, after) = name(packet, at)?;
        let fixed = packet.get(after..after + 10).ok_or(Malformed)?;
        let word = |from: usize| u16::from_be_bytes([fixed[from], fixed[from + 1]]);
        let start = after + 10;
        let end = start + usize::from(word(8));
        let data = packet.get(start..end).ok_or(Malformed)?;
        if (word(0), word(2)) == (TYPE_SRV, CLASS_IN) {
            let fixed = data.first_chunk::<6>().ok_or(Malformed)?;
            let word = |from: usize| u16::from_be_bytes([fixed[from], fixed[from + 1]]);
            let (target, after) = name(packet, start + 6)?;
            if after != end || !is_host(&target) {
                return Err(Malformed);
            }
            if !target.is_empty() {
                found.push(Srv { priority: word(0), weight: word(2), port: word(4), target });
            }
        }
        at = end;
    }
    Ok(found)
}

/// The name at byte `at`, without the dot at its end, and the byte behind it.
fn name(packet: &[u8], at: usize) -> Result<(String, usize), Malformed> {
    let mut name = String::new();
    let mut place = at;
    // Where what follows the name is: known at the first pointer, else at its end.
    let mut behind = None;
    // Each pointer must lead before the last one, so that there is an end.
    let mut limit = packet.len();
    loop {
        let length = *packet.get(place).ok_or(Malformed)?;
        match length {
            0 => return Ok((name, behind.unwrap_or(place + 1))),
            1..=0x3f => {
                let label = packet.get(place + 1..place + 1 + usize::from(length)).ok_or(Malformed)?;
                if !name.is_empty() {
                    name.push('.');
                }
                // A dot inside of a label would make another name of it.
                if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
                    return Err(Malformed);
                }
                name.extend(label.iter().map(|byte| char::from(*byte)));
                if name.len() > MAX_NAME {
                    return Err(Malformed);
                }
                place += 1 + usize::from(length);
            }
            0xc0.. => {
                let low = *packet.get(place + 1).ok_or(Malformed)?;
                behind.get_or_insert(place + 2);
                let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if to >= limit.min(place) {
                    return Err(Malformed);
                }
                (place, limit) = (to, to);
            }
            // Reserved. Source: RFC 1035, 4.1.4.
            0x40..=0xbf => return Err(Malformed),
        }
    }
}

/// Whether a target may become a part of a URL; the root, which is empty, may.
fn is_host(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Sorts `records` by priority, and those of one priority at random by weight.
///
/// `random(n)` is any number; it is taken modulo `n`. Source: RFC 2782, "Weight", as Go's
/// `net.LookupSRV` has it: records without any weight keep their order.
pub fn order(records: &mut Vec<Srv>, mut random: impl FnMut(u32) -> u32) {
    records.sort_by_key(|record| record.priority);
    let mut sorted = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let equals = records.iter().take_while(|record| record.priority == first.priority);
        let total: u32 = equals.clone().map(|record| u32::from(record.weight)).sum();
        let number = match total {
            0 => 0,
            total => {
                let drawn = random(total) % total;
                let sums = equals.scan(0, |sum, record| {
                    *sum += u32::from(record.weight);
                    Some(*sum)
                });
                sums.take_while(|sum| *sum <= drawn).count()
            }
        };
        sorted.push(records.remove(number));
    }
    *records = sorted;
}

impl fmt::Display for Srv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "_etcd-server._tcp.example.com";
    const ID: u16 = 0x1234;

    fn query() -> Vec<u8> {
        srv_query(ID, NAME).expect("a good name")
    }

    /// A name without pointers.
    fn plain(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).expect("a short label"));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn record(kind: u16, data: &[u8]) -> Vec<u8> {
        // Its owner is the name in the question.
        let mut bytes = vec![0xc0, 12];
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn srv_data((priority, weight, port): (u16, u16, u16), target: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        for number in [priority, weight, port] {
            data.extend(number.to_be_bytes());
        }
        data.extend(target);
        data
    }

    /// An answer to [`query`] with these flags and records.
    fn answer(flags: [u8; 2], records: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = query();
        packet[2..4].copy_from_slice(&flags);
        packet[6..8].copy_from_slice(&u16::try_from(records.len()).expect("few").to_be_bytes());
        packet.extend(records.concat());
        packet
    }

    const GOOD: [u8; 2] = [0x81, 0x80];

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Srv {
        Srv { priority, weight, port, target: target.to_owned() }
    }

    fn good() -> Vec<u8> {
        // The second target is "b" before the "example.com" of the question.
        let example = u8::try_from(12 + "_etcd-server._tcp.".len()).expect("near");
        answer(
            GOOD,
            &[
                record(5, &plain("alias.example.com")),
                record(TYPE_SRV, &srv_data((1, 2, 2380), &plain("a.example.com"))),
                record(TYPE_SRV, &srv_data((0, 0, 2381), &[1, b'b', 0xc0, example])),
                record(TYPE_SRV, &srv_data((0, 0, 0), &[0])),
            ],
        )
    }

    #[test]
    fn a_query_is_these_bytes() {
        let want = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0c_etcd-server\x04_tcp\x07example\x03com\x00\x00\x21\x00\x01";
        assert_eq!(query(), want);
        assert_eq!(srv_query(ID, &format!("{NAME}.")), Ok(want.to_vec()));
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let (longest_label, longest) = ("a".repeat(63), format!("{}a", "a.".repeat(126)));
        assert!(srv_query(ID, &longest_label).is_ok() && srv_query(ID, &longest).is_ok());
        let (label, name) = (format!("{longest_label}a"), format!("{longest}a"));
        for text in ["", ".", "a..b", ".a", "a b", "a\n", "ä", &label, &name] {
            assert_eq!(srv_query(ID, text), Err(BadName(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn an_answer_is_one_of_these() {
        let with = |data: &[u8]| answer(GOOD, &[record(TYPE_SRV, data)]);
        let port = (0, 0, 1);
        let mut spelled = answer(GOOD, &[]);
        spelled[13..17].copy_from_slice(b"_EtC");
        let mut beside = with(&srv_data(port, &plain("a")));
        beside.extend(b"additional records, not looked at");
        let loops = query().len() + 12 + 6;
        let pointer = |to: usize| u16::try_from(0xc000 | to).expect("near").to_be_bytes();
        let long = plain(&"abcdefg.".repeat(32));
        #[rustfmt::skip]
        let rows = [
            ("all kinds",            good(),                         Answer::Records(vec![srv(1, 2, 2380, "a.example.com"), srv(0, 0, 2381, "b.example.com")])),
            ("nothing",              answer(GOOD, &[]),              Answer::Records(Vec::new())),
            ("other letters",        spelled,                        Answer::Records(Vec::new())),
            ("more sections",        beside,                         Answer::Records(vec![srv(0, 0, 1, "a")])),
            ("no such name",         answer([0x81, 0x83], &[]),      Answer::NoSuchName),
            ("server failure",       answer([0x81, 0x82], &[]),      Answer::Failed(2)),
            ("refused",              answer([0x81, 0x85], &[]),      Answer::Failed(5)),
            ("truncated",            answer([0x83, 0x80], &[]),      Answer::Truncated),
            ("no target",            with(&[0, 0, 0, 0, 0, 1]),      Answer::Malformed),
            ("data too long",        with(&srv_data(port, &[0, 0])), Answer::Malformed),
            ("data too short",       with(&[0, 0, 0]),               Answer::Malformed),
            ("no host",              with(&srv_data(port, &plain("a/b"))), Answer::Malformed),
            ("a dot in a label",     with(&srv_data(port, &[3, b'a', b'.', b'b', 0])), Answer::Malformed),
            ("pointer to itself",    with(&srv_data(port, &pointer(loops))),     Answer::Malformed),
            ("pointer ahead",        with(&srv_data(port, &pointer(loops + 9))), Answer::Malformed),
            ("a ring of pointers",   with(&srv_data(port, &[&[1, b'a'], &pointer(loops)[..]].concat())), Answer::Malformed),
            ("reserved label",       with(&srv_data(port, &[0x40, 0])), Answer::Malformed),
            ("name too long",        with(&srv_data(port, &long)),   Answer::Malformed),
        ];
        for (name, packet, want) in rows {
            assert_eq!(srv_answer(&packet, &query()), Some(want), "{name}");
        }
    }

    #[test]
    fn what_answers_something_else_is_not_listened_to() {
        let changed = |at: usize, byte: u8| {
            let mut packet = good();
            packet[at] = byte;
            packet
        };
        #[rustfmt::skip]
        let rows = [
            ("another number",   changed(1, 0x35)),
            ("a query",          changed(2, 0x01)),
            ("another opcode",   changed(2, 0xa1)),
            ("two questions",    changed(5, 2)),
            ("another name",     changed(14, b'x')),
            ("another kind",     changed(query().len() - 3, 1)),
            ("no header",        good()[..11].to_vec()),
            ("no question",      good()[..20].to_vec()),
        ];
        for (name, packet) in rows {
            assert_eq!(srv_answer(&packet, &query()), None, "{name}");
        }
    }

    #[test]
    fn a_cut_answer_is_never_taken_for_a_whole_one() {
        let (packet, query) = (good(), query());
        for length in 0..packet.len() {
            let want = (length >= query.len()).then_some(Answer::Malformed);
            assert_eq!(srv_answer(&packet[..length], &query), want, "{length} bytes");
        }
    }

    #[test]
    fn no_wrong_byte_stops_the_reader() {
        let (packet, query) = (good(), query());
        for at in 0..packet.len() {
            for byte in 0..=u8::MAX {
                let mut packet = packet.clone();
                packet[at] = byte;
                let answer = srv_answer(&packet, &query);
                if let Some(Answer::Records(records)) = answer {
                    assert!(records.iter().all(|record| is_host(&record.target)), "byte {at} is {byte}");
                }
            }
        }
    }

    fn records_of_any_kind() -> impl Strategy<Value = Vec<Srv>> {
        let record = (0..4_u16, any::<u16>(), any::<u16>(), "[a-z0-9-]{1,63}(\\.[a-z0-9_]{1,9}){0,5}");
        let record = record.prop_map(|(priority, weight, port, target)| srv(priority, weight, port, &target));
        proptest::collection::vec(record, 0..20)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(tail in proptest::collection::vec(any::<u8>(), 0..600), count in any::<u16>()) {
            let mut packet = answer(GOOD, &[]);
            packet[6..8].copy_from_slice(&count.to_be_bytes());
            packet.extend(&tail);
            prop_assert!(srv_answer(&packet, &query()).is_some());
            let _ = srv_answer(&tail, &query());
        }

        #[test]
        fn what_a_server_writes_is_what_is_read(records in records_of_any_kind()) {
            let data = |r: &Srv| record(TYPE_SRV, &srv_data((r.priority, r.weight, r.port), &plain(&r.target)));
            let packet = answer(GOOD, &records.iter().map(data).collect::<Vec<_>>());
            prop_assert_eq!(srv_answer(&packet, &query()), Some(Answer::Records(records)));
        }

        #[test]
        fn ordering_loses_nothing_and_keeps_priorities(records in records_of_any_kind(), seed in any::<u32>()) {
            let mut ordered = records.clone();
            order(&mut ordered, |below| seed % below);
            prop_assert!(ordered.is_sorted_by_key(|record| record.priority));
            let (mut before, mut after) = (records, ordered);
            before.sort();
            after.sort();
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn weight_is_how_often_a_host_comes_first() {
        let records = [srv(1, 9, 1, "late"), srv(0, 1, 1, "a"), srv(0, 0, 1, "never"), srv(0, 3, 1, "c")];
        let first = |number: u32| {
            let mut records = records.to_vec();
            order(&mut records, |below| number % below);
            records[0].target.clone()
        };
        assert_eq!((0..4).map(first).collect::<Vec<_>>(), ["a", "c", "c", "c"]);
        let mut equal = vec![srv(0, 0, 1, "b"), srv(0, 0, 1, "a")];
        order(&mut equal, |_| panic!("nothing to draw"));
        assert_eq!(equal[0].target, "b", "without weights the server's order is kept");
    }
}
