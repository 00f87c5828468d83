//! Passwords and their hashes: slow on purpose, so never on a thread that
//! serves others, and never many at a time.

use proa_etcd_api::EtcdError;
use tokio::sync::Semaphore;

/// Passwords that wait or are worked on; at cost 10 one takes some 60 ms, so
/// the last of them waits about as long as a request may.
const MAX_WAITING: usize = 128;
/// Salt and hash that a password is compared with whose user is unknown, so
/// that the time that it takes tells nothing.
const NOBODY: &str = ".....................................................";

/// A password of more than 72 bytes: bcrypt would leave out the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub struct TooLong;

/// Does the work, a little at a time.
pub(super) struct Passwords {
    cost: u32,
    waiting: Semaphore,
    working: Semaphore,
}

impl Passwords {
    pub fn new(cost: u32) -> Self {
        // Half of the processors: logging in must not stop the store.
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let working = Semaphore::new((processors / 2).max(1));
        Self { cost, waiting: Semaphore::new(MAX_WAITING), working }
    }

    /// The hash to keep of a password.
    pub async fn hash(&self, password: &str) -> Result<Result<String, TooLong>, EtcdError> {
        let (cost, password) = (self.cost, password.to_owned());
        self.work(move || match bcrypt::non_truncating_hash(password, cost) {
            Ok(hash) => Ok(Ok(hash)),
            Err(bcrypt::BcryptError::Truncation(_)) => Ok(Err(TooLong)),
            // No random bytes, or a cost that the settings let through.
            Err(error) => {
                tracing::error!("hashing a password: {error}");
                Err(EtcdError::AuthFailed)
            }
        })
        .await?
    }

    /// Whether `hash` is of this password. Without a hash none is right, which
    /// takes as long.
    pub async fn is_right(&self, password: &str, hash: Option<String>) -> Result<bool, EtcdError> {
        let (cost, password) = (self.cost, password.to_owned());
        self.work(move || {
            let is_user = hash.is_some();
            let hash = hash.unwrap_or_else(|| format!("$2b${cost:02}${NOBODY}"));
            let is_same = bcrypt::non_truncating_verify(password, &hash).unwrap_or(false);
            is_user && is_same
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EtcdError> {
        let _place = self.waiting.try_acquire().map_err(|_| EtcdError::TooManyRequests)?;
        let _turn = self.working.acquire().await.map_err(|_| EtcdError::Stopped)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| EtcdError::Stopped)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_right_for_its_own_hash_only() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("secret").await.unwrap().unwrap();
        assert!(hash.starts_with("$2b$04$"), "{hash}");
        assert!(passwords.is_right("secret", Some(hash.clone())).await.unwrap());
        assert!(!passwords.is_right("Secret", Some(hash)).await.unwrap());
        assert!(!passwords.is_right("", Some(String::new())).await.unwrap());
        assert!(!passwords.is_right("secret", None).await.unwrap());
    }

    #[tokio::test]
    async fn what_bcrypt_would_cut_off_is_refused() {
        let passwords = Passwords::new(4);
        assert!(passwords.hash(&"x".repeat(71)).await.unwrap().is_ok());
        assert_eq!(passwords.hash(&"x".repeat(73)).await.unwrap(), Err(TooLong));
    }

    #[tokio::test]
    async fn a_crowd_is_sent_away() {
        let passwords = Passwords::new(4);
        let all = passwords.waiting.acquire_many(u32::try_from(MAX_WAITING).unwrap()).await.unwrap();
        assert_eq!(passwords.is_right("x", None).await, Err(EtcdError::TooManyRequests));
        drop(all);
        assert_eq!(passwords.is_right("x", None).await, Ok(false));
    }
}
