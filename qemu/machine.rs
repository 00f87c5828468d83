//! One virtual machine: its disk, its ports, its power switch.

use crate::{
    accel::Accel,
    disk,
    error::{Error, doing},
    hub::Hub,
    image::Image,
    port,
    spawn::{self, INHERITED, QEMU},
};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The memory every machine must do with, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// How long QEMU gets to complain about its arguments.
const SETTLE: Duration = Duration::from_millis(300);

/// etcd's client port in the guest.
const ETCD_PORT: u16 = 2379;

/// fleetd's port in the guest.
const FLEET_PORT: u16 = 49153;

/// The port in the guest for what a unit serves.
pub const UNIT_PORT: u16 = 8080;

/// Where a machine's serial console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// To a file of the run.
    File,
    /// To this terminal, both ways; Ctrl-A X ends QEMU.
    Terminal,
}

/// What a machine may reach beside its own private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Nothing: the host comes in, nobody goes out.
    Closed,
    /// The host, as 10.0.2.2: for a server that the run has started there.
    Host,
}

/// What a machine is made of.
#[derive(Clone)]
pub struct Plan {
    /// The image it boots.
    pub image: Image,
    /// Who runs its instructions.
    pub accel: Accel,
    /// The kernel command line.
    pub command_line: String,
    /// The folder for its disk and its serial log.
    pub dir: PathBuf,
    /// Its number: the port of the hub, the last byte of its MAC addresses, and, from 1
    /// up, its name.
    pub number: u8,
    /// Where its console goes.
    pub console: Console,
    /// Whom it reaches through `eth1`.
    pub outside: Outside,
}

/// A machine that can be switched on and off; dropping it ends it.
///
/// `eth0` is the private network, `eth1` QEMU's user network, through which the host
/// reaches the guest's etcd, fleetd and [`UNIT_PORT`], and the guest what its plan
/// allows. A watchdog restarts the machine when nobody feeds it. Addresses, ports and
/// disk stay the same from one power-on to the next.
pub struct Machine {
    plan: Plan,
    hub: Arc<Hub>,
    etcd_port: u16,
    fleet_port: u16,
    unit_port: u16,
    disk_server: Option<PathBuf>,
    qemu: Option<Child>,
}

impl Machine {
    /// Makes the machine's disk and chooses its ports; it is off.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk cannot be copied or no port is free.
    pub fn new(plan: Plan, hub: Arc<Hub>) -> Result<Self, Error> {
        let ports = port::free_ports(3)?;
        let (etcd_port, fleet_port, unit_port) = (ports[0], ports[1], ports[2]);
        let machine = Self { plan, hub, etcd_port, fleet_port, unit_port, disk_server: None, qemu: None };
        disk::copy(&machine.plan.image.disk(), &machine.disk())?;
        Ok(machine)
    }

    /// `machine-1` for number 0, and so on.
    pub fn name(&self) -> String {
        format!("machine-{}", self.plan.number + 1)
    }

    /// The machine's disk, a raw image.
    pub fn disk(&self) -> PathBuf {
        self.plan.dir.join(format!("{}.img", self.name()))
    }

    /// Makes the machine reach its disk by NBD at this socket from the next power-on on,
    /// and flush it: what is behind the socket may lose what was not flushed.
    pub fn reach_disk_at(&mut self, socket: &Path) {
        self.disk_server = Some(socket.to_owned());
    }

    /// What the machine wrote to its serial console since it was made.
    pub fn serial_log(&self) -> PathBuf {
        self.plan.dir.join(format!("{}.log", self.name()))
    }

    /// The port on this host's loopback address that leads to the guest's etcd.
    pub fn etcd_port(&self) -> u16 {
        self.etcd_port
    }

    /// The port on this host's loopback address that leads to the guest's fleetd.
    pub fn fleet_port(&self) -> u16 {
        self.fleet_port
    }

    /// The port on this host's loopback address that leads to the guest's [`UNIT_PORT`].
    pub fn unit_port(&self) -> u16 {
        self.unit_port
    }

