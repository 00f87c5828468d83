//! When a machine may reboot into another release: the cluster's lock, the
//! maintenance window, and the gate in front of the reboot.
//!
//! Records in the store, beside the lock of the original (see [`semaphore`]):
//!
//! | key under `/proa/reboot/` | value               | lease | written by           |
//! |---------------------------|---------------------|-------|----------------------|
//! | `holders/<machine>`       | the machine's id    | yes   | the machine          |
//! | `intents/<machine>`       | [`lease::Intent`]   | -     | the machine, reapers |
//! | `suspects/<version>`      | [`lease::Suspect`]  | -     | reapers, the machine |
//! | `turn`                    | the last machine    | -     | whoever reboots      |
//!
//! How they hold together: a machine first writes its holder key and its intent,
//! then takes the lock. Whoever finds a holder of the lock with an intent and
//! without a key fences it: the intent becomes `given-up` and, when that machine
//! was rebooting, its target becomes suspect, in one transaction. Only then is
//! the lock taken from it. The last write before a reboot is guarded by the
//! machine's own key and intent, so a fenced machine cannot reboot any more, and
//! by `turn`, so two machines never decide from the same picture.

pub mod fleetlock;
pub mod gate;
pub mod lease;
pub mod quorum;
pub mod semaphore;
pub mod window;

#[cfg(test)]
mod gate_test;
#[cfg(test)]
mod small_worlds;
