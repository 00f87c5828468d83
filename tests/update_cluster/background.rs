//! Work beside the test, until the test has seen enough.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Whether work is to end.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A thread of its own with a runtime of its own.
pub struct Background<T> {
    stop: Stop,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts `work`, which ends soon after it is told to stop.
    pub fn start<F>(work: impl FnOnce(Stop) -> F + Send + 'static) -> Self
    where
        F: Future<Output = T>,
    {
        let stop = Stop::default();
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work(told))
        });
        Self { stop, thread }
    }

    /// Stops it; what it has found.
    pub fn finish(self) -> T {
        self.stop.0.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
