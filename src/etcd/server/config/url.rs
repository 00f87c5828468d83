//! URLs of listeners and members: `http://HOST:PORT` and `https://HOST:PORT`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::tls::Listen;

/// One URL, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// Whether its scheme is `https`.
    pub encrypted: bool,
    /// The host as written, an IPv6 address in brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

impl Url<'_> {
    /// The host without brackets.
    pub fn bare_host(&self) -> &str {
        let inside = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.unwrap_or(self.host)
    }
}

/// Takes a URL apart.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Url<'_>, String> {
    let wrong = || "give http://HOST:PORT or https://HOST:PORT".to_owned();
    let (encrypted, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) | None => return Err(wrong()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || host.contains('/') {
        return Err(wrong());
    }
    Ok(Url { encrypted, host, port: port.parse().map_err(|_| wrong())? })
}

/// Where to listen; only `localhost` is a name.
///
/// # Errors
/// What would be right.
pub fn listen(text: &str) -> Result<Listen, String> {
    let url = parse(text)?;
    let ip = match url.bare_host() {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        bare => bare.parse().map_err(|_| "give an IP address to listen on".to_owned())?,
    };
    Ok(Listen { encrypted: url.encrypted, ..SocketAddr::new(ip, url.port).into() })
}
