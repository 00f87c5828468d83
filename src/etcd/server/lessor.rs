//! The leases of this member: kept by its own clock while it leads, asked of
//! the leader while it does not.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, LeaseRevoke, command::Op};

use crate::lease::{Deadlines, Millis, TimeToLive};
use crate::metrics::{METRICS, add};
use crate::node::Node;

/// How exactly leases end. etcd looks twice a second.
const TICK: Duration = Duration::from_millis(250);
/// Leases that end in one command: each deletes keys, and no command may hold
/// the others up for long.
const MAX_REVOKED: usize = 500;

/// Looks at a lease that the leader does not know though it was granted, and the
/// time between two: half a second in all, more than applying lags behind.
const LAG_LOOKS: u32 = 100;
const LAG_POLL: Duration = Duration::from_millis(5);

/// See the module.
pub struct Lessor {
    node: Node,
    started: Instant,
    election: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deadlines: Deadlines,
    /// The term in which this member leads and the deadlines are its own.
    leads_in_term: Option<u64>,
    /// The raft index up to which the store's leases are known.
    reconciled: u64,
}

/// What members ask their leader, and clients this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Renew(i64),
    TimeToLive(i64),
}

impl Lessor {
    /// The leases of `node`; members' questions are answered from now on.
    pub fn start(node: &Node, election: Duration) -> Arc<Self> {
        let lessor = Arc::new(Self {
            node: node.clone(),
            started: Instant::now(),
            election,
            state: Mutex::new(State::default()),
        });
        let answering = Arc::downgrade(&lessor);
        node.set_answerer(Box::new(move |question| {
            let lessor = answering.upgrade().ok_or(EtcdError::Stopped)?;
            lessor.answer(Question::decode(question)?).map(encode_answer)
        }));
        tokio::spawn(Arc::clone(&lessor).run());
        lessor
    }

    /// Gives a lease its whole time again; its seconds.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`], or why the leader could not be asked.
    pub async fn renew(&self, id: i64) -> Result<i64, EtcdError> {
        self.ask(Question::Renew(id)).await.map(|left| left.granted_s)
    }

    /// How long a lease has.
    ///
    /// # Errors
    /// As [`Lessor::renew`].
    pub async fn time_to_live(&self, id: i64) -> Result<TimeToLive, EtcdError> {
        self.ask(Question::TimeToLive(id)).await
    }

    /// Notes a lease that was just granted through this member.
    pub fn begin(&self, id: i64, granted_s: i64) {
        let now = self.now();
        let mut state = self.state();
        if state.leads_in_term.is_some() {
            state.deadlines.begin(now, id, granted_s);
        }
    }

    /// Puts the leases that end first in front, as etcd lists them; only the
    /// leader knows which ones.
    pub fn sort_by_end(&self, ids: &mut [i64]) {
        self.state().deadlines.sort(ids);
    }

    /// A lease that was granted a moment ago may be committed and not applied
    /// yet, here or at the leader: who knows its id must not hear that there is none.
    async fn ask(&self, question: Question) -> Result<TimeToLive, EtcdError> {
        let (Question::Renew(id) | Question::TimeToLive(id)) = question;
        for attempt in 0..LAG_LOOKS {
            match self.ask_once(question).await {
                Err(EtcdError::LeaseNotFound) => {}
                answer => return answer,
            }
            match attempt {
                0 => self.node.linearizable().await?,
                _ => tokio::time::sleep(LAG_POLL).await,
            }
            if !self.node.has_lease(id) {
                break;
            }
        }
        Err(EtcdError::LeaseNotFound)
    }

    async fn ask_once(&self, question: Question) -> Result<TimeToLive, EtcdError> {
        if self.node.status().borrow().is_leader {
            return self.answer(question);
        }
        decode_answer(self.node.ask_leader(question.encode()).await?)
    }

    /// The leader's answer.
    fn answer(&self, question: Question) -> Result<TimeToLive, EtcdError> {
        self.follow_status();
        let now = self.now();
        let mut state = self.state();
        if state.leads_in_term.is_none() {
            return Err(EtcdError::NotLeader);
        }
        if let Some(left) = state.deadlines.ask(now, question) {
            return Ok(left);
        }
        // It may have been granted a moment ago through another member.
        state.deadlines.reconcile(now, &self.node.leases());
        state.deadlines.ask(now, question).ok_or(EtcdError::LeaseNotFound)
    }

