//! Several machines of one image on one private network.

use crate::{
    accel::Accel,
    error::Error,
    hub::Hub,
    image::Image,
    machine::{Console, Machine, Outside, Plan},
};
use std::{path::Path, sync::Arc};

/// The kernel command line that all machines of a cluster of `size` share.
///
/// `extra` comes last, so that its words win.
pub fn command_line(size: u8, accel: Accel, extra: &str) -> String {
    let mut words = vec![
        "console=ttyS0".to_owned(),
        "net.ifnames=0".to_owned(),
        "gpt".to_owned(),
        // Memory for what the console said before a restart, where image.sh has it, too.
        "memmap=1M$0x8000000 ramoops.mem_address=0x8000000 ramoops.mem_size=0x100000".to_owned(),
        "ramoops.console_size=0x10000".to_owned(),
        "watchdog.stop_on_reboot=0".to_owned(),
        "proa.network=10.77.0.0/16".to_owned(),
        format!("etcd.discovery=lan://demo?size={size}"),
        "etcd.listen-client-urls=http://0.0.0.0:2379".to_owned(),
        "fleet.listen=0.0.0.0:49153".to_owned(),
        // QEMU's user network gives every guest the same address, each on its own.
        "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth1:off".to_owned(),
    ];
    if accel == Accel::Tcg {
        // Several emulated machines on few cores stall for a second now and then.
        words.extend(["etcd.heartbeat-interval=300".to_owned(), "etcd.election-timeout=3000".to_owned()]);
    }
    if !extra.is_empty() {
        words.push(extra.to_owned());
    }
    words.join(" ")
}

/// Machines on a hub; dropping it ends them.
pub struct Cluster {
    /// The machines, by number.
    pub machines: Vec<Machine>,
    hub: Arc<Hub>,
}

impl Cluster {
    /// Makes `size` machines with their disks and logs in `dir`; they are off.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn new(
        image: &Image,
        accel: Accel,
        size: u8,
        extra: &str,
        outside: Outside,
        dir: &Path,
    ) -> Result<Self, Error> {
        let hub = Arc::new(Hub::default());
        let machine = |number| {
            let plan = Plan {
                image: image.clone(),
                accel,
                command_line: command_line(size, accel, extra),
                dir: dir.to_owned(),
                number,
                console: Console::File,
                outside,
            };
            Machine::new(plan, Arc::clone(&hub))
        };
        let machines = (0..size).map(machine).collect::<Result<_, _>>()?;
        Ok(Self { machines, hub })
    }

    /// Switches every machine on.
    ///
    /// # Errors
    /// As [`Machine::power_on`].
    pub fn power_on(&mut self) -> Result<(), Error> {
        self.machines.iter_mut().try_for_each(Machine::power_on)
    }

    /// The machines' private network, to cut and to heal.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_adds_comes_last() {
        let line = command_line(5, Accel::Tcg, "etcd.election-timeout=9000 quiet");
        assert!(line.contains("lan://demo?size=5"), "{line}");
        assert!(line.ends_with("etcd.election-timeout=3000 etcd.election-timeout=9000 quiet"), "{line}");
        assert!(!command_line(3, Accel::Kvm, "").contains("election"), "only emulation needs patience");
    }
}
