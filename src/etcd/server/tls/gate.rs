//! A bound on handshakes under way that a flood cannot turn against others.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Handshakes at a time; each holds a descriptor and some 40 KiB.
const MOST: usize = 512;

/// Lets a bounded number of handshakes be under way. One more ends the oldest:
/// an honest one is over in milliseconds, so that who dawdles pays for a flood.
#[derive(Debug, Default)]
pub struct Gate {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// In the order of coming; what is dropped ends its handshake.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

struct Ticket<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.gate.inside().waiting.remove(&self.number);
    }
}

impl Gate {
    /// Runs `handshake` unless so many come after it that it must give way.
    ///
    /// # Errors
    /// Those of the handshake, and one for having given way.
    pub async fn pass<T>(&self, handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let (ticket, ended) = self.enter();
        let outcome = tokio::select! {
            // Whoever is through in time is not sent away in the same moment.
            biased;
            outcome = handshake => outcome,
            _ = ended => Err(io::Error::other("too many handshakes at a time")),
        };
        drop(ticket);
        outcome
    }

    fn enter(&self) -> (Ticket<'_>, oneshot::Receiver<()>) {
        let (sender, ended) = oneshot::channel();
        let mut inside = self.inside();
        let number = inside.next;
        inside.next += 1;
        inside.waiting.insert(number, sender);
        if inside.waiting.len() > MOST {
            inside.waiting.pop_first();
        }
        (Ticket { gate: self, number }, ended)
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        // A poisoned lock still holds a whole map.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_oldest_gives_way_and_an_honest_one_passes() {
        let gate = Arc::new(Gate::default());
        let slow = |gate: Arc<Gate>| async move {
            gate.pass(std::future::pending::<io::Result<()>>()).await.unwrap_err().to_string()
        };
        let first = tokio::spawn(slow(Arc::clone(&gate)));
        let mut rest = Vec::new();
        while gate.inside().next < 1 {
            tokio::task::yield_now().await;
        }
        for _ in 0..MOST {
            rest.push(tokio::spawn(slow(Arc::clone(&gate))));
        }
        assert_eq!(first.await.unwrap(), "too many handshakes at a time");
        assert_eq!(gate.inside().waiting.len(), MOST);
        gate.pass(async { Ok(()) }).await.unwrap();
        // It took the place of one more, and left its own.
        assert_eq!(gate.inside().waiting.len(), MOST - 1);
        rest.iter().for_each(tokio::task::JoinHandle::abort);
        for task in rest {
            let _ = task.await;
        }
        assert!(gate.inside().waiting.is_empty());
    }
}
