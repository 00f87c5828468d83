//! Process 1 of a machine, from the kernel to systemd.
//!
//! It comes in two stages. The first is what the boot medium brought: it chooses
//! a slot, has the kernel check it, and starts what is in it. The second is the
//! same program out of the slot, so that a release brings its own code for all
//! that is not needed to start it: what is wrong there, an update mends, or the
//! machine falls back.

use crate::{
    console,
    identity::IdentityError,
    mounts::MountError,
    settings::{self, AfterFailure},
    stage1, stage2, sys,
};
use proa_base::{
    cmdline::{self, Word},
    settings::Program,
};
use proa_update_disk::SlotError;
use proa_update_model::layout;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// The argument that makes this the second stage.
pub const SECOND_STAGE: &str = "--stage2";

pub const SYS_BLOCK: &str = "/sys/class/block";

/// Where our files of this boot are.
pub const RUN_FOLDER: &str = "/run/proa";

/// Why the machine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no disk with a slot (partition type {}) appeared within {} s{seen}", layout::SLOT_TYPE, stage1::DISK_WAIT.as_secs())]
    NoDisk { seen: String },
    #[error("no slot of {} is bootable; boot an installer or set a slot's attributes by hand", disk.display())]
    NoSlot { disk: PathBuf, why: Vec<String> },
    #[error("{} on the kernel command line is {guid:?}, which is no slot of {}", crate::kernel::SLOT_WORD, disk.display())]
    NoSuchSlot { guid: String, disk: PathBuf },
    #[error("{} has no state partition (type {})", disk.display(), layout::STATE_TYPE)]
    NoState { disk: PathBuf },
    #[error("the state partition cannot be used: it must hold {}", layout::STATE_FILE_SYSTEM)]
    State(#[source] MountError),
    #[error("partition {number} of {} is in its table, but the kernel has no device for it", disk.display())]
    NoDevice { number: u32, disk: PathBuf },
    #[error("{}", device.display())]
    NotSealed { device: PathBuf, source: proa_update_disk::SealError },
    #[error("the first stage left no record of what it started")]
    NoRecord(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] proa_update_disk::DiskError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
}

/// Says what was being done when the system said no.
pub fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { action, source }
}

/// Boots the machine as its first process.
///
/// `known` are the programs whose namespaces on the kernel command line are
/// ours; words in them that none knows, or that are wrong, are told.
///
/// Returns only when this is not process 1.
pub fn run(arguments: &[String], known: &[&Program]) -> ExitCode {
    if std::process::id() != 1 {
        console::say("this is process 1 of the initramfs: the kernel starts it as /init, nobody else can");
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let mut words = Vec::new();
    // The kernel's own arguments are words of its command line that it does not
    // know; that line is read whole.
    let is_second = arguments.first().is_some_and(|word| word == SECOND_STAGE);
    let Err(error) =
        if is_second { stage2::start(known, began, &mut words) } else { stage1::start(began, &mut words) };
    if let StartError::NoSlot { why, .. } = &error {
        why.iter().for_each(console::say);
    }
    console::say_for_the_log(console::chain(&error));
    give_up(settings::after_failure(&words))
}

fn give_up(after: AfterFailure) -> ExitCode {
    match after {
        AfterFailure::Restart { after_seconds } => {
            console::say(format_args!("restarting in {after_seconds} s (panic= on the kernel command line)"));
            thread::sleep(Duration::from_secs(after_seconds.into()));
            console::say(format_args!("cannot restart: {}", sys::restart()));
        }
        AfterFailure::Wait => console::say("stopped, as panic=0 on the kernel command line asks"),
    }
    loop {
        thread::park();
    }
}

/// The kernel's command line as this boot has it.
pub fn command_line() -> Vec<Word> {
    cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

/// Where the new root's file of this path is.
pub fn in_new_root(path: &str) -> PathBuf {
    Path::new(crate::mounts::SYSROOT).join(path.trim_start_matches('/'))
}
