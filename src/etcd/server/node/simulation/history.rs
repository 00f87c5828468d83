//! What clients did and saw, and whether one store could have answered so.
//!
//! etcd's answers carry revisions, so the order in which writes took effect is
//! no guess: the final history says it. It is replayed against a single store,
//! every answer is compared with the replayed one, and the order is held
//! against real time: what was answered before something else began must come
//! before it. An outcome that a client never learned is settled by the history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::Batch;
use proa_etcd_api::etcdserverpb::{RangeRequest, RangeResponse};
use proa_etcd_api::mvccpb::Event;
use proa_etcd_replica::eraftpb::{Entry, EntryType};
use proa_etcd_store::{Head, Machine, MemView, Reply, Writes, range};
use prost::Message as _;

/// When a client was not told what became of its operation.
pub(super) const NEVER: u64 = u64::MAX;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A command, proposed under this id.
    Write { id: u64 },
    /// A read; a serializable one may be old.
    Read { request: RangeRequest, serializable: bool },
}

/// What it was told.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// What the store made of a command.
    Written(Result<Reply, EtcdError>),
    /// What was read.
    Read(RangeResponse),
    /// It did not happen and never will.
    NotDone(EtcdError),
    /// Nothing: it may have happened or not.
    Nothing,
}

/// One operation of one client; times are virtual microseconds.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) client: usize,
    pub(super) began: u64,
    /// [`NEVER`] when it was told nothing.
    pub(super) ended: u64,
    pub(super) asked: Asked,
    pub(super) told: Told,
}

/// The final history: every command in the order of the log, replayed.
pub(super) struct Replayed {
    /// Place and answer of each command, by proposal id.
    commands: HashMap<u64, (u64, Result<Reply, EtcdError>)>,
    /// The events of each revision.
    pub(super) events: BTreeMap<i64, Vec<Event>>,
    /// First and last place at which each revision was the newest.
    places: BTreeMap<i64, (u64, u64)>,
    /// What the store held at each revision that somebody read at.
    states: BTreeMap<i64, (MemView, Head)>,
    pub(super) head: Head,
}

/// Replays the committed entries; `read_at` are the revisions to remember.
///
/// # Errors
/// A command that is in the log twice.
pub(super) fn replay<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    read_at: &BTreeSet<i64>,
) -> Result<Replayed, String> {
    let mut view = MemView::default();
    let mut machine = Machine::load(&view).map_err(|error| error.to_string())?;
    let mut replayed = Replayed {
        commands: HashMap::new(),
        events: BTreeMap::new(),
        places: BTreeMap::from([(1, (0, 0))]),
        states: BTreeMap::new(),
        head: machine.head(),
    };
    let mut place = 0;
    if read_at.contains(&1) {
        replayed.states.insert(1, (view.clone(), machine.head()));
    }
    for entry in entries.filter(|entry| entry.entry_type == EntryType::EntryNormal) {
        let batch = Batch::decode(entry.data.clone()).map_err(|error| error.to_string())?;
        for proposal in batch.proposals {
            place += 1;
            let mut writes = Writes::default();
            let outcome = machine.apply_proposal(&view, &mut writes, &proposal);
            view.apply(&writes);
            for event in outcome.events {
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                replayed.events.entry(revision).or_default().push(event);
            }
            if replayed.commands.insert(proposal.id, (place, outcome.reply)).is_some() {
                return Err(format!("proposal {:x} is in the log twice", proposal.id));
            }
            let revision = machine.head().revision;
            replayed.places.entry(revision).or_insert((place, place)).1 = place;
            if read_at.contains(&revision) && !replayed.states.contains_key(&revision) {
                replayed.states.insert(revision, (view.clone(), machine.head()));
            }
        }
    }
    replayed.head = machine.head();
    Ok(replayed)
}

