//! `slotctl`: show and change which slot boots next.
//!
//! Thin by rule: what flags mean and how they get on the disk is in
//! `proa-update-model` and `proa-update-disk`.

use argh::{EarlyExit, FromArgs};
use proa_base::flags;
use proa_update_disk::{Disk, DiskError, SlotError, Slots, disk, seal};
use proa_update_model::{
    boot_record::{BootRecord, RECORD_PATH},
    layout,
    slots::{Change, NIBBLE_MAX, SlotFlags, choose},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "slotctl", link: "/usr/bin/slotctl", main };

const SYS_BLOCK: &str = "/sys/class/block";

/// Digits of a root hash that a table shows: 48 bits tell any two releases apart.
const HASH_DIGITS: usize = 12;

/// Show and change which system slot boots next.
#[derive(FromArgs, Debug)]
struct Slotctl {
    /// disk with the slots, or an image of one (default: the one that runs)
    #[argh(option)]
    disk: Option<PathBuf>,
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Show(Show),
    Set(Set),
    Good(Good),
}

/// Show each slot, what it holds and which boots next.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "show")]
struct Show {}

/// Change the flags of a slot.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "set")]
struct Set {
    /// slot: its letter or the number of its partition
    #[argh(positional)]
    slot: String,
    /// rank among the slots, 0 to 15; 0 never boots
    #[argh(option, from_str_fn(nibble))]
    priority: Option<u8>,
    /// starts left to prove itself, 0 to 15
    #[argh(option, from_str_fn(nibble))]
    tries: Option<u8>,
    /// whether it has proven itself: yes or no
    #[argh(option, from_str_fn(yes_or_no))]
    successful: Option<bool>,
    /// do it even if then no slot would boot
    #[argh(switch)]
    force: bool,
}

/// Say that a slot's system works: it has proven itself.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "good")]
struct Good {
    /// slot: its letter or the number of its partition (default: the one that runs)
    #[argh(positional)]
    slot: Option<String>,
}

fn nibble(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| *number <= NIBBLE_MAX);
    number.ok_or_else(|| format!("give a number from 0 to {NIBBLE_MAX}"))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("give yes or no".to_owned()),
    }
}

/// Why nothing was shown or changed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no disk of this machine has slots; name one with --disk")]
    NoDisk,
    #[error("{} has no slots (partitions of type {})", .0.display(), layout::SLOT_TYPE)]
    NoSlots(PathBuf),
    #[error("{word:?} is no slot of {}; there are {have}", disk.display())]
    NoSuchSlot { word: String, disk: PathBuf, have: String },
    #[error("nothing to set; give --priority, --tries or --successful")]
    Nothing,
    #[error("no slot would boot then; --force sets it all the same")]
    NoneBoots,
    #[error("no slot of {} runs; name the one that is good", .0.display())]
    NoneRuns(PathBuf),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Slot(#[from] SlotError),
}

/// The slots to work on, and what runs if it is one of them.
struct Subject {
    slots: Slots,
    running: Option<BootRecord>,
}

fn main(args: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let parsed = match parse(&args) {
        Ok(parsed) => parsed,
        Err(exit) => return crate::start::early("slotctl", &exit),
    };
    match run(&parsed) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => proa_base::cli::fail("slotctl", &error),
    }
}

fn parse(args: &[String]) -> Result<Slotctl, EarlyExit> {
    let words = flags::normalise(args, &["force"]);
    let words = match words.iter().map(String::as_str).collect::<Vec<_>>() {
        words if words.is_empty() || words == ["help"] || words == ["-h"] => vec!["--help"],
        words => words,
    };
    Slotctl::from_args(&["slotctl"], &words)
}

fn run(asked: &Slotctl) -> Result<String, Error> {
    let mut subject = open(asked.disk.as_deref())?;
    match &asked.command {
        Command::Show(_) => {}
        Command::Set(set) => {
            let change = Change { priority: set.priority, tries: set.tries, successful: set.successful };
            if change == Change::default() {
                return Err(Error::Nothing);
            }
            let index = named(&subject.slots, &set.slot)?;
            write(&mut subject.slots, index, |flags| flags.changed(change), set.force)?;
        }
        Command::Good(good) => {
            let index = match (&good.slot, subject.running_index()) {
                (Some(word), _) => named(&subject.slots, word)?,
                (None, Some(index)) => index,
                (None, None) => return Err(Error::NoneRuns(subject.slots.disk().path().to_owned())),
            };
            // A slot that is being overwritten has rank 0 and stays unbootable, so
            // this can never be what leaves nothing to boot.
            write(&mut subject.slots, index, SlotFlags::mark_good, true)?;
        }
    }
    Ok(subject.table())
}

