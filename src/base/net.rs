//! Local addresses, and the one to tell others.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 network such as `10.77.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u32,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an IPv4 address and a prefix length of 8 to 30, such as 10.77.0.0/16")]
pub struct BadNetwork;

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, prefix) = text.split_once('/').ok_or(BadNetwork)?;
        let address: Ipv4Addr = address.parse().map_err(|_| BadNetwork)?;
        let prefix: u8 = prefix.parse().map_err(|_| BadNetwork)?;
        if !(8..=30).contains(&prefix) {
            return Err(BadNetwork);
        }
        let network = Self { address: address.to_bits(), prefix };
        Ok(Self { address: network.address & network.mask().to_bits(), prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.address), self.prefix)
    }
}

impl Network {
    /// The netmask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.prefix))
    }

    /// The broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address | !self.mask().to_bits())
    }

    /// How many addresses a machine can have here: all but the network's own and the broadcast.
    pub fn hosts(&self) -> u32 {
        !self.mask().to_bits() - 1
    }

    /// The `number`th machine's address, counted from 0 and wrapped at [`Self::hosts`].
    pub fn host(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address + 1 + number % self.hosts())
    }

    /// Whether `address` lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask().to_bits() == self.address
    }
}

/// One address of one interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The interface, such as `eth0`.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
}

/// The address that others reach this machine by.
///
/// In order: inside `cluster` (the machine's `proa.network`), a global IPv4 address, a
/// global IPv6 address, IPv4 loopback. Interfaces keep the kernel's order.
pub fn choose(locals: &[Local], cluster: Option<Network>) -> IpAddr {
    let inside = |address: &IpAddr| match (address, cluster) {
        (IpAddr::V4(v4), Some(network)) => network.contains(*v4),
        _ => false,
    };
    let global_v4 = |a: &IpAddr| matches!(a, IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local());
    let global_v6 =
        |a: &IpAddr| matches!(a, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local());
    let find = |wanted: &dyn Fn(&IpAddr) -> bool| locals.iter().map(|l| l.address).find(|a| wanted(a));
    find(&inside)
        .or_else(|| find(&global_v4))
        .or_else(|| find(&global_v6))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The addresses of all interfaces that are up.
///
/// # Errors
/// What getifaddrs(3) says.
pub fn locals() -> io::Result<Vec<Local>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: on success the kernel's list is ours until freeifaddrs below.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut out = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: a node of the list above, which is not freed yet.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_flags & libc::IFF_UP as u32 == 0 {
            continue;
        }
        // SAFETY: ifa_addr is null or points to a sockaddr of its own family.
        if let Some(address) = unsafe { ip_of(entry.ifa_addr) } {
            // SAFETY: ifa_name is a C string of the list.
            let interface = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
            out.push(Local { interface: interface.to_string_lossy().into_owned(), address });
        }
    }
    // SAFETY: the list that getifaddrs gave, freed once.
    unsafe { libc::freeifaddrs(list) };
    Ok(out)
}

/// # Safety
/// `address` is null or points to a whole socket address of the family it names.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and as the caller promises.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn locals_of(addresses: &[&str]) -> Vec<Local> {
        let local = |a: &&str| Local { interface: "eth0".into(), address: a.parse().unwrap() };
        addresses.iter().map(local).collect()
    }

    #[test]
    fn hosts_never_are_the_network_or_its_broadcast() {
        for text in ["10.77.0.0/16", "192.168.1.64/30", "10.0.0.0/8"] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), text);
            for number in [0, 1, network.hosts() - 1, network.hosts(), u32::MAX] {
                let host = network.host(number);
                assert!(network.contains(host), "{text} {number}");
                assert_ne!(host, network.broadcast(), "{text} {number}");
                assert_ne!(host.to_bits(), network.address, "{text} {number}");
            }
        }
    }

    #[test]
    fn garbage_is_no_network() {
        for text in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/0", "x/8", "10.0.0/8", "::/64"] {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork), "{text:?}");
        }
    }

    #[test]
    fn the_cluster_network_is_told_first() {
        let cluster = Some("10.77.0.0/16".parse().unwrap());
        #[rustfmt::skip]
        let cases: [(&[&str], Option<Network>, &str); 6] = [
            (&["127.0.0.1", "10.0.2.15", "10.77.1.2"], cluster, "10.77.1.2"),
            (&["127.0.0.1", "10.0.2.15", "10.77.1.2"], None,    "10.0.2.15"),
            (&["127.0.0.1", "169.254.1.1", "fd00::1"], cluster, "fd00::1"),
            (&["::1", "fe80::1", "127.0.0.1"],         None,    "127.0.0.1"),
            (&["fd00::1", "192.168.1.1"],              None,    "192.168.1.1"),
            (&[],                                      cluster, "127.0.0.1"),
        ];
        for (given, network, want) in cases {
            assert_eq!(choose(&locals_of(given), network), want.parse::<IpAddr>().unwrap(), "{given:?}");
        }
    }

    #[test]
    fn loopback_is_listed() {
        assert!(locals().unwrap().iter().any(|l| l.address.is_loopback()));
    }
}
