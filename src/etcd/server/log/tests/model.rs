//! Random use, compared with a list in memory.

use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use tempfile::tempdir;

use super::super::Log;
use super::{SMALL, entry, hard_state, made};

#[derive(Clone, Debug)]
enum Step {
    /// Entries of these sizes, after dropping up to `back` uncommitted ones,
    /// and whether half of what is not committed becomes so.
    Append {
        back: u64,
        sizes: Vec<usize>,
        commit: bool,
    },
    /// Vote in a later term.
    Vote,
    /// Compact up to this share (of 8) of what is committed.
    Compact {
        share: u64,
    },
    /// A snapshot this far ahead arrives.
    Install {
        ahead: u64,
    },
    Reserve,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0..200usize, 0..200usize, 1000..6000usize];
    let sizes = proptest::collection::vec(size, 0..6);
    prop_oneof![
        8 => (0..4u64, sizes, any::<bool>()).prop_map(|(back, sizes, commit)| Step::Append { back, sizes, commit }),
        1 => Just(Step::Vote),
        2 => (0..9u64).prop_map(|share| Step::Compact { share }),
        1 => (1..50u64).prop_map(|ahead| Step::Install { ahead }),
        2 => Just(Step::Reserve),
        2 => Just(Step::Reopen),
    ]
}

/// What the log should hold.
#[derive(Default)]
struct Model {
    /// Index and term before `entries[0]`.
    start: (u64, u64),
    entries: Vec<Entry>,
    state: HardState,
    /// The log may have forgotten entries up to here.
    compacted: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        match index.checked_sub(self.start.0 + 1) {
            Some(at) => self.entries[at as usize].term,
            None => self.start.1,
        }
    }

    fn check(&self, dir: &std::path::Path) -> Log {
        let (log, found) = Log::open(dir, SMALL).unwrap();
        let (index, term) = found.snapshot.unwrap_or_default();
        assert!((self.start.0..=self.compacted).contains(&index), "starts at {index}");
        assert_eq!(term, self.term_at(index));
        assert_eq!(found.entries, self.entries[(index - self.start.0) as usize..]);
        assert_eq!(found.hard_state, self.state);
        assert_eq!((log.marker_index(), log.last_index()), (index, self.last()));
        log
    }

    fn run(&mut self, step: Step, mut log: Log, dir: &std::path::Path) -> Log {
        match step {
            Step::Append { back, sizes, commit } => {
                let back = back.min(self.last() - self.state.commit);
                self.state.term += u64::from(back > 0);
                let first = self.last() + 1 - back;
                let new: Vec<Entry> =
                    (first..).zip(sizes).map(|(i, size)| entry(i, self.state.term, size)).collect();
                if !new.is_empty() {
                    self.entries.truncate((first - 1 - self.start.0) as usize);
                    self.entries.extend(new.iter().cloned());
                }
                if commit {
                    self.state.commit += (self.last() - self.state.commit) / 2;
                }
                let receipt = log.append(&new, Some(&self.state)).unwrap();
                assert_eq!(
                    (receipt.last_index(), receipt.last_term()),
                    (self.last(), self.term_at(self.last()))
                );
            }
            Step::Vote => {
                self.state.term += 1;
                self.state.vote = self.state.term * 3;
                let _ = log.append(&[], Some(&self.state)).unwrap();
            }
            Step::Compact { share } => {
                let index = self.start.0 + (self.state.commit - self.start.0) * share.min(8) / 8;
                log.compact(index).unwrap();
                self.compacted = self.compacted.max(index);
            }
            Step::Install { ahead } => {
                let index = self.last() + ahead;
                self.state.term += 1;
                self.state = hard_state(self.state.term, 1, index);
                self.start = (index, self.state.term);
                self.compacted = index;
                self.entries.clear();
                let _ = log.install_snapshot(index, self.state.term, &self.state).unwrap();
            }
            Step::Reserve => log.reserve().unwrap(),
            Step::Reopen => {
                drop(log);
                log = self.check(dir);
            }
        }
        log
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_holds_what_a_list_would(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempdir().unwrap();
        let mut model = Model::default();
        let mut log = made(dir.path());
        for step in steps {
            log = model.run(step, log, dir.path());
        }
        drop(log);
        drop(model.check(dir.path()));
    }
}
