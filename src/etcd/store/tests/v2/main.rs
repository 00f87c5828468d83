//! The v2 tree against a naive one, over random commands.
//!
//! proptest prints the seed and the shortest failing commands.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod naive;

use naive::Naive;
use proa_etcd_api::command::v2_write::Kind;
use proa_etcd_api::command::{Command, V2Event, V2Expire, V2Write, command::Op};
use proa_etcd_store::v2::{Rules, Watch, get, next_expiry, past};
use proa_etcd_store::{Machine, MemView, Outcome, Reply, Writes, hash_kv};
use proptest::collection::vec;
use proptest::prelude::*;

/// Paths that lie in one another, that begin alike, that are hidden or roots.
const PATHS: [&str; 12] = [
    "/1/a",
    "/1/a/b",
    "/1/a/b/c",
    "/1/ab",
    "/1/a/_h",
    "/1/_h/x",
    "/1/z",
    "/1/a0",
    "/1",
    "/",
    "/2/users/u",
    "/1/q",
];
const VALUES: [&str; 3] = ["", "x", "y"];

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
}

fn path() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&PATHS[..])
}

fn value() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&VALUES[..])
}

fn write() -> impl Strategy<Value = V2Write> {
    let kind = prop_oneof![
        8 => Just(Kind::Set),
        2 => Just(Kind::Create),
        2 => Just(Kind::CreateInOrder),
        2 => Just(Kind::Update),
        3 => Just(Kind::CompareAndSwap),
        4 => Just(Kind::Delete),
        2 => Just(Kind::CompareAndDelete),
    ];
    let rare = || proptest::bool::weighted(0.2);
    let index = prop_oneof![3 => Just(0u64), 1 => 1u64..40];
    let expires = prop_oneof![2 => Just(0i64), 1 => 1i64..30];
    (kind, path(), value(), (rare(), rare(), rare()), value(), index, expires, 1i64..20).prop_map(
        |(kind, path, value, (dir, recursive, refresh), prev_value, prev_index, expires_s, now_s)| V2Write {
            kind: kind as i32,
            path: path.into(),
            value: if refresh { "" } else { value }.into(),
            dir,
            recursive,
            prev_value: prev_value.into(),
            prev_index,
            expires_ns: expires_s * 1_000_000_000,
            refresh: refresh && matches!(kind, Kind::Set | Kind::Update | Kind::CompareAndSwap),
            now_ns: now_s * 1_000_000_000 - 1,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let expire = (1i64..30).prop_map(|now_s| Op::V2Expire(V2Expire { now_ns: now_s * 1_000_000_000 }));
    prop_oneof![20 => write().prop_map(Op::V2Write), 1 => expire].prop_map(|op| Command { op: Some(op) })
}

fn check_answers(member: &Member, naive: &Naive) -> Result<(), TestCaseError> {
    let now_ns = 7_000_000_000;
    for path in PATHS {
        for recursive in [false, true] {
            let want = naive.get(path, recursive, now_ns);
            prop_assert_eq!(get(&member.view, path.as_bytes(), recursive, now_ns), want, "{}", path);
        }
    }
    prop_assert_eq!(next_expiry(&member.view), naive.next_expiry());
    Ok(())
}

fn check_past(member: &Member, naive: &Naive, from: u64, looked_at: usize) -> Result<(), TestCaseError> {
    for (path, recursive) in PATHS.iter().flat_map(|path| [(path, false), (path, true)]) {
        let watch = Watch { path: path.as_bytes().to_vec(), recursive };
        for asked in [0, naive.index / 2, naive.index] {
            let (mut found, mut next) = (Vec::new(), from);
            while next <= naive.index {
                let piece = past(&member.view, &watch, next, asked, looked_at, 2).unwrap();
                prop_assert!(piece.next > next, "a piece looks at something");
                found.extend(piece.events);
                next = piece.next;
            }
            let index = |event: &V2Event| event.node.as_ref().unwrap().modified_index;
            let rules = |event: &V2Event| if index(event) <= asked { Rules::Past } else { Rules::Live };
            let wanted = naive.events.iter().filter(|event| index(event) >= from);
            let wanted = wanted.filter(|event| naive::concerns(path, recursive, event, rules(event)));
            prop_assert_eq!(found, wanted.cloned().collect::<Vec<_>>(), "{} {}", path, recursive);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_tree_is_the_naive_one(
        commands in vec(command(), 1..40),
        batch in 1usize..6,
        from in 1u64..30,
        looked_at in 1usize..8,
    ) {
        let (mut member, mut naive) = (Member::new(), Naive::new());
        let empty = hash_kv(&member.view, member.machine.head(), 0);
        for commands in commands.chunks(batch) {
            let outcomes = member.apply(commands);
            for (command, outcome) in commands.iter().zip(outcomes) {
                let (reply, v2_events) = naive.apply(command);
                let want = Outcome { reply: Ok(reply), events: Vec::new(), v2_events };
                prop_assert_eq!(outcome, want, "{:?}", command);
            }
            let stored = Machine::load(&member.view).unwrap();
            prop_assert_eq!(&stored, &member.machine);
            check_answers(&member, &naive)?;
        }
        check_past(&member, &naive, from, looked_at)?;
        prop_assert_eq!(hash_kv(&member.view, member.machine.head(), 0), empty, "v3 has its own hash");
    }

    #[test]
    fn batches_change_nothing(commands in vec(command(), 1..40), batch in 2usize..8) {
        let (mut one, mut many) = (Member::new(), Member::new());
        commands.iter().for_each(|command| drop(one.apply(std::slice::from_ref(command))));
        commands.chunks(batch).for_each(|commands| drop(many.apply(commands)));
        prop_assert_eq!(one.view, many.view);
    }
}

#[test]
fn many_that_end_at_once_end_in_bounded_steps() {
    let mut member = Member::new();
    let write = |number: usize| {
        let path = format!("/1/t{number}").into_bytes();
        Op::V2Write(V2Write { path: path.into(), expires_ns: 5, ..V2Write::default() })
    };
    let writes: Vec<Command> = (0..1200).map(|number| Command { op: Some(write(number)) }).collect();
    member.apply(&writes);
    let mut ended = Vec::new();
    while next_expiry(&member.view).is_some() {
        let expire = Command { op: Some(Op::V2Expire(V2Expire { now_ns: 5 })) };
        let outcome = member.apply(&[expire]).remove(0);
        assert_eq!(outcome.reply, Ok(Reply::V2Expired(outcome.v2_events.len())));
        ended.push(outcome.v2_events.len());
    }
    assert_eq!(ended, [500, 500, 200]);
}
