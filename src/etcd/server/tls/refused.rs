//! Tells of those who were not let in.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proa_etcd_client::tls::in_words;
use rustls::{CertificateError, Error};

/// One line in this time, however many dial: who is refused tries again ten times a
/// second, and a flood must not fill the journal.
const EVERY: Duration = Duration::from_secs(1);

/// When a refusal was told last.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Option<Instant>>);

impl Refusals {
    /// Says who was refused and why, unless that was just said of another.
    pub(super) fn tell(&self, from: SocketAddr, error: &io::Error) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= EVERY) {
            *last = Some(Instant::now());
            // Words that those who operate etcd look for.
            tracing::warn!("rejected connection from {from}: {}", words(error));
        }
    }
}

fn words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            "client certificate authentication failed: its name is not allowed".to_owned()
        }
        Some(_) | None => in_words(error),
    }
}
