//! The initramfs init: choose the slot, spend a try, start it.
//!
//! The kernel starts [`run`] as process 1. It ends by becoming the init of the
//! chosen root file system, or by saying what is wrong and restarting.

mod address;
mod arp;
mod console;
mod identity;
mod interface;
mod mounts;
mod settings;
mod start;
mod sys;

pub use start::run;
