//! The second stage: the release's own way from its slot to systemd.

use crate::{
    console,
    identity::{self, Identity},
    interface::{self, Claim, InterfaceError},
    logs,
    mounts::{self, SYSROOT},
    settings, stage1,
    start::{SYS_BLOCK, StartError, command_line, in_new_root},
    sys, watchdog,
};
use proa_base::{
    cmdline::Word,
    net::Network,
    settings::{Program, review},
};
use proa_update_disk::{Disk, Slots};
use proa_update_model::{
    boot_record::{ATTEMPT_PATH, Attempt, BootRecord, LOGS_PATH, RECORD_PATH, Stage},
    layout,
};
use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Instant,
};

pub fn start(known: &[&Program], began: Instant, words: &mut Vec<Word>) -> Result<Infallible, StartError> {
    *words = command_line();
    review(known, words).iter().for_each(console::say);
    // Asking for an address takes longer than all the mounting.
    let claim = begin_claim(words);
    let record = complete_record()?;
    mount_state(&record)?;
    logs::keep(&in_new_root(LOGS_PATH));
    if !record.proven {
        write_attempt(&record)?;
    }
    let identity = identify()?;
    feed_watchdog(words);
    if let Some(claim) = claim {
        tell_address(claim, identity);
    }
    console::say(format_args!("ready {} ms later", began.elapsed().as_millis()));
    Ok(mounts::switch_root()?)
}

/// The first stage's record, with what only the release knows of itself.
fn complete_record() -> Result<BootRecord, StartError> {
    let text = fs::read_to_string(RECORD_PATH).map_err(StartError::NoRecord)?;
    let record: BootRecord =
        serde_json::from_str(&text).map_err(|error| StartError::NoRecord(io::Error::other(error)))?;
    let release = fs::read_to_string(in_new_root("usr/lib/os-release")).unwrap_or_default();
    let version = release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="));
    let record = BootRecord { version: version.unwrap_or_default().trim_matches('"').to_owned(), ..record };
    stage1::write_record(&record)?;
    Ok(record)
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

fn mount_state(record: &BootRecord) -> Result<(), StartError> {
    let path = PathBuf::from(&record.disk);
    let disk = Disk::open_known(&path, Path::new(SYS_BLOCK))?;
    let slots = Slots::find(disk)?.ok_or_else(|| StartError::NoState { disk: path.clone() })?;
    let state = slots.state().ok_or(StartError::NoState { disk: path })?;
    let device = stage1::device(slots.disk(), state.number, state.first_lba)?;
    mounts::state(&device, layout::STATE_FILE_SYSTEM).map_err(StartError::State)
}

/// Leaves word that this slot came as far as this, for whoever boots after it.
fn write_attempt(record: &BootRecord) -> Result<(), StartError> {
    let attempt = Attempt {
        version: record.version.clone(),
        root_hash: record.root_hash,
        slot: record.slot,
        stage: Stage::Init,
        detail: "the state partition is mounted".to_owned(),
        unix_ms: stage1::unix_ms(),
    };
    let text = serde_json::to_string(&attempt).expect("plain data has a JSON form");
    let file = in_new_root(ATTEMPT_PATH);
    // The machine may hang the next moment.
    let written = proa_base::file::replace(&file, text.as_bytes());
    Ok(mounts::told(written, "write", &file)?)
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

/// Tells systemd to feed the watchdog that the first stage has armed.
fn feed_watchdog(words: &[Word]) {
    let seconds = settings::watchdog_seconds(words);
    let Some(device) = watchdog::choose(Path::new(watchdog::SYS_WATCHDOG)).filter(|_| seconds > 0) else {
        return;
    };
    let folder = Path::new("/run/systemd/system.conf.d");
    let file = folder.join("10-watchdog.conf");
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, watchdog::systemd_configuration(&device, seconds)));
    if let Err(error) = mounts::told(written, "write", &file) {
        console::say(console::chain(&error));
    }
}
