//! Ctrl-C and its relatives, as a flag that the waiting loops look at.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    ENDED.store(true, Ordering::SeqCst);
}

/// From here on the signals that end a program are noted instead, so that machines,
/// disks and folders are cleared away in order.
pub fn note_them() {
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the action is zeroed but for a handler that only stores to an atomic.
        // Without SA_RESTART, so that a read of the terminal returns.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether one came.
pub fn ended() -> bool {
    ENDED.load(Ordering::SeqCst)
}

/// Forgets those that came: they were meant for the command that just ran.
pub fn forget() {
    ENDED.store(false, Ordering::SeqCst);
}

/// Waits `time`, or less when one comes; says whether to go on.
pub fn pause(time: Duration) -> bool {
    if !ended() {
        // nanosleep ends early on a signal, but the library goes back to sleep; short
        // pieces keep Ctrl-C quick.
        let pieces = time.as_millis().div_ceil(50).max(1);
        for _ in 0..pieces {
            thread::sleep(Duration::from_millis(50));
            if ended() {
                break;
            }
        }
    }
    !ended()
}