    async fn run(self: Arc<Self>) {
        let mut status = self.node.status();
        loop {
            // An elapsed tick and a change of the status both mean: look.
            if let Ok(Err(_)) = tokio::time::timeout(TICK, status.changed()).await {
                return;
            }
            status.borrow_and_update();
            let ended = self.follow_status();
            if !ended.is_empty() {
                self.revoke(ended).await;
            }
            // Under load the status changes all the time.
            tokio::time::sleep(TICK).await;
        }
    }

    /// Takes over, steps down, takes notice of the store's leases; the ones
    /// that have ended.
    fn follow_status(&self) -> Vec<i64> {
        let now = self.now();
        let status = self.node.status().borrow().clone();
        let mut guard = self.state();
        let state = &mut *guard;
        if !status.is_leader {
            state.leads_in_term = None;
            state.deadlines.step_down();
            return Vec::new();
        }
        if state.leads_in_term != Some(status.term) {
            state.leads_in_term = Some(status.term);
            state.reconciled = status.applied;
            state.deadlines.take_over(now, &self.node.leases(), self.election);
        } else if state.reconciled != status.applied {
            state.reconciled = status.applied;
            state.deadlines.reconcile(now, &self.node.leases());
        }
        state.deadlines.ended(now, MAX_REVOKED)
    }

    async fn revoke(&self, ids: Vec<i64>) {
        let term = self.state().leads_in_term;
        // A leader that was stopped for a while may have been replaced, and
        // the new one may have renewed these leases: only the majority knows.
        if self.node.linearizable().await.is_err() {
            return;
        }
        self.follow_status();
        if term.is_none() || self.state().leads_in_term != term {
            return;
        }
        let command = Command { op: Some(Op::LeaseRevoke(LeaseRevoke { ids: ids.clone() })) };
        match self.node.propose_as_member(command).await {
            Ok(_) | Err(EtcdError::LeaseNotFound) => {
                METRICS.leases_expired.fetch_add(ids.len() as u64, Relaxed);
                self.state().deadlines.forget(&ids);
            }
            Err(error) => tracing::warn!("{} ended leases stay for now: {error}", ids.len()),
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change below is whole before the next call that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deadlines {
    fn ask(&mut self, now: Millis, question: Question) -> Option<TimeToLive> {
        match question {
            Question::Renew(id) => {
                let ttl = self.renew(now, id)?;
                add(&METRICS.leases_renewed);
                Some(TimeToLive { granted_s: ttl, left_s: ttl })
            }
            Question::TimeToLive(id) => self.time_to_live(now, id),
        }
    }
}

/// One byte for the kind, eight for the lease.
impl Question {
    fn encode(self) -> Bytes {
        let (kind, id) = match self {
            Self::Renew(id) => (1, id),
            Self::TimeToLive(id) => (2, id),
        };
        let mut out = BytesMut::with_capacity(9);
        out.put_u8(kind);
        out.put_i64(id);
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Result<Self, EtcdError> {
        if bytes.len() != 9 {
            return Err(EtcdError::NotLeader);
        }
        match (bytes.get_u8(), bytes.get_i64()) {
            (1, id) => Ok(Self::Renew(id)),
            (2, id) => Ok(Self::TimeToLive(id)),
            // A question of a later version: nobody here can answer it.
            _ => Err(EtcdError::NotLeader),
        }
    }
}

fn encode_answer(left: TimeToLive) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_i64(left.granted_s);
    out.put_i64(left.left_s);
    out.freeze()
}

fn decode_answer(mut bytes: Bytes) -> Result<TimeToLive, EtcdError> {
    if bytes.len() != 16 {
        return Err(EtcdError::NotLeader);
    }
    Ok(TimeToLive { granted_s: bytes.get_i64(), left_s: bytes.get_i64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back_as_they_were() {
        for question in [Question::Renew(7), Question::TimeToLive(-1)] {
            assert_eq!(Question::decode(question.encode()), Ok(question));
        }
        let left = TimeToLive { granted_s: 60, left_s: 59 };
        assert_eq!(decode_answer(encode_answer(left)), Ok(left));
        assert_eq!(Question::decode(Bytes::from_static(b"x")), Err(EtcdError::NotLeader));
    }
}
