//! The private network of a cluster: an Ethernet hub inside this process.
//!
//! Each machine has a pair of connected loopback UDP sockets, one end for QEMU
//! (`-netdev dgram` takes an inherited descriptor), one for the hub; a datagram is a
//! frame. What one machine sends goes to all others and never back to itself, as on
//! a real hub; QEMU's own multicast network echoes a machine's frames to it.
//! A frame for which a socket has no room is lost, as on a real one.

use crate::error::{Error, doing};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// The largest Ethernet frame that may pass; QEMU sends no larger one.
const MOST_FRAME_BYTES: usize = 65536;

/// How soon a port's thread notices that the hub is gone.
const NOTICE: Duration = Duration::from_millis(200);

/// A hub; dropping it ends its threads.
#[derive(Default)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// One socket a port; a port that was plugged in again has a new one.
    ports: Vec<Option<Arc<UdpSocket>>>,
    /// Pairs of ports, the lower first, between which nothing passes.
    cut: BTreeSet<(usize, usize)>,
}

impl Hub {
    /// Plugs port `port` in, again or for the first time, and returns QEMU's end.
    ///
    /// # Errors
    /// [`Error::Io`] when no socket can be made.
    pub fn plug(&self, port: usize) -> Result<OwnedFd, Error> {
        let (ours, theirs) = pair().map_err(doing("making a socket for the machines' network"))?;
        let ours = Arc::new(ours);
        {
            let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.ports.len() <= port {
                state.ports.resize(port + 1, None);
            }
            state.ports[port] = Some(Arc::clone(&ours));
        }
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name(format!("hub-port-{port}"))
            .spawn(move || forward(&shared, port, &ours))
            .map_err(doing("starting a thread for the machines' network"))?;
        Ok(theirs.into())
    }

    /// Lets nothing pass between two ports, in either direction.
    pub fn cut(&self, a: usize, b: usize) {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        state.cut.insert((a.min(b), a.max(b)));
    }

    /// Takes every [`Self::cut`] back.
    pub fn heal(&self) {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner).cut.clear();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

fn pair() -> std::io::Result<(UdpSocket, UdpSocket)> {
    let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let theirs = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    ours.connect(theirs.local_addr()?)?;
    theirs.connect(ours.local_addr()?)?;
    ours.set_read_timeout(Some(NOTICE))?;
    Ok((ours, theirs))
}

/// Carries the frames of one port until the hub or this socket's turn is over.
fn forward(shared: &Shared, port: usize, socket: &Arc<UdpSocket>) {
    let mut frame = vec![0; MOST_FRAME_BYTES];
    while !shared.closed.load(Ordering::Relaxed) {
        let received = socket.recv(&mut frame);
        let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
        if !state.ports[port].as_ref().is_some_and(|current| Arc::ptr_eq(current, socket)) {
            return;
        }
        // No frame within the timeout, or a machine that is off: nothing to carry.
        let Ok(size) = received else { continue };
        for (other, socket) in state.ports.iter().enumerate() {
            let passes = other != port && !state.cut.contains(&(port.min(other), port.max(other)));
            if let (true, Some(socket)) = (passes, socket) {
                // Refused means that machine is off; a real hub does not care either.
                let _ = socket.send(&frame[..size]);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plug(hub: &Hub, port: usize) -> UdpSocket {
        let socket = UdpSocket::from(hub.plug(port).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn receive(socket: &UdpSocket) -> Vec<u8> {
        let mut frame = [0; 100];
        let size = socket.recv(&mut frame).unwrap();
        frame[..size].to_vec()
    }

    #[test]
    fn a_frame_reaches_all_others_and_not_its_sender() {
        let hub = Hub::default();
        let sockets = [plug(&hub, 0), plug(&hub, 1), plug(&hub, 2)];
        sockets[0].send(b"from 0").unwrap();
        assert_eq!(receive(&sockets[1]), b"from 0");
        assert_eq!(receive(&sockets[2]), b"from 0");
        sockets[1].send(b"from 1").unwrap();
        // The first that port 0 hears is not its own.
        assert_eq!(receive(&sockets[0]), b"from 1");
    }

    #[test]
    fn a_cut_parts_two_ports_only() {
        let hub = Hub::default();
        let sockets = [plug(&hub, 0), plug(&hub, 1), plug(&hub, 2)];
        hub.cut(1, 0);
        sockets[0].send(b"lost at 1").unwrap();
        assert_eq!(receive(&sockets[2]), b"lost at 1");
        hub.heal();
        sockets[0].send(b"healed").unwrap();
        assert_eq!(receive(&sockets[1]), b"healed");
    }

    #[test]
    fn a_machine_that_comes_back_is_heard_again() {
        let hub = Hub::default();
        let (first, witness) = (plug(&hub, 0), plug(&hub, 2));
        drop(plug(&hub, 1));
        first.send(b"to nobody").unwrap();
        // Ports are served in order: with this the frame is lost for good.
        assert_eq!(receive(&witness), b"to nobody");
        let back = plug(&hub, 1);
        back.send(b"back").unwrap();
        assert_eq!(receive(&first), b"back");
        first.send(b"welcome").unwrap();
        assert_eq!(receive(&back), b"welcome");
    }
}
