//! Ports of this machine that nobody uses.

use crate::error::{Error, doing};
use std::net::{Ipv4Addr, TcpListener};

/// `count` different TCP ports that were free on the loopback address a moment ago.
///
/// All are held until the last is chosen. The kernel hands out ports in no order, so
/// that another process gets one of them before QEMU does is unlikely; QEMU then says so.
///
/// # Errors
/// [`Error::Io`] when there is no free port.
pub fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(doing("finding a free port"))?);
    }
    let ports = held.iter().map(|listener| listener.local_addr().map(|address| address.port()));
    ports.collect::<Result<_, _>>().map_err(doing("finding a free port"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn free_ports_differ() {
        let ports = super::free_ports(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
    }
}
