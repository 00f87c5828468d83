//! Ports for the servers of tests, which stop and start again on the port they had.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that the system hands out itself (ip(7), `ip_local_port_range`, from
/// 32768 on): one of these can become the near end of somebody's connection while the
/// server is being started, or is stopped for a while.
const FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A TCP port that nobody listens on at loopback, another one at each call. Test
/// programs that run side by side begin far apart.
///
/// # Panics
/// When all of them are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(499);
    let free = (0..PORTS).find_map(|_| {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS);
        let port = FIRST + u16::try_from(number).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    });
    match free {
        Some(port) => port,
        None => panic!("all ports from {FIRST} on are taken"),
    }
}

/// The URL of such a port: `http://127.0.0.1:PORT`.
///
/// # Panics
/// As [`free_port`].
pub fn free_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}