/// The slots of the disk that was named, else of the one that runs, else of the
/// first that has any.
fn open(named: Option<&Path>) -> Result<Subject, Error> {
    let sys_block = Path::new(SYS_BLOCK);
    let record = fs::read(RECORD_PATH).ok();
    let record: Option<BootRecord> = record.and_then(|text| serde_json::from_slice(&text).ok());
    let running = record.as_ref().map(|record| PathBuf::from(&record.disk));
    let slots = match named.or(running.as_deref()) {
        Some(path) => {
            Slots::find(Disk::open_known(path, sys_block)?)?.ok_or_else(|| Error::NoSlots(path.to_owned()))?
        }
        None => {
            let mut disks = disk::list(sys_block, Path::new("/dev")).into_iter();
            disks.find_map(|disk| Slots::find(disk.ok()?).ok()?).ok_or(Error::NoDisk)?
        }
    };
    let running = record.filter(|record| Path::new(&record.disk) == slots.disk().path());
    Ok(Subject { slots, running })
}

/// The slot with this letter or with this number of its partition.
fn named(slots: &Slots, word: &str) -> Result<usize, Error> {
    let mut indices = 0..slots.count();
    let is_it = |index: &usize| {
        word.eq_ignore_ascii_case(&layout::slot_letter(*index).to_string())
            || word == slots.partition(*index).number.to_string()
    };
    indices.find(is_it).ok_or_else(|| {
        let have: Vec<String> = (0..slots.count()).map(|index| slots.name(index)).collect();
        let disk = slots.disk().path().to_owned();
        Error::NoSuchSlot { word: word.to_owned(), disk, have: have.join(", ") }
    })
}

fn write(
    slots: &mut Slots,
    index: usize,
    change: impl Fn(SlotFlags) -> SlotFlags,
    force: bool,
) -> Result<(), Error> {
    let mut after: Vec<SlotFlags> = (0..slots.count()).map(|index| slots.flags(index)).collect();
    after[index] = change(after[index]);
    if choose(&after).is_none() && !force {
        return Err(Error::NoneBoots);
    }
    Ok(slots.write_flags(&[(index, after[index])])?)
}

impl Subject {
    fn running_index(&self) -> Option<usize> {
        self.slots.index_of_number(self.running.as_ref()?.slot)
    }

    /// One line for each slot.
    fn table(&self) -> String {
        let next = self.slots.boots().first().map(|boot| boot.index);
        let head = ["SLOT", "PARTITION", "PRIORITY", "TRIES", "SUCCESSFUL", "STATE", "VERSION", "SYSTEM"];
        let mut rows = vec![head.map(str::to_owned)];
        for index in 0..self.slots.count() {
            let flags = self.slots.flags(index);
            let running = self.running.as_ref().filter(|_| self.running_index() == Some(index));
            let state = match (running.is_some(), next == Some(index)) {
                (true, true) => "running,next",
                (true, false) => "running",
                (false, true) => "next",
                (false, false) => "-",
            };
            let version = running.map(|record| record.version.clone()).filter(|text| !text.is_empty());
            rows.push([
                layout::slot_letter(index).to_string(),
                self.slots.partition(index).number.to_string(),
                flags.priority().to_string(),
                flags.tries().to_string(),
                if flags.successful() { "yes" } else { "no" }.to_owned(),
                state.to_owned(),
                version.unwrap_or_else(|| "-".to_owned()),
                self.system(index).unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        aligned(&rows)
    }

    /// The beginning of the root hash of what a slot says it holds.
    fn system(&self, index: usize) -> Option<String> {
        let (disk, partition) = (self.slots.disk(), self.slots.partition(index));
        let device = disk.partition_device(Path::new(SYS_BLOCK), partition.number, partition.first_lba);
        // An image has no devices for its partitions.
        let (path, start) = match device {
            Some(device) => (device, 0),
            None => (disk.path().to_owned(), disk.extent(partition).0),
        };
        let superblock = seal::superblock(&File::open(path).ok()?, start).ok()?;
        Some(superblock.root_hash.to_string().chars().take(HASH_DIGITS).collect())
    }
}

/// Columns as wide as their widest cell, two spaces between them.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        text += cells.collect::<String>().trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "slotctl_test.rs"]
mod tests;
