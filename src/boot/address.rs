//! Which addresses a machine tries inside the cluster's network.

use proa_base::{ids::MachineId, net::Network};
use std::net::Ipv4Addr;

/// How many addresses are tried before a machine goes without one.
///
/// In a /24 that is three quarters full, 16 attempts fail together once in
/// 100 (0.75 to the 16th); in the /16 of the examples they never do.
pub const ATTEMPTS: u32 = 16;

/// The address made from the hardware address: its low bits.
///
/// Hardware addresses of one batch count up, so machines that were made
/// together get different addresses without asking. In 10.77.0.0/16 the
/// machine at 52:54:00:12:34:56 gets 10.77.52.86.
pub fn from_mac(mac: [u8; 6], network: Network) -> Ipv4Addr {
    let host_bits = network.hosts() + 1;
    let low = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]) & host_bits;
    // Machine 0 has host part 1. Host parts 0 and all ones, which no machine
    // may have, wrap to somebody else's: the probe then finds out.
    network.host(low.wrapping_sub(1))
}

/// The address to try after `attempt` conflicts (1 and up): spread evenly, and
/// the same for the same machine at every boot.
pub fn from_machine(id: MachineId, attempt: u32, network: Network) -> Ipv4Addr {
    let bytes = id.get().to_be_bytes().into_iter().chain(attempt.to_be_bytes());
    // FNV-1a. Its low bits are weak, so the two halves are folded together.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    network.host((hash >> 32) as u32 ^ hash as u32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn id(seed: u8) -> MachineId {
        MachineId::from_random([seed; 16])
    }

    #[test]
    fn an_address_never_is_the_network_or_its_broadcast() {
        for text in ["10.77.0.0/16", "192.168.7.0/24", "192.168.7.4/30", "10.0.0.0/8"] {
            let network = network(text);
            let base: Ipv4Addr = text.split('/').next().unwrap().parse().unwrap();
            for low in 0..=u16::MAX {
                let [high, low] = low.to_be_bytes();
                let address = from_mac([0x52, 0x54, 0xff, 0xff, high, low], network);
                assert!(network.contains(address) && address != base, "{address}");
                assert_ne!(address, network.broadcast());
            }
            for attempt in 0..1000 {
                let address = from_machine(id(7), attempt, network);
                assert!(network.contains(address) && address != base, "{address}");
                assert_ne!(address, network.broadcast());
            }
        }
    }

    #[test]
    fn neighbouring_hardware_addresses_do_not_collide() {
        let network = network("10.77.0.0/16");
        let address = |n: u8| from_mac([0x52, 0x54, 0, 0x12, 0x34, n], network);
        let all: BTreeSet<Ipv4Addr> = (0..=255).map(address).collect();
        assert_eq!(all.len(), 256);
        assert_eq!(address(0x56), Ipv4Addr::new(10, 77, 52, 86));
    }

    #[test]
    fn attempts_are_spread_and_repeatable() {
        let network = network("10.77.0.0/16");
        let tries = |seed| (1..=ATTEMPTS).map(move |attempt| from_machine(id(seed), attempt, network));
        assert!(tries(1).eq(tries(1)));
        let distinct: BTreeSet<Ipv4Addr> = (0..=255).flat_map(tries).collect();
        // 4096 draws from 65534 addresses leave about 3970 distinct ones.
        assert!(distinct.len() > 3900, "{}", distinct.len());
    }
}
