//! Linearizable reads: one ReadIndex round in flight, its context never reused.

/// Ticks after which a round is taken for lost: a leader that has not
/// committed in its term drops it without a word.
const RETRY_TICKS: u32 = 2;

/// Tickets up to `up_to` may read once `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The last ticket that asked before the round began.
    pub up_to: u64,
    /// The index to wait for.
    pub index: u64,
}

/// Batches reads into rounds.
///
/// A ticket is answered only by a round that began after the ticket was
/// drawn; a round's context is `boot nonce, attempt`, 16 bytes.
#[derive(Debug)]
pub(crate) struct Reads {
    boot_nonce: u64,
    attempt: u64,
    asked: u64,
    answered: u64,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    context: [u8; 16],
    up_to: u64,
    age_ticks: u32,
}

impl Reads {
    pub(crate) fn new(boot_nonce: u64) -> Self {
        Self { boot_nonce, attempt: 0, asked: 0, answered: 0, round: None }
    }

    /// Draws the next ticket.
    pub(crate) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The context to start a round with, when one is due.
    pub(crate) fn begin(&mut self) -> Option<Vec<u8>> {
        if self.round.is_some() || self.asked == self.answered {
            return None;
        }
        self.attempt += 1;
        let mut context = [0; 16];
        context[..8].copy_from_slice(&self.boot_nonce.to_be_bytes());
        context[8..].copy_from_slice(&self.attempt.to_be_bytes());
        self.round = Some(Round { context, up_to: self.asked, age_ticks: 0 });
        Some(context.to_vec())
    }

    /// Takes raft's answer; one to an abandoned attempt is ignored.
    pub(crate) fn finish(&mut self, context: &[u8], index: u64) -> Option<ReadReady> {
        let round = self.round.take_if(|round| round.context == context)?;
        self.answered = round.up_to;
        Some(ReadReady { up_to: round.up_to, index })
    }

    /// Abandons a round that got no answer in time.
    pub(crate) fn tick(&mut self) {
        if let Some(round) = &mut self.round {
            round.age_ticks += 1;
            if round.age_ticks > RETRY_TICKS {
                self.round = None;
            }
        }
    }

    /// Abandons the round: its leader is gone.
    pub(crate) fn abandon(&mut self) {
        self.round = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_late_ticket_waits_for_the_next_round() {
        let mut reads = Reads::new(7);
        reads.ask();
        let first = reads.begin().unwrap();
        reads.ask();
        assert_eq!(reads.begin(), None, "one round at a time");
        assert_eq!(reads.finish(&first, 10), Some(ReadReady { up_to: 1, index: 10 }));
        let second = reads.begin().unwrap();
        assert_eq!(reads.finish(&second, 11), Some(ReadReady { up_to: 2, index: 11 }));
        assert_eq!(reads.begin(), None, "nobody asks");
    }

    #[test]
    fn a_retry_has_a_new_context_and_the_old_answer_is_ignored() {
        let mut reads = Reads::new(7);
        reads.ask();
        let first = reads.begin().unwrap();
        for _ in 0..=RETRY_TICKS {
            reads.tick();
        }
        let second = reads.begin().unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.finish(&first, 5), None);
        assert_eq!(reads.finish(&second, 6), Some(ReadReady { up_to: 1, index: 6 }));
    }
}
