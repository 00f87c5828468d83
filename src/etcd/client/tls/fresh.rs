//! A value made of files, made anew when they change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::TlsError;

/// Between two looks at the files: a few stat(2) a second cost nothing, and
/// nobody waits longer for a new certificate.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Make<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// What tells one content of a file from the next: inode, size, time of change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A value made of files. When they change and the new content is bad, the
/// value stays what it was, with one line in the log.
pub struct Fresh<T> {
    files: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl<T> std::fmt::Debug for Fresh<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fresh").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Fresh<T> {
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// What `make` says.
    pub fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // Stamps before content: a change in between is seen at the next look.
        let stamps = stamps(&files);
        let value = Arc::new(make()?);
        let state = State { value, stamps, looked: Instant::now() };
        Ok(Self { files, make: Box::new(make), state: Mutex::new(state) })
    }

    /// The value of the files as they are, or were a second ago.
    pub fn get(&self) -> Arc<T> {
        self.get_at(Instant::now())
    }

    fn get_at(&self, now: Instant) -> Arc<T> {
        // A poisoned lock still holds a whole value.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= LOOK_AGAIN {
            state.looked = now;
            let stamps = stamps(&self.files);
            if stamps != state.stamps {
                state.stamps = stamps;
                match (self.make)() {
                    Ok(value) => state.value = Arc::new(value),
                    Err(error) => {
                        let source = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                        tracing::warn!(
                            "changed certificates cannot be used, going on with the former ones: {error}{}",
                            source.unwrap_or_default()
                        );
                    }
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        fs::metadata(path).ok().map(|now| (now.ino(), now.size(), now.ctime(), now.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn good_changes_are_taken_and_bad_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let read = {
            let path = path.clone();
            move || {
                let text = fs::read_to_string(&path).unwrap_or_default();
                text.parse::<u32>().map_err(|_| TlsError::Content { path: path.clone(), want: "a number" })
            }
        };
        let fresh = Fresh::new(vec![path.clone()], read).unwrap();
        let mut now = Instant::now();
        // Content, whether a second has passed, value.
        for (content, is_later, want) in
            [("1", true, 1), ("22", false, 1), ("22", true, 22), ("x", true, 22), ("333", true, 333)]
        {
            fs::write(&path, content).unwrap();
            now += if is_later { LOOK_AGAIN } else { Duration::ZERO };
            assert_eq!(*fresh.get_at(now), want, "{content}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(*fresh.get_at(now + LOOK_AGAIN), 333, "a lost file changes nothing");
    }
}