/// The revisions that reads were answered at.
pub(super) fn revisions_read(operations: &[Operation]) -> BTreeSet<i64> {
    let revision = |operation: &Operation| match &operation.told {
        Told::Read(answer) => answer.header.as_ref().map(|header| header.revision),
        _ => None,
    };
    operations.iter().filter_map(revision).collect()
}

/// Whether the operations are linearizable in the order of the history.
///
/// # Errors
/// The first answer that no single store would have given.
pub(super) fn check(operations: &[Operation], history: &Replayed) -> Result<(), String> {
    let mut ordered = Vec::with_capacity(operations.len());
    for operation in operations {
        if let Some(window) = window(operation, history)? {
            ordered.push((operation, window));
        }
    }
    check_real_time(ordered)
}

/// The places in the history an operation may have taken effect at, doubled:
/// writes lie at even ones, reads between them. `None` if it had no effect.
fn window(operation: &Operation, history: &Replayed) -> Result<Option<(u64, u64)>, String> {
    let client = operation.client;
    match (&operation.asked, &operation.told) {
        (Asked::Write { id }, told) => {
            let found = history.commands.get(id);
            match (told, found) {
                (Told::Written(_), None) => {
                    Err(format!("client {client}: {told:?} was acknowledged and is not in the final history"))
                }
                (Told::Written(got), Some((place, want))) if got == want => Ok(Some((place * 2, place * 2))),
                (Told::Written(got), Some((_, want))) => {
                    Err(format!("client {client}: was told {got:?}, the history says {want:?}"))
                }
                (Told::NotDone(error), Some(_)) => {
                    Err(format!("client {client}: was told that nothing happened ({error}), and it did"))
                }
                (Told::Nothing, Some((place, _))) => Ok(Some((place * 2, place * 2))),
                (Told::NotDone(_) | Told::Nothing | Told::Read(_), _) => Ok(None),
            }
        }
        (Asked::Read { request, serializable }, Told::Read(answer)) => {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let Some((first, last)) = history.places.get(&revision) else {
                return Err(format!("client {client}: read at revision {revision}, which never was"));
            };
            let (view, head) = &history.states[&revision];
            let want = range(view, *head, request).map_err(|error| error.to_string())?;
            if *answer != want {
                return Err(format!("client {client}: read {answer:?}, the history says {want:?}"));
            }
            // A serializable read may be of any time before it was answered.
            let last = if *serializable { u64::MAX / 2 } else { *last };
            Ok(Some((first * 2 + 1, last * 2 + 1)))
        }
        (Asked::Read { .. }, _) => Ok(None),
    }
}

/// What was answered before something began must lie before it: each operation
/// gets the earliest place its window and its predecessors allow.
fn check_real_time(ordered: Vec<(&Operation, (u64, u64))>) -> Result<(), String> {
    let mut points: Vec<(u64, u8, usize)> = Vec::with_capacity(ordered.len() * 2);
    for (at, (operation, _)) in ordered.iter().enumerate() {
        points.push((operation.began, 1, at));
        points.push((operation.ended, 0, at));
    }
    // An answer at the very time of a beginning came before it.
    points.sort_unstable();
    let mut places = vec![0; ordered.len()];
    let (mut floor, mut floor_by) = (0, 0);
    for (time, kind, at) in points {
        let (operation, (first, last)) = &ordered[at];
        if kind == 0 {
            let counts = time != NEVER && !is_serializable(operation);
            if counts && places[at] > floor {
                (floor, floor_by) = (places[at], at);
            }
            continue;
        }
        places[at] = floor.max(*first);
        if places[at] > *last {
            return Err(format!(
                "not linearizable: {operation:?} began after {:?} was answered, and does not see it",
                ordered[floor_by].0
            ));
        }
        let is_later = |history_place: u64| history_place > places[at];
        debug_assert!(!is_later(*first) || places[at] >= *first);
    }
    Ok(())
}