    /// `http://127.0.0.1:PORT` of the guest's etcd.
    pub fn etcd_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    /// `http://127.0.0.1:PORT` of the guest's fleetd.
    pub fn fleet_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.fleet_port)
    }

    /// The process id of its QEMU while it is on.
    pub fn pid(&self) -> Option<u32> {
        self.qemu.as_ref().map(Child::id)
    }

    /// The words QEMU is started with.
    pub fn arguments(&self) -> Vec<String> {
        let number = self.plan.number;
        let disk = self.disk();
        let serial = match self.plan.console {
            Console::File => format!("file,id=console,path={},append=on", self.serial_log().display()),
            Console::Terminal => "stdio,id=console,mux=on,signal=off".to_owned(),
        };
        let restrict = match self.plan.outside {
            Outside::Closed => "on",
            Outside::Host => "off",
        };
        let mut user = format!("user,id=outside,restrict={restrict}");
        let doors = [(self.etcd_port, ETCD_PORT), (self.fleet_port, FLEET_PORT), (self.unit_port, UNIT_PORT)];
        for (here, there) in doors {
            user.push_str(&format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
        }
        let mut words: Vec<String> = Vec::new();
        let mut add = |option: &str, value: &str| words.extend([option.to_owned(), value.to_owned()]);
        // Half the boot time of the default `pc`, whose interrupt links are set up in ACPI
        // byte code, a second each under emulation.
        add("-machine", "q35");
        add("-accel", self.plan.accel.name());
        add("-cpu", "max");
        add("-m", &MEMORY_MIB.to_string());
        add("-display", "none");
        add("-kernel", &self.plan.image.kernel().display().to_string());
        add("-initrd", &self.plan.image.initrd().display().to_string());
        add("-append", &self.plan.command_line);
        add(
            "-drive",
            &match &self.disk_server {
                // What QEMU has written is in the host's page cache and outlives QEMU, which is
                // the only thing that loses power here; so no flush needs to reach this disk.
                None => format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()),
                Some(socket) => {
                    format!(
                        "file=nbd+unix:///?socket={},if=virtio,format=raw,cache=writeback",
                        socket.display()
                    )
                }
            },
        );
        add("-netdev", &format!("dgram,id=inside,local.type=fd,local.str={INHERITED}"));
        add("-device", &format!("virtio-net-pci,netdev=inside,mac=52:54:00:77:00:{number:02x},romfile="));
        add("-netdev", &user);
        add("-device", &format!("virtio-net-pci,netdev=outside,mac=52:54:00:78:00:{number:02x},romfile="));
        add("-device", "i6300esb");
        add("-action", "watchdog=reset");
        add("-chardev", &serial);
        add("-serial", "chardev:console");
        if self.plan.console == Console::Terminal {
            add("-mon", "chardev=console");
        }
        words.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
        words
    }

    /// Switches the machine on; on a machine that is on it does nothing.
    ///
    /// # Errors
    /// [`Error::NoQemu`], [`Error::Refused`] with QEMU's words, [`Error::Io`].
    pub fn power_on(&mut self) -> Result<(), Error> {
        if self.is_on() {
            return Ok(());
        }
        let socket = self.hub.plug(self.plan.number.into())?;
        let words = self.plan.dir.join(format!("{}.qemu", self.name()));
        let error_output = fs::File::create(&words).map_err(doing(format!("writing {}", words.display())))?;
        let mut command = Command::new(QEMU);
        command.args(self.arguments()).stderr(error_output);
        if self.plan.console == Console::File {
            // A group of its own: Ctrl-C at a command beside it is not for the machine.
            command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        }
        self.qemu = Some(spawn::spawn(command, Some(socket)).map_err(Error::NoQemu)?);
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            if !self.is_on() {
                return Err(Error::Refused { machine: self.name(), words: last_line(&words) });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Cuts the power: QEMU is killed, the guest gets no warning. The disk stays.
    pub fn power_off(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }

    /// Whether its QEMU runs.
    pub fn is_on(&mut self) -> bool {
        match &mut self.qemu {
            Some(qemu) => matches!(qemu.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Waits until the guest ends by itself.
    pub fn wait(&mut self) {
        if let Some(qemu) = &mut self.qemu {
            let _ = qemu.wait();
        }
    }

    /// The serial console's text so far.
    pub fn serial_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.serial_log()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn last_line(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("QEMU said nothing").to_owned()
}
