//! From the kernel's first process to the init of the chosen root.

use crate::{
    console,
    identity::{self, Identity, IdentityError},
    interface::{self, Claim, InterfaceError},
    mounts::{self, MountError, SYSROOT},
    settings::{self, AfterFailure},
    sys,
};
use proa_base::{
    cmdline::{self, Word},
    net::Network,
    settings::{Program, review},
};
use proa_update_disk::{Disk, SlotError, Slots, disk};
use proa_update_model::{layout, slots::Boot};
use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long disks may take to appear: RAID controllers count their drives.
const DISK_WAIT: Duration = Duration::from_secs(20);

/// How long the kernel may take to show the partitions of a mended disk.
const PARTITION_WAIT: Duration = Duration::from_secs(2);

const SYS_BLOCK: &str = "/sys/class/block";

/// Words of the command line that QEMU hands in beside the kernel's own.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/proa/cmdline/raw";

/// Why the machine does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("no disk with a slot (partition type {}) appeared within {} s{seen}", layout::SLOT_TYPE, DISK_WAIT.as_secs())]
    NoDisk { seen: String },
    #[error("no slot of {} is bootable; boot an installer or set a slot's attributes by hand", disk.display())]
    NoSlot { disk: PathBuf, why: Vec<String> },
    #[error("{} has no state partition (type {})", disk.display(), layout::STATE_TYPE)]
    NoState { disk: PathBuf },
    #[error("the state partition cannot be used: it must hold {}", layout::STATE_FILE_SYSTEM)]
    State(#[source] MountError),
    #[error("partition {number} of {} is in its table, but the kernel has no device for it", disk.display())]
    NoDevice { number: u32, disk: PathBuf },
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
}

