//! The store against a naive model, over random commands.
//!
//! proptest prints the seed and the shortest failing commands.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod commands;
mod naive;

use naive::Naive;
use proa_etcd_api::command::Command;
use proa_etcd_api::etcdserverpb::RangeRequest;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_store::{
    Head, Machine, MemView, Outcome, Writes, check, check_range, events, hash_kv, lease_keys, range, scrub,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A member: applies commands in batches, as the server does.
struct Member {
    machine: Machine,
    view: MemView,
}

impl Member {
    fn new() -> Self {
        let view = MemView::default();
        Self { machine: Machine::load(&view).unwrap(), view }
    }

    fn apply(&mut self, batch: &[Command]) -> Vec<Outcome> {
        let mut writes = Writes::default();
        let outcomes =
            batch.iter().map(|command| self.machine.apply(&self.view, &mut writes, command)).collect();
        self.view.apply(&writes);
        outcomes
    }

    fn head(&self) -> Head {
        self.machine.head()
    }

    /// True when there was nothing left to do.
    fn scrub(&mut self, budget: usize) -> bool {
        let step = scrub(&self.view, self.head(), budget);
        self.view.apply(&step.writes);
        step.done
    }
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..RangeRequest::default() }
}

/// Every readable revision reads as the model has it, and nothing else does.
fn same_history(member: &Member, naive: &Naive) {
    let head = member.head();
    assert_eq!(head.revision, naive.revision());
    assert_eq!(head.compact_revision, naive.compacted.unwrap_or(-1));
    for revision in -1..=head.revision + 1 {
        let request = everything(revision);
        assert_eq!(range(&member.view, head, &request), naive.range(&request), "at {revision}");
    }
}

