//! The initramfs init: choose the slot, spend a try, start it.
//!
//! The kernel starts [`run`] as process 1. It ends by becoming the init of the
//! chosen root file system, or by saying what is wrong and restarting.

mod address;
mod arp;
mod console;
mod cpio;
mod identity;
mod interface;
mod kernel;
mod logs;
mod mapper;
mod mounts;
mod settings;
mod stage1;
mod stage2;
mod start;
mod sys;
mod watchdog;

pub use start::run;
