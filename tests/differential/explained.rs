//! Differences that are wanted, each with its reason; and when two transcripts
//! of watchers say the same.

use std::collections::BTreeSet;

use proa_etcd_client::api::etcdserverpb::range_request::SortOrder;
use proa_etcd_client::api::mvccpb::event::EventType;

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
pub fn first_unequal(
    oracle: &Transcript,
    ours: &Transcript,
    compactions: &BTreeSet<i64>,
) -> Option<(i64, String, String, bool)> {
    let is_kept = |said: &&Said| match said {
        Said::Event(event) => {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            event.r#type() != EventType::Delete || !compactions.contains(&revision)
        }
        _ => true,
    };
    let ids: BTreeSet<i64> = oracle.said.keys().chain(ours.said.keys()).copied().collect();
    let mut late = None;
    for id in ids {
        let [a, b]: [Vec<&Said>; 2] = [oracle, ours].map(|one| one.to(id).iter().filter(is_kept).collect());
        let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
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

/// The first words of what a watcher was told; it may be long.
fn render(said: &[&Said]) -> String {
    const WORDS: usize = 4;
    let more = if said.len() > WORDS { format!(", and {} more", said.len() - WORDS) } else { String::new() };
    format!("{}{more}", crate::op::render(&&said[..said.len().min(WORDS)]))
}