/// The log of changes tells what the outcomes told, in pieces of any size.
fn same_events(member: &Member, emitted: &[Event], limit: usize) {
    let head = member.head();
    let from = head.compact_revision.max(0);
    let mut want: Vec<Event> = emitted.to_vec();
    want.retain(|event| revision_of(event) >= from);
    for event in &mut want {
        if revision_of(event) == head.compact_revision {
            event.prev_kv = None;
        }
    }
    let mut got = Vec::new();
    let mut next = from;
    while next <= head.revision {
        let piece = events(&member.view, head, next, head.revision, limit, &|_: &[u8]| true).unwrap();
        assert!(piece.next > next, "no progress at {next}");
        for (revision, events) in piece.revisions {
            assert!(events.iter().all(|event| revision_of(event) == revision));
            assert!((next..piece.next).contains(&revision));
            got.extend(events);
        }
        next = piece.next;
    }
    assert_eq!(got, want);
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

fn checked(commands: Vec<Command>) -> Vec<Command> {
    commands.into_iter().filter(|command| check(command, 128).is_ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_the_model(
        commands in vec(commands::command(), 0..40),
        reads in vec(commands::range(), 0..8),
        budget in 1usize..6,
        limit in 0usize..5,
    ) {
        let mut naive = Naive::new();
        let (mut plain, mut scrubbed) = (Member::new(), Member::new());
        // One that nobody watches answers and writes alike.
        let mut unwatched = Member::new();
        unwatched.machine.tell_previous(false);
        let mut emitted = Vec::new();
        for command in checked(commands) {
            let (reply, events) = naive.apply(&command);
            let outcome = plain.apply(std::slice::from_ref(&command)).remove(0);
            prop_assert_eq!(&outcome, &Outcome { reply, events, v2_events: Vec::new() }, "{:?}", command);
            prop_assert_eq!(&scrubbed.apply(std::slice::from_ref(&command))[0], &outcome);
            let mut without = outcome.clone();
            without.events.iter_mut().for_each(|event| event.prev_kv = None);
            prop_assert_eq!(&unwatched.apply(&[command])[0], &without);
            prop_assert_eq!(&unwatched.view, &plain.view);
            scrubbed.scrub(budget);
            emitted.extend(outcome.events);
        }
        for member in [&plain, &scrubbed] {
            same_history(member, &naive);
            same_events(member, &emitted, limit);
            for read in reads.iter().filter(|read| check_range(read).is_ok()) {
                prop_assert_eq!(range(&member.view, member.head(), read), naive.range(read), "{:?}", read);
            }
            for (id, _) in member.machine.leases() {
                let state = naive.states.last().unwrap();
                let want: Vec<_> = state.iter().filter(|(_, kv)| kv.lease == id).map(|(key, _)| key.clone()).collect();
                prop_assert_eq!(lease_keys(&member.view, id), want);
            }
            prop_assert_eq!(&Machine::load(&member.view).unwrap(), &member.machine);
        }
    }

    #[test]
    fn batches_do_not_matter(commands in vec(commands::command(), 0..40), cuts in vec(1usize..8, 40)) {
        let commands = checked(commands);
        let (mut one, mut many) = (Member::new(), Member::new());
        let want: Vec<_> = commands.iter().flat_map(|command| one.apply(std::slice::from_ref(command))).collect();
        let mut got = Vec::new();
        let mut rest = &commands[..];
        for cut in cuts {
            let (batch, after) = rest.split_at(cut.min(rest.len()));
            got.extend(many.apply(batch));
            rest = after;
        }
        prop_assert_eq!(got, want);
        prop_assert_eq!(&many.view, &one.view);
        prop_assert_eq!(&many.machine, &one.machine);
    }

    #[test]
    fn scrubbing_ends_and_changes_nothing_that_can_be_read(
        commands in vec(commands::command(), 0..60), budget in 1usize..9, compact in 0.0f64..1.0,
    ) {
        let mut member = Member::new();
        let mut naive = Naive::new();
        let mut emitted = Vec::new();
        for command in checked(commands) {
            emitted.extend(naive.apply(&command).1);
            member.apply(&[command]);
        }
        let revision = (member.head().revision as f64 * compact) as i64;
        let compaction = proa_etcd_api::etcdserverpb::CompactionRequest { revision, physical: true };
        let op = proa_etcd_api::command::command::Op::Compaction(compaction);
        let command = Command { op: Some(op) };
        let expected = naive.apply(&command).0;
        prop_assert_eq!(&member.apply(&[command])[0].reply, &expected);
        let hash = hash_kv(&member.view, member.head(), 0);
        let mut steps = 0;
        while !member.scrub(budget) {
            steps += 1;
            prop_assert_eq!(hash_kv(&member.view, member.head(), 0), hash);
            same_history(&member, &naive);
            prop_assert!(steps < 1000, "scrub does not end");
        }
        prop_assert!(scrub(&member.view, member.head(), budget).writes.is_empty());
        same_history(&member, &naive);
        prop_assert_eq!(hash_kv(&member.view, member.head(), 0), hash);
        // What is left is what can be read or watched, and not one version more.
        let head = member.head();
        let readable = (head.compact_revision.max(1)..=head.revision)
            .flat_map(|revision| naive.states[revision as usize - 1].values())
            .map(|kv| (kv.key.clone(), kv.mod_revision));
        let watchable = emitted
            .iter()
            .filter(|event| event.r#type == 0 && revision_of(event) >= head.compact_revision)
            .map(|event| (event.kv.as_ref().unwrap().key.clone(), revision_of(event)));
        let want: BTreeSet<_> = readable.chain(watchable).collect();
        let puts = |kinds: &[u8]| {
            let is_put = |key: &[u8]| key.starts_with(b"K") && key.last().is_some_and(|kind| kinds.contains(kind));
            member.view.entries().filter(|(key, _)| is_put(key)).count()
        };
        prop_assert_eq!(puts(&[0, 2]), want.len());
        let apart = member.view.entries().filter(|(key, _)| key.starts_with(b"B"));
        prop_assert_eq!(apart.count(), puts(&[2]));
    }
}