/// Boots the machine as its first process.
///
/// `known` are the programs whose namespaces on the kernel command line are
/// ours; words in them that none knows, or that are wrong, are told.
///
/// Returns only when this is not process 1.
pub fn run(known: &[&Program]) -> ExitCode {
    if std::process::id() != 1 {
        console::say("this is process 1 of the initramfs: the kernel starts it as /init, nobody else can");
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let mut words = Vec::new();
    let Err(error) = start(known, began, &mut words);
    if let StartError::NoSlot { why, .. } = &error {
        why.iter().for_each(console::say);
    }
    console::say(console::chain(&error));
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

fn start(known: &[&Program], began: Instant, words: &mut Vec<Word>) -> Result<Infallible, StartError> {
    mounts::early()?;
    open_console();
    *words = read_command_line();
    review(known, words).iter().for_each(console::say);
    // Asking for an address takes longer than all the mounting.
    let claim = begin_claim(words);

    let mut slots = wait_for_slots()?;
    mend_and_tell(&mut slots);
    mount_best_slot(&mut slots)?;
    mount_state(&slots)?;
    let identity = identify()?;
    if let Some(claim) = claim {
        tell_address(claim, identity);
    }
    console::say(format_args!("ready after {} ms", began.elapsed().as_millis()));
    Ok(mounts::switch_root()?)
}

/// The console may be one that the kernel could not open for us.
fn open_console() {
    let console = fs::OpenOptions::new().read(true).write(true).open("/dev/console");
    if let Ok(console) = console {
        // A failure leaves what the kernel opened, and nowhere to tell it.
        let _ = sys::become_stdio(&console);
    }
}

/// The kernel's command line and QEMU's words behind it. With such words
/// `/proc/cmdline` is covered, so that every program later reads the same.
fn read_command_line() -> Vec<Word> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let Ok(more) = fs::read_to_string(FW_CFG) else { return cmdline::parse(&line) };
    let line = format!("{} {}\n", line.trim_end(), more.trim());
    let file = Path::new("/run/proa/cmdline");
    let written = fs::create_dir_all("/run/proa").and_then(|()| fs::write(file, &line));
    let covered =
        mounts::told(written, "write", file).and_then(|()| mounts::cover(file, Path::new("/proc/cmdline")));
    if let Err(error) = covered {
        console::say(format_args!(
            "fw_cfg opt/proa/cmdline is read by init alone: {}",
            console::chain(&error)
        ));
    }
    cmdline::parse(&line)
}

type Claiming = JoinHandle<Result<Claim, InterfaceError>>;

fn begin_claim(words: &[Word]) -> Option<Claiming> {
    if let Err(error) = interface::loopback() {
        console::say(console::chain(&error));
    }
    let network: Network = settings::value(words, "network").parse().ok()?;
    let name = settings::value(words, "interface").to_owned();
    Some(thread::spawn(move || Claim::begin(&name, network)))
}

fn tell_address(claim: Claiming, identity: Identity) {
    let claim = claim.join().expect("the thread has no panic of its own, and one would end this process");
    match claim.and_then(|claim| claim.finish(identity.id())) {
        Ok(line) => console::say(line),
        Err(error) => {
            console::say(format_args!("no address on the cluster network: {}", console::chain(&error)))
        }
    }
}

fn wait_for_slots() -> Result<Slots, StartError> {
    let deadline = Instant::now() + DISK_WAIT;
    loop {
        let (found, seen) = look_for_slots();
        match found {
            Some(slots) => return Ok(slots),
            None if Instant::now() >= deadline => {
                let seen = if seen.is_empty() { "; there is no disk at all".to_owned() } else { seen };
                return Err(StartError::NoDisk { seen });
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The first disk with slots, and what was seen on the disks before it.
fn look_for_slots() -> (Option<Slots>, String) {
    let mut seen = String::new();
    for disk in disk::list(Path::new(SYS_BLOCK), Path::new("/dev")) {
        let path = disk.as_ref().map(|disk| disk.path().display().to_string()).unwrap_or_default();
        match disk.and_then(Slots::find) {
            Ok(Some(slots)) => return (Some(slots), seen),
            Ok(None) => seen.push_str(&format!("; {path} has none")),
            Err(error) => seen.push_str(&format!("; {}", console::chain(&error))),
        }
    }
    (None, seen)
}

/// Mends a damaged copy of the table if there is one. A disk that cannot be
/// written still boots a proven slot, so this only tells.
fn mend_and_tell(slots: &mut Slots) {
    let Some(damage) = slots.damage() else { return };
    match slots.mend() {
        Ok(()) => console::say(format_args!("{damage}: mended from the other copy")),
        Err(error) => console::say(format_args!("{damage}: cannot mend it: {}", console::chain(&error))),
    }
}

fn mount_best_slot(slots: &mut Slots) -> Result<(), StartError> {
    for boot in slots.boots() {
        let name = slots.name(boot.index);
        match mount_slot(slots, &boot) {
            Ok(device) => {
                console::say(format_args!("{name} on {}: {}", device.display(), slots.flags(boot.index)));
                return Ok(());
            }
            Err(error) => console::say(format_args!("{name} does not start: {}", console::chain(&error))),
        }
    }
    Err(StartError::NoSlot { disk: slots.disk().path().to_owned(), why: slots.explain() })
}

fn mount_slot(slots: &mut Slots, boot: &Boot) -> Result<PathBuf, StartError> {
    slots.spend(boot)?;
    let partition = slots.partition(boot.index);
    let device = device(slots.disk(), partition.number, partition.first_lba)?;
    mounts::slot(&device, layout::SLOT_FILE_SYSTEM)?;
    Ok(device)
}

fn mount_state(slots: &Slots) -> Result<(), StartError> {
    let disk = slots.disk();
    let state = slots.state().ok_or_else(|| StartError::NoState { disk: disk.path().to_owned() })?;
    let device = device(disk, state.number, state.first_lba)?;
    mounts::state(&device, layout::STATE_FILE_SYSTEM).map_err(StartError::State)
}

/// The kernel shows no partitions of a disk whose primary table was damaged
/// when it looked; it is asked to look again.
fn device(disk: &Disk, number: u32, first_lba: u64) -> Result<PathBuf, StartError> {
    let find = || disk.partition_device(Path::new(SYS_BLOCK), number, first_lba);
    if let Some(device) = find() {
        return Ok(device);
    }
    disk.reread()
        .map_err(|source| StartError::System { action: "read the partition table again", source })?;
    let deadline = Instant::now() + PARTITION_WAIT;
    loop {
        match find() {
            Some(device) => return Ok(device),
            None if Instant::now() >= deadline => {
                return Err(StartError::NoDevice { number, disk: disk.path().to_owned() });
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Gives the machine its id and its name.
fn identify() -> Result<Identity, StartError> {
    let folder = PathBuf::from(format!("{SYSROOT}/var/lib/proa"));
    let identity = identity::read_or_make(&folder, sys::random)?;
    mounts::cover(&identity::path(&folder), Path::new(&format!("{SYSROOT}/etc/machine-id")))?;
    let name = identity::hostname(identity.id());
    sys::set_hostname(&name).map_err(|source| StartError::System { action: "set the host name", source })?;
    let new = match identity {
        Identity::New(_) => " (first boot)",
        Identity::Kept(_) => "",
    };
    console::say(format_args!("machine {}, {name}{new}", identity.id()));
    Ok(identity)
}
