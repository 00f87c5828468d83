//! What a run was made of: a fuzzer that only ever sees refusals proves little.

use std::collections::BTreeMap;
use std::fmt;

use crate::answer::Answer;
use crate::op::Op;

#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By kind of operation: how many, and how many of them were refused.
    kinds: BTreeMap<&'static str, (u64, u64)>,
    /// By text of the refusal.
    refusals: BTreeMap<String, u64>,
}

impl Tally {
    pub fn count(&mut self, op: &Op, answer: &Answer) {
        let row = self.kinds.entry(kind(op)).or_default();
        row.0 += 1;
        let refusal = match answer {
            Answer::Refused { text, .. } => Some(text.clone()),
            Answer::V2(answer) if answer.status >= 400 => {
                let message = answer.body["message"].as_str().map(str::to_owned);
                Some(format!("v2: {} {}", answer.status, message.unwrap_or_else(|| answer.body.to_string())))
            }
            _ => None,
        };
        if let Some(text) = refusal {
            row.1 += 1;
            *self.refusals.entry(text).or_default() += 1;
        }
    }

    pub fn watch(&mut self, op: &Op) {
        self.kinds.entry(kind(op)).or_default().0 += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (kind, (all, refused)) in &other.kinds {
            let row = self.kinds.entry(kind).or_default();
            row.0 += all;
            row.1 += refused;
        }
        for (text, count) in &other.refusals {
            *self.refusals.entry(text.clone()).or_default() += count;
        }
    }

    pub fn operations(&self) -> u64 {
        self.kinds.values().map(|(all, _)| all).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, (all, refused)) in &self.kinds {
            writeln!(f, "  {kind:<16} {all:>9}, refused {refused:>8}")?;
        }
        for (text, count) in &self.refusals {
            writeln!(f, "  {count:>9} x {text:?}")?;
        }
        Ok(())
    }
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Range(_) => "range",
        Op::Put(_) => "put",
        Op::DeleteRange(_) => "delete range",
        Op::Txn(_) => "txn",
        Op::Compact(_) => "compact",
        Op::Grant(_) | Op::GrantBriefly(_) => "lease grant",
        Op::Revoke(_) => "lease revoke",
        Op::KeepAlive(_) => "lease keep-alive",
        Op::TimeToLive(..) => "lease ttl",
        Op::Leases => "leases",
        Op::Alarm(_) => "alarm",
        Op::Watch(_) => "watch",
        Op::CancelWatch(_) => "watch cancel",
        Op::WatchProgress => "watch progress",
        Op::NewWatchStream => "watch stream",
        Op::V2(request) if request.waits => "v2 wait",
        Op::V2(request) => match request.method {
            "GET" => "v2 GET",
            "PUT" => "v2 PUT",
            "POST" => "v2 POST",
            "DELETE" => "v2 DELETE",
            _ => "v2 other methods",
        },
    }
}
