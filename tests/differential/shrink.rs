//! The shortest stream that still shows a difference.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::op::Op;
use crate::pair::{Difference, READS_AT_ONCE};

/// Each try starts two servers: what is not found in this time is found by hand.
const PATIENCE: Duration = Duration::from_secs(150);
/// Tries side by side.
const AT_ONCE: usize = 4;

/// A stream, and the difference that it ends with.
type Case = (Vec<Op>, Difference);

/// Cuts `ops`, which show `difference`, as far as it can.
///
/// First whole kinds of operations are left out; then only the end of the
/// stream is kept, as long an end as it needs; then pieces go, large ones
/// before small ones.
pub async fn shrink<F, T>(ops: Vec<Op>, difference: Difference, try_it: F) -> Case
where
    F: Fn(Vec<Op>) -> T,
    T: Future<Output = Option<Difference>>,
{
    let begun = Instant::now();
    let mut best = (up_to(ops, &difference), difference);
    for is_needed in [|op: &Op| !op.only_reads(), |op: &Op| !is_watch(op), |op: &Op| !is_lease(op)] {
        let fewer = best.0.iter().filter(|op| is_needed(op)).cloned().collect();
        best = first_that_fails(vec![fewer], &try_it).await.unwrap_or(best);
    }
    let len = best.0.len();
    let ends = [2, 8, 32, 128].into_iter().filter(|keep| *keep < len);
    let ends = ends.map(|keep| best.0[len - keep..].to_vec()).collect();
    best = first_that_fails(ends, &try_it).await.unwrap_or(best);
    let mut piece = best.0.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < best.0.len() && begun.elapsed() < PATIENCE {
            let starts = (0..AT_ONCE).map(|n| from + n * piece).filter(|start| *start < best.0.len());
            let without = |start: usize| {
                let mut fewer = best.0.clone();
                fewer.drain(start..(start + piece).min(fewer.len()));
                fewer
            };
            match first_that_fails(starts.map(without).collect(), &try_it).await {
                Some(found) => best = found,
                None => from += AT_ONCE * piece,
            }
        }
        piece /= 2;
    }
    best
}

/// The first of the streams that shows a difference.
async fn first_that_fails<F, T>(streams: Vec<Vec<Op>>, try_it: &F) -> Option<Case>
where
    F: Fn(Vec<Op>) -> T,
    T: Future<Output = Option<Difference>>,
{
    let tried = join_all(streams.iter().map(|ops| try_it(ops.clone()))).await;
    let mut found = streams.into_iter().zip(tried);
    found.find_map(|(ops, difference)| difference.map(|difference| (up_to(ops, &difference), difference)))
}

/// Nothing after the difference is needed to see it. Reads are sent in groups,
/// and watchers are looked at after a group.
fn up_to(mut ops: Vec<Op>, difference: &Difference) -> Vec<Op> {
    ops.truncate(difference.at + READS_AT_ONCE);
    ops
}

fn is_watch(op: &Op) -> bool {
    matches!(op, Op::Watch(_) | Op::CancelWatch(_) | Op::WatchProgress | Op::NewWatchStream)
}

fn is_lease(op: &Op) -> bool {
    matches!(op, Op::Grant(_) | Op::GrantBriefly(_) | Op::Revoke(_) | Op::KeepAlive(_) | Op::TimeToLive(..))
}
