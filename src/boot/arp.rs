//! The ARP packets that ask for and claim an address.
//!
//! Source: RFC 826 (layout), RFC 5227 (probe, conflict, announcement).

use std::net::Ipv4Addr;

/// Bytes of an ARP packet for IPv4 over Ethernet, without the frame around it.
pub const PACKET_BYTES: usize = 28;

/// Ethernet, IPv4, six and four bytes of address.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;

/// Asks whether anybody has `wanted`, without claiming it.
pub fn probe(mac: [u8; 6], wanted: Ipv4Addr) -> [u8; PACKET_BYTES] {
    request(mac, Ipv4Addr::UNSPECIFIED, wanted)
}

/// Tells everybody that `own` is at `mac`.
pub fn announcement(mac: [u8; 6], own: Ipv4Addr) -> [u8; PACKET_BYTES] {
    request(mac, own, own)
}

fn request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[..6].copy_from_slice(&FIXED);
    packet[6..8].copy_from_slice(&REQUEST.to_be_bytes());
    packet[8..14].copy_from_slice(&mac);
    packet[14..18].copy_from_slice(&sender.octets());
    packet[24..28].copy_from_slice(&target.octets());
    packet
}

/// Whether `packet` shows that another machine has `wanted` or asks for it too.
///
/// Packets from our own hardware address are our own, handed back by a hub.
pub fn conflicts(packet: &[u8], mac: [u8; 6], wanted: Ipv4Addr) -> bool {
    if packet.len() < PACKET_BYTES || packet[..6] != FIXED || packet[8..14] == mac {
        return false;
    }
    let wanted = wanted.octets();
    let has_it = packet[14..18] == wanted;
    let asks_for_it =
        packet[6..8] == REQUEST.to_be_bytes() && packet[14..18] == [0; 4] && packet[24..28] == wanted;
    has_it || asks_for_it
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const WANTED: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
    const ELSE: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 9);

    #[test]
    fn only_others_conflict() {
        let reply = |mac, sender| {
            let mut packet = request(mac, sender, ELSE);
            packet[7] = 2;
            packet
        };
        #[rustfmt::skip]
        let cases = [
            ("somebody has it",           reply(OTHER, WANTED).to_vec(),               true),
            ("somebody announces it",     announcement(OTHER, WANTED).to_vec(),        true),
            ("somebody uses it",          request(OTHER, WANTED, ELSE).to_vec(),       true),
            ("somebody asks for it too",  probe(OTHER, WANTED).to_vec(),               true),
            ("our own probe comes back",  probe(MINE, WANTED).to_vec(),                false),
            ("somebody wants to talk",    request(OTHER, ELSE, WANTED).to_vec(),       false),
            ("another address",           reply(OTHER, ELSE).to_vec(),                 false),
            ("cut off",                   reply(OTHER, WANTED)[..20].to_vec(),         false),
            ("padded to a frame",         [&reply(OTHER, WANTED)[..], &[0; 18]].concat(), true),
            ("not IPv4",                  { let mut p = reply(OTHER, WANTED); p[2] = 0; p.to_vec() }, false),
        ];
        for (name, packet, want) in cases {
            assert_eq!(conflicts(&packet, MINE, WANTED), want, "{name}");
        }
    }
}
