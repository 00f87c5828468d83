//! The first stage: from the kernel to the program in the chosen slot.

use crate::{
    console, kernel, mapper,
    mounts::{self, SYSROOT},
    settings,
    start::{RUN_FOLDER, SECOND_STAGE, SYS_BLOCK, StartError, cannot, command_line, in_new_root},
    sys, watchdog,
};
use proa_base::cmdline::{self, Word};
use proa_update_disk::{Disk, SealError, Slots, disk, seal};
use proa_update_model::{
    boot_record::{BootRecord, RECORD_PATH},
    layout,
    slots::Boot,
    verity::Superblock,
};
use std::{
    convert::Infallible,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long disks may take to appear: RAID controllers count their drives.
pub const DISK_WAIT: Duration = Duration::from_secs(20);

/// How long the kernel may take to show the partitions of a mended disk.
const PARTITION_WAIT: Duration = Duration::from_secs(2);

/// Words of the command line that QEMU hands in beside the kernel's own.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/proa/cmdline/raw";

/// The one program of a slot, as seen from this stage.
const PROGRAM: &str = "usr/bin/proa";

/// The device-mapper's name for the slot that runs.
const MAPPED: &str = "slot";

pub fn start(began: Instant, words: &mut Vec<Word>) -> Result<Infallible, StartError> {
    mounts::early()?;
    open_console();
    // The kernel's own, before QEMU's words are put behind it: the next kernel
    // finds those by itself.
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    add_words_of_qemu(&line);
    *words = command_line();

    let mut slots = wait_for_slots()?;
    mend_and_tell(&mut slots);
    arm_watchdog(words);
    if let Some(guid) = cmdline::last(words, kernel::SLOT_WORD).map(str::to_owned) {
        // The kernel before this one chose the slot and spent its try.
        let chosen = (0..slots.count()).find(|index| slots.partition(*index).guid.to_string() == guid);
        let disk = slots.disk().path().to_owned();
        let index = chosen.ok_or(StartError::NoSuchSlot { guid, disk })?;
        return start_slot(&mut slots, &Boot { index, write: None }, None, began);
    }
    for boot in slots.boots() {
        let name = slots.name(boot.index);
        let Err(error) = start_slot(&mut slots, &boot, Some(&line), began);
        console::say_for_the_log(format_args!("{name} does not start: {}", console::chain(&error)));
        leave_slot();
    }
    Err(StartError::NoSlot { disk: slots.disk().path().to_owned(), why: slots.explain() })
}

/// The console may be one that the kernel could not open for us.
fn open_console() {
    let console = fs::OpenOptions::new().read(true).write(true).open("/dev/console");
    if let Ok(console) = console {
        // A failure leaves what the kernel opened, and nowhere to tell it.
        let _ = sys::become_stdio(&console);
    }
}

/// Puts QEMU's words behind the kernel's command line. `/proc/cmdline` is covered
/// then, so that every program later reads the same.
fn add_words_of_qemu(line: &str) {
    let Ok(more) = fs::read_to_string(FW_CFG) else { return };
    let line = format!("{} {}\n", line.trim_end(), more.trim());
    let file = Path::new(RUN_FOLDER).join("cmdline");
    let written = fs::create_dir_all(RUN_FOLDER).and_then(|()| fs::write(&file, &line));
    let covered =
        mounts::told(written, "write", &file).and_then(|()| mounts::cover(&file, Path::new("/proc/cmdline")));
    if let Err(error) = covered {
        console::say(format_args!("fw_cfg opt/proa/cmdline is not read: {}", console::chain(&error)));
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

/// A machine without a watchdog boots all the same.
fn arm_watchdog(words: &[Word]) {
    let seconds = settings::watchdog_seconds(words);
    let Some(device) = watchdog::choose(Path::new(watchdog::SYS_WATCHDOG)).filter(|_| seconds > 0) else {
        return;
    };
    if let Err(error) = watchdog::arm(&device, seconds) {
        console::say(format_args!("watchdog {} is not armed: {error}", device.display()));
    }
}

/// Starts one slot; returns only on failure. `line` is the command line for the
/// slot's own kernel, `None` when that runs already.
fn start_slot(
    slots: &mut Slots,
    boot: &Boot,
    line: Option<&str>,
    began: Instant,
) -> Result<Infallible, StartError> {
    let proven = slots.flags(boot.index).successful();
    slots.spend(boot)?;
    let partition = slots.partition(boot.index).clone();
    let device = device(slots.disk(), partition.number, partition.first_lba)?;
    let superblock = superblock(&device)?;
    let name = slots.name(boot.index);
    let checked = mapper::number_of(&device)
        .and_then(|number| mapper::make(MAPPED, &superblock.dm_table(&number, &[])))
        .map_err(cannot("have the kernel check the slot"))?;
    mounts::slot(&checked, layout::SLOT_FILE_SYSTEM)?;
    console::say(format_args!("{name} on {}: {}", device.display(), slots.flags(boot.index)));
    if let Some(line) = line {
        start_other_kernel(&kernel::command_line(line, &partition.guid.to_string()))?;
    }
    let release = running_kernel();
    write_record(&BootRecord {
        disk: slots.disk().path().display().to_string(),
        slot: partition.number,
        letter: layout::slot_letter(boot.index),
        version: String::new(),
        root_hash: superblock.root_hash,
        proven,
        kernel: release,
        booted_unix_ms: unix_ms(),
    })?;
    console::say(format_args!("slot started after {} ms", began.elapsed().as_millis()));
    let program = in_new_root(PROGRAM);
    Err(StartError::System {
        action: "start the slot's /usr/bin/proa",
        source: sys::become_program(&program, &["init", SECOND_STAGE]),
    })
}

/// Takes back what [`start_slot`] did, as far as it came.
fn leave_slot() {
    // Where nothing was mounted or made there is nothing to take back.
    let _ = sys::unmount(Path::new(SYSROOT));
    let _ = mapper::remove(MAPPED);
}

/// Reads what the slot on `device` says it holds.
fn superblock(device: &Path) -> Result<Superblock, StartError> {
    let superblock = File::open(device).map_err(SealError::Read).and_then(|file| seal::superblock(&file, 0));
    superblock.map_err(|source| StartError::NotSealed { device: device.to_owned(), source })
}

/// Starts the slot's kernel when it is another one than runs; returns when it is
/// the same, or when the slot has none.
fn start_other_kernel(line: &str) -> Result<(), StartError> {
    let path = in_new_root(kernel::KERNEL);
    let image = match File::open(&path) {
        Ok(image) => image,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("read the slot's kernel")(error)),
    };
    let release = kernel::release_of(&image).map_err(cannot("read the slot's kernel"))?;
    if release == running_kernel() {
        return Ok(());
    }
    console::say(format_args!("starting kernel {release}"));
    kernel::load(&image, &in_new_root(PROGRAM), line).map_err(cannot("load the slot's kernel"))?;
    Err(cannot("start the slot's kernel")(sys::start_loaded_kernel()))
}

fn running_kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Milliseconds since 1970; 0 with a clock that is before that.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes down what was started, for the second stage and the updater.
pub fn write_record(record: &BootRecord) -> Result<(), StartError> {
    let text = serde_json::to_string(record).expect("plain data has a JSON form");
    fs::create_dir_all(RUN_FOLDER)
        .and_then(|()| fs::write(RECORD_PATH, text))
        .map_err(cannot("write the record of this boot"))
}

/// The kernel shows no partitions of a disk whose primary table was damaged
/// when it looked; it is asked to look again.
pub fn device(disk: &Disk, number: u32, first_lba: u64) -> Result<PathBuf, StartError> {
    let find = || disk.partition_device(Path::new(SYS_BLOCK), number, first_lba);
    if let Some(device) = find() {
        return Ok(device);
    }
    disk.reread().map_err(cannot("read the partition table again"))?;
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
