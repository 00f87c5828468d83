//! Ports of this machine that nobody uses.

use crate::error::{Error, doing};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that the system hands out itself (ip(7), `ip_local_port_range`, from
/// 32768 on): one of these can become the near end of somebody's connection before QEMU
/// listens there, or while a machine is off.
const FIRST: u16 = 10_000;
const PORTS: u16 = 10_000;

/// `count` different TCP ports that nobody listens on at the loopback address, others
/// at each call. Processes side by side begin far apart.
///
/// # Errors
/// [`Error::Io`] when there is no free port.
pub fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(499);
    let look = |_| {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS);
        let port = FIRST + u16::try_from(number).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    };
    let ports: Vec<u16> = (0..PORTS).filter_map(look).take(count).collect();
    match ports.len() == count {
        true => Ok(ports),
        false => Err(doing("finding a free port")(io::ErrorKind::AddrInUse.into())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn free_ports_differ() {
        let ports = super::free_ports(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        assert!(ports.iter().all(|port| (super::FIRST..super::FIRST + super::PORTS).contains(port)));
    }
}
