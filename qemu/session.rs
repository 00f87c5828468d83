//! A cluster from power-on to the prompt, with its progress on standard output.

use crate::{prompt, signals};
use proa_qemu::{Accel, Cluster, Fleet, Image, Outside};
use std::{
    error::Error,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// How long the machines may take to list each other. Three take about half a minute
/// under emulation on two idle cores; a busy host may take several times as long.
const LISTED_WITHIN: Duration = Duration::from_secs(300);

/// How long a unit may take to run once it was handed over.
const RUNNING_WITHIN: Duration = Duration::from_secs(90);

/// How often the cluster is asked.
const LOOK: Duration = Duration::from_millis(500);

/// What a shell answers when Ctrl-C ended a program.
const INTERRUPTED: u8 = 130;

/// What the user asked for.
pub struct Wanted {
    /// The image to boot.
    pub image: Image,
    /// How many machines.
    pub machines: u8,
    /// The unit file to start.
    pub unit: PathBuf,
    /// The one binary, for this host.
    pub proa: PathBuf,
    /// Words to add to the kernel command line.
    pub append: String,
    /// Whether to end after the show.
    pub once: bool,
}

/// Why a wait ended without what was waited for.
enum Stopped {
    Interrupted,
    Failed(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Boots the cluster, runs the unit, shows both, and stays until the user ends it.
///
/// # Errors
/// Whatever kept the cluster from running, with the last lines of a console.
pub fn run(wanted: &Wanted) -> Result<ExitCode, Box<dyn Error>> {
    signals::note_them();
    let dir = tempfile::Builder::new().prefix("proa-").tempdir()?;
    let accel = Accel::find(&wanted.image, dir.path())?;
    match accel {
        Accel::Kvm => println!("QEMU with KVM"),
        Accel::Tcg => println!("QEMU without KVM: the machines are emulated, which takes its time"),
    }
    let mut cluster =
        Cluster::new(&wanted.image, accel, wanted.machines, &wanted.append, Outside::Closed, dir.path())?;
    match show(wanted, &mut cluster, dir.path()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Stopped::Interrupted) => Ok(ExitCode::from(INTERRUPTED)),
        Err(Stopped::Failed(error)) => {
            print_consoles(&cluster);
            Err(error)
        }
    }
}

fn show(wanted: &Wanted, cluster: &mut Cluster, dir: &Path) -> Result<(), Stopped> {
    let start = Instant::now();
    println!("booting {} machines from one image, with one command line", wanted.machines);
    cluster.power_on()?;
    for machine in &cluster.machines {
        let (etcd, fleet) = (machine.etcd_endpoint(), machine.fleet_endpoint());
        println!(
            "  {}: etcd {etcd}, fleet {fleet}, console {}",
            machine.name(),
            machine.serial_log().display()
        );
    }
    let endpoint = cluster.machines[0].fleet_endpoint();
    let fleet = Fleet { proa: wanted.proa.clone(), endpoint };
    wait_for_machines(&fleet, cluster, start)?;
    let mut name = wanted.unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // As fleetctl reads a word without a type.
    if !name.contains('.') {
        name.push_str(".service");
    }
    // Not waiting there: the wait here has a deadline and looks at the machines too.
    fleet.show(&["start", "--no-block", &wanted.unit.display().to_string()])?;
    let running = wait_for_unit(&fleet, cluster, &name)?;
    fleet.show(&["list-machines"])?;
    fleet.show(&["list-units"])?;
    // A unit that has ended well or a template has no journal worth a failure.
    if let Err(error) = fleet.show(&["journal", "--lines=5", &name]) {
        println!("{error}");
    }
    if !running {
        let late = format!("{name} is not active after {} s", RUNNING_WITHIN.as_secs());
        if wanted.once {
            return Err(late.into());
        }
        println!("\n{late}; the cluster stays up to look at it");
    }
    if !wanted.once {
        stay(wanted, cluster, &name, dir)?;
    }
    Ok(())
}

fn wait_for_machines(fleet: &Fleet, cluster: &mut Cluster, start: Instant) -> Result<(), Stopped> {
    let mut before = 0;
    loop {
        let listed = fleet.machines();
        let count = listed.as_ref().map_or(0, Vec::len);
        if count != before {
            println!(
                "  {:3} s: {count} of {} machines listed",
                start.elapsed().as_secs(),
                cluster.machines.len()
            );
            before = count;
        }
        if count == cluster.machines.len() {
            return Ok(());
        }
        if start.elapsed() > LISTED_WITHIN {
            let why = listed.err().unwrap_or_else(|| format!("{count} are listed"));
            return Err(format!(
                "the machines did not find each other in {} s: {why}",
                LISTED_WITHIN.as_secs()
            )
            .into());
        }
        look_again(cluster)?;
    }
}

/// Whether the unit is active on some machine, in time.
fn wait_for_unit(fleet: &Fleet, cluster: &mut Cluster, name: &str) -> Result<bool, Stopped> {
    let start = Instant::now();
    while start.elapsed() < RUNNING_WITHIN {
        let line = fleet.unit(name).ok().flatten().unwrap_or_default();
        if line.split_whitespace().any(|word| word == "active") {
            return Ok(true);
        }
        look_again(cluster)?;
    }
    Ok(false)
}

fn look_again(cluster: &mut Cluster) -> Result<(), Stopped> {
    if let Some(machine) =
        cluster.machines.iter_mut().find_map(|machine| (!machine.is_on()).then(|| machine.name()))
    {
        return Err(format!("{machine} has ended by itself").into());
    }
    if signals::pause(LOOK) { Ok(()) } else { Err(Stopped::Interrupted) }
}

/// Hands the cluster to the user.
fn stay(wanted: &Wanted, cluster: &Cluster, unit: &str, dir: &Path) -> Result<(), Stopped> {
    let endpoint = cluster.machines[0].fleet_endpoint();
    let etcd: Vec<_> = cluster.machines.iter().map(|machine| machine.etcd_endpoint()).collect();
    let proa = relative(&wanted.proa);
    println!("\nThe cluster runs. From another terminal, in this folder:");
    println!("  {} fleetctl --endpoint={endpoint} list-units", proa.display());
    println!("  {} fleetctl --endpoint={endpoint} journal -f {unit}", proa.display());
    println!("  {} etcdctl --endpoints={} member list", proa.display(), etcd.join(","));
    if !prompt::has_terminal() {
        println!("Ctrl-C ends it all.");
        let _ = std::io::stdout().flush();
        while signals::pause(Duration::from_secs(1)) {}
        return Ok(());
    }
    println!("Or here, for example: fleetctl list-units, etcdctl member list. Ctrl-C ends it all.");
    let bin = dir.join("bin");
    fs::create_dir(&bin)?;
    let proa = fs::canonicalize(&wanted.proa)?;
    for name in ["etcdctl", "fleetctl"] {
        symlink(&proa, bin.join(name))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    prompt::run(&[
        ("PATH", format!("{}:{path}", bin.display())),
        ("FLEETCTL_ENDPOINT", endpoint),
        ("ETCDCTL_API", "3".to_owned()),
        ("ETCDCTL_ENDPOINTS", etcd.join(",")),
    ]);
    Ok(())
}

/// What a reader needs to see why a machine did not come up.
fn print_consoles(cluster: &Cluster) {
    for machine in &cluster.machines {
        let text = machine.serial_text();
        let lines: Vec<_> = text.lines().collect();
        eprintln!("--- the last lines of {}'s console", machine.name());
        for line in &lines[lines.len().saturating_sub(15)..] {
            eprintln!("{}", line.trim_end());
        }
    }
}

/// `path` as seen from the current folder when it is below it.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}