fn is_serializable(operation: &Operation) -> bool {
    matches!(operation.asked, Asked::Read { serializable: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proa_etcd_api::command::{Command, Proposal, command::Op};
    use proa_etcd_api::etcdserverpb::PutRequest;

    fn entry(index: u64, ids: &[u64]) -> Entry {
        let proposals = ids.iter().map(|id| {
            let put = PutRequest {
                key: b"k".as_slice().into(),
                value: id.to_string().into(),
                ..PutRequest::default()
            };
            Proposal { id: *id, command: Some(Command { op: Some(Op::Put(put)) }), ..Proposal::default() }
        });
        let batch = Batch { proposals: proposals.collect() };
        Entry { index, term: 1, data: batch.encode_to_vec().into(), ..Entry::default() }
    }

    fn replayed(entries: &[Entry]) -> Replayed {
        replay(entries.iter(), &(1..=9).collect()).expect("no proposal is there twice")
    }

    fn write(history: &Replayed, id: u64, began: u64, ended: u64) -> Operation {
        let told = match history.commands.get(&id) {
            Some((_, reply)) => Told::Written(reply.clone()),
            None => Told::Written(Ok(Reply::Nothing)),
        };
        Operation { client: 0, began, ended, asked: Asked::Write { id }, told }
    }

    fn read(history: &Replayed, revision: i64, began: u64, ended: u64, serializable: bool) -> Operation {
        let request = RangeRequest { key: b"k".as_slice().into(), ..RangeRequest::default() };
        let (view, head) = &history.states[&revision];
        let told = Told::Read(range(view, *head, &request).expect("it can be read"));
        Operation { client: 1, began, ended, asked: Asked::Read { request, serializable }, told }
    }

    #[test]
    fn planted_violations_are_found_and_honest_histories_pass() {
        let history = &replayed(&[entry(1, &[10]), entry(2, &[20, 30])]);
        let changed = |mut operation: Operation, told: Told| {
            operation.told = told;
            operation
        };
        let ten = write(history, 10, 0, 5);
        let Told::Read(mut torn) = read(history, 3, 20, 30, false).told else { unreachable!() };
        torn.kvs[0].value = b"99".as_slice().into();
        let unavailable = || Told::NotDone(EtcdError::TooManyRequests);
        #[rustfmt::skip]
        let cases = [
            ("in order",             vec![ten.clone(), write(history, 20, 6, 9), read(history, 3, 10, 12, false)],  true),
            ("at the same time",     vec![write(history, 20, 0, 9), write(history, 10, 0, 9)],                      true),
            ("in the wrong order",   vec![write(history, 20, 0, 5), write(history, 10, 6, 9)],                      false),
            ("a stale read",         vec![write(history, 20, 0, 5), read(history, 2, 6, 9, false)],                 false),
            ("stale on purpose",     vec![write(history, 20, 0, 5), read(history, 2, 6, 9, true)],                  true),
            ("a read goes back",     vec![read(history, 3, 0, 5, false), read(history, 2, 6, 9, false)],            false),
            ("reads of the future",  vec![read(history, 3, 0, 5, false), write(history, 20, 6, 9)],                 false),
            ("a lost write",         vec![write(history, 40, 0, 5)],                                                false),
            ("a refused write took", vec![changed(ten.clone(), unavailable())],                                    false),
            ("an unknown one took",  vec![changed(write(history, 10, 0, NEVER), Told::Nothing)],                    true),
            ("an unknown one came too early", vec![read(history, 2, 0, 5, false), changed(write(history, 10, 6, NEVER), Told::Nothing)], false),
            ("a wrong answer",       vec![changed(ten, Told::Written(Ok(Reply::Nothing)))],                         false),
            ("a wrong value",        vec![changed(read(history, 3, 20, 30, false), Told::Read(torn))],              false),
        ];
        for (name, operations, want) in cases {
            let found = check(&operations, history);
            assert_eq!(found.is_ok(), want, "{name}: {found:?}");
        }
    }

    #[test]
    fn a_command_written_twice_is_found() {
        assert!(replay([entry(1, &[10]), entry(2, &[10])].iter(), &BTreeSet::new()).is_err());
    }
}
