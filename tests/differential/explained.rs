//! Differences that are wanted, each with its reason; and when two transcripts
//! of watchers say the same.

use std::collections::BTreeSet;

use proa_etcd_client::api::etcdserverpb::range_request::SortOrder;
use proa_etcd_client::api::mvccpb::{Event, event::EventType};

use crate::answer::Answer;
use crate::op::Op;
use crate::watcher::{Said, Transcript};

/// A difference that is wanted.
struct Explained {
    /// Why ours answers otherwise than etcd 3.4.
    #[allow(dead_code, reason = "for who reads the table")]
    reason: &'static str,
    is: fn(op: &Op, oracle: &Answer, ours: &Answer) -> bool,
}

const EXPLAINED: &[Explained] = &[Explained {
    reason: "3.4 takes an unknown sort order for none; 3.5 refuses it, as ours does",
    is: |op, _, ours| {
        let Op::Range(request) = op else { return false };
        SortOrder::try_from(request.sort_order).is_err()
            && *ours == refusal(3, "etcdserver: invalid sort option")
    },
}];

fn refusal(code: i32, text: &str) -> Answer {
    Answer::Refused { code, text: text.to_owned() }
}

pub fn is_explained(op: &Op, oracle: &Answer, ours: &Answer) -> bool {
    EXPLAINED.iter().any(|explained| (explained.is)(op, oracle, ours))
}

/// The first watcher that was not told the same by both, what it was told, and
/// whether more words could not make it the same.
///
/// Deletions of a revision to which history was compacted are left out: etcd
/// 3.4.23 forgets them, and who watches from that revision on misses them.
/// Fixed in 3.4.36 and 3.5.18; ours keeps them.
///
/// The previous entry of an event that history was compacted to, or past, may be told
/// by ours alone: etcd looks for it when it sends the event, and by then it may be
/// gone; ours has it from when the event came to be.
pub fn first_unequal(
    oracle: &Transcript,
    ours: &Transcript,
    compactions: &BTreeSet<i64>,
) -> Option<(i64, String, String, bool)> {
    let is_kept = |said: &&Said| match said {
        Said::Event(event) => {
            event.r#type() != EventType::Delete || !compactions.contains(&revision_of(event))
        }
        _ => true,
    };
    let is_same = |oracle: &Said, ours: &Said| match (oracle, ours) {
        (Said::Event(oracle), Said::Event(ours)) if oracle.prev_kv.is_none() => {
            let is_gone = compactions.range(revision_of(ours)..).next().is_some();
            *oracle == Event { prev_kv: ours.prev_kv.clone().filter(|_| !is_gone), ..ours.clone() }
        }
        _ => oracle == ours,
    };
    let ids: BTreeSet<i64> = oracle.said.keys().chain(ours.said.keys()).copied().collect();
    let mut late = None;
    for id in ids {
        let [a, b]: [Vec<&Said>; 2] = [oracle, ours].map(|one| one.to(id).iter().filter(is_kept).collect());
        let same = a.iter().zip(&b).take_while(|(a, b)| is_same(a, b)).count();
        if same == a.len() && same == b.len() {
            continue;
        }
        let is_final = same < a.len() && same < b.len();
        let found = (id, render(&a[same..]), render(&b[same..]), is_final);
        if is_final {
            return Some(found);
        }
        late.get_or_insert(found);
    }
    late
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The first words of what a watcher was told; it may be long.
fn render(said: &[&Said]) -> String {
    const WORDS: usize = 4;
    let more = if said.len() > WORDS { format!(", and {} more", said.len() - WORDS) } else { String::new() };
    format!("{}{more}", crate::op::render(&&said[..said.len().min(WORDS)]))
}

#[test]
fn a_previous_entry_may_be_missing_in_etcd_alone_and_of_what_is_gone_alone() {
    use proa_etcd_client::api::mvccpb::KeyValue;
    let told = |has_previous: bool| {
        let kv = Some(KeyValue { mod_revision: 7, ..KeyValue::default() });
        let prev_kv = has_previous.then(KeyValue::default);
        let said = vec![Said::Event(Event { kv, prev_kv, ..Event::default() })];
        Transcript { said: [(1, said)].into() }
    };
    let is_same =
        |oracle, ours, compaction| first_unequal(&told(oracle), &told(ours), &[compaction].into()).is_none();
    assert!(is_same(false, true, 7) && is_same(false, true, 8));
    assert!(!is_same(false, true, 6) && !is_same(true, false, 8));
}
