//! The cluster's interface: turned on, given an address nobody else has.

use crate::{address, arp, sys};
use proa_base::{ids::MachineId, net::Network};
use std::{
    fs, io,
    net::Ipv4Addr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long an interface may take to appear and to find its cable.
///
/// Negotiating a link takes 2 to 4 seconds on copper; virtual ones need none.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// RFC 5227 asks three probes over about seven seconds, for networks with
/// spanning trees and sleeping hosts. A cluster's own network has neither, and
/// a boot has no seven seconds.
const PROBES: u32 = 3;
const PROBE_GAP: Duration = Duration::from_millis(100);

/// Why the cluster's interface has no address. The machine boots without.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No such interface.
    #[error("there is no interface {name} (proa.interface=); there are: {others}")]
    Missing {
        /// The name that was looked for.
        name: String,
        /// Those that exist.
        others: String,
    },
    /// The kernel refused something.
    #[error("cannot {action} interface {name}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody has every address that was tried.
    #[error(
        "{tried} addresses of {network} were tried on {name} and others have them all; give a larger proa.network"
    )]
    Full {
        /// The network.
        network: Network,
        /// The interface.
        name: String,
        /// How many were tried.
        tried: u32,
    },
}

/// An interface that is on and whose first address was asked for.
pub struct Claim {
    name: String,
    network: Network,
    interface: sys::Interface,
    socket: sys::ArpSocket,
    mac: [u8; 6],
    link: bool,
    first_is_free: bool,
}

/// Turns the loopback interface on; the kernel gives it 127.0.0.1.
pub fn loopback() -> Result<(), InterfaceError> {
    let up = sys::Interface::new("lo").and_then(|interface| interface.up());
    up.map_err(|source| InterfaceError::Refused { action: "turn on", name: "lo".to_owned(), source })
}

impl Claim {
    /// Turns `name` on and asks for the address made from its hardware
    /// address. Takes some tenths of a second, so it runs beside the mounting.
    pub fn begin(name: &str, network: Network) -> Result<Self, InterfaceError> {
        let refused =
            |action| move |source| InterfaceError::Refused { action, name: name.to_owned(), source };
        let folder = Path::new("/sys/class/net").join(name);
        let deadline = Instant::now() + LINK_WAIT;
        if !wait(deadline, || folder.exists()) {
            return Err(InterfaceError::Missing { name: name.to_owned(), others: interfaces() });
        }
        let interface = sys::Interface::new(name).map_err(refused("find"))?;
        interface.up().map_err(refused("turn on"))?;
        let mac = interface.mac().map_err(refused("read the hardware address of"))?;
        let index = interface.index().map_err(refused("find"))?;
        let socket = sys::ArpSocket::open(index).map_err(refused("listen on"))?;
        let carrier = || fs::read_to_string(folder.join("carrier")).is_ok_and(|text| text.trim() == "1");
        let link = wait(deadline, carrier);
        let first = address::from_mac(mac, network);
        let mut claim =
            Self { name: name.to_owned(), network, interface, socket, mac, link, first_is_free: false };
        claim.first_is_free = claim.is_free(first)?;
        Ok(claim)
    }

    /// Takes the address, or goes on asking for others made from the id.
    /// The answer tells what was given.
    pub fn finish(self, id: MachineId) -> Result<String, InterfaceError> {
        if self.first_is_free {
            return self.take(address::from_mac(self.mac, self.network), 0);
        }
        for attempt in 1..address::ATTEMPTS {
            let wanted = address::from_machine(id, attempt, self.network);
            if self.is_free(wanted)? {
                return self.take(wanted, attempt);
            }
        }
        Err(InterfaceError::Full { network: self.network, name: self.name, tried: address::ATTEMPTS })
    }

    fn is_free(&self, wanted: Ipv4Addr) -> Result<bool, InterfaceError> {
        if !self.link {
            // Nobody can be asked; two that meet later show in the log.
            return Ok(true);
        }
        let mut packet = [0; 64];
        for _ in 0..PROBES {
            self.send(&arp::probe(self.mac, wanted))?;
            let end = Instant::now() + PROBE_GAP;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let got = self.socket.receive(&mut packet, left.max(Duration::from_millis(1)));
                let got = got.map_err(|source| self.refused("listen on", source))?;
                if got.is_some_and(|bytes| arp::conflicts(&packet[..bytes], self.mac, wanted)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn take(&self, address: Ipv4Addr, conflicts: u32) -> Result<String, InterfaceError> {
        let (mask, broadcast) = (self.network.mask(), self.network.broadcast());
        let set = self.interface.set_address(address, mask, broadcast);
        set.map_err(|source| self.refused("give an address to", source))?;
        if self.link {
            self.send(&arp::announcement(self.mac, address))?;
        }
        let doubt = match (self.link, conflicts) {
            (false, _) => ", without a link to ask on".to_owned(),
            (true, 0) => String::new(),
            (true, conflicts) => format!(", others have the {conflicts} tried before"),
        };
        Ok(format!("{} has {address} of {}{doubt}", self.name, self.network))
    }

    fn send(&self, packet: &[u8]) -> Result<(), InterfaceError> {
        self.socket.send(packet).map_err(|source| self.refused("send on", source))
    }

    fn refused(&self, action: &'static str, source: io::Error) -> InterfaceError {
        InterfaceError::Refused { action, name: self.name.clone(), source }
    }
}

/// Looks every 10 ms until `ready`, or `deadline`; whether it was ready.
fn wait(deadline: Instant, ready: impl Fn() -> bool) -> bool {
    while !ready() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

fn interfaces() -> String {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(" ")
}
