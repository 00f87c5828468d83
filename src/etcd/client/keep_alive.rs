//! A lease that is renewed for as long as somebody holds on to it.

use std::sync::Arc;
use std::time::Duration;

use proa_etcd_api::etcdserverpb::LeaseKeepAliveResponse;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::call::Caller;
use crate::error::Error;

/// Answers kept for a holder that does not look; older ones stay, newer ones
/// are dropped, and the lease is renewed all the same.
const QUEUE_ANSWERS: usize = 16;
/// Between two attempts while no member answers.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long an unanswered first attempt is repeated: nobody knows yet for how
/// long the lease was granted, and elections end well before.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);

/// The renewals of one lease; dropping it ends them.
///
/// It renews at a third of the lease's time, so that two attempts may fail.
/// Source: etcd's client, `keepAliveCtx`.
pub struct KeepAlive {
    answers: mpsc::Receiver<LeaseKeepAliveResponse>,
    task: JoinHandle<()>,
}

impl KeepAlive {
    pub(crate) fn start(caller: Arc<Caller>, id: i64) -> Self {
        let (sender, answers) = mpsc::channel(QUEUE_ANSWERS);
        Self { answers, task: tokio::spawn(renew(caller, id, sender)) }
    }

    /// The next renewal; `None` when the lease has expired or was revoked, or
    /// when nobody could be asked for as long as it had to live.
    pub async fn next(&mut self) -> Option<LeaseKeepAliveResponse> {
        self.answers.recv().await
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew(caller: Arc<Caller>, id: i64, answers: mpsc::Sender<LeaseKeepAliveResponse>) {
    let mut lives_until = Instant::now() + FIRST_PATIENCE;
    loop {
        let asked = Instant::now();
        let pause = match crate::keep_alive_once(&caller, id).await {
            Ok(answer) if answer.ttl > 0 => {
                let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                lives_until = asked + ttl;
                if let Err(mpsc::error::TrySendError::Closed(_)) = answers.try_send(answer) {
                    return;
                }
                ttl / 3
            }
            Err(Error::Unavailable { .. }) if Instant::now() < lives_until => RETRY_PAUSE,
            Ok(_) | Err(_) => return,
        };
        tokio::time::sleep(pause).await;
    }
}
