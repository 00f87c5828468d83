//! Finding a store by the SRV records of a domain, as etcd's own tools do.
//!
//! What to ask and what an answer means is decided in [`proa_base::dns`]; here
//! are the sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proa_base::dns::{Answer, ResolvConf, Srv, order, srv_answer, srv_query};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::tls::provider;

/// Who says where servers are asked.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Source: RFC 1035, 4.2.
const PORT: u16 = 53;
/// Largest datagram that is taken: more than a server may send unasked.
const DATAGRAM_BYTES: usize = 4_096;

/// Why there are no records, in the words of Go's resolver.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Nobody can have such a name.
    #[error("lookup {0}: no such host")]
    BadName(String),
    /// A server answered, or did not.
    #[error("lookup {name} on {server}: {why}")]
    Server {
        /// What was looked for.
        name: String,
        /// Who was asked last.
        server: SocketAddr,
        /// What came of it.
        why: Why,
    },
}

/// What came of asking one server.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// There is no such name, or it has no records of the kind.
    #[error("no such host")]
    NoSuchHost,
    /// The server could not answer.
    #[error("server misbehaving")]
    Misbehaving,
    /// Its answer cannot be read.
    #[error("cannot unmarshal DNS message")]
    Malformed,
    /// It did not answer in time.
    #[error("i/o timeout")]
    Late,
    /// It cannot be asked; the system's words.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        // As Go has it: without Rust's number, in lower case.
        Self::Io(text.split(" (os error").next().unwrap_or_default().to_lowercase())
    }
}

/// The records of `_SERVICE._tcp.DOMAIN`, in the order in which they are to be used.
///
/// # Errors
/// There are none, or nobody who knows could be asked.
pub async fn lookup(service: &str, domain: &str) -> Result<Vec<Srv>, LookupError> {
    // Without the file this machine is asked, as everywhere.
    let conf = ResolvConf::parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let mut records = ask_all(&conf, PORT, &format!("_{service}._tcp.{domain}")).await?;
    order(&mut records, |_| u32::from_be_bytes(random()));
    Ok(records)
}

async fn ask_all(conf: &ResolvConf, port: u16, name: &str) -> Result<Vec<Srv>, LookupError> {
    let mut last = LookupError::BadName(name.to_owned());
    for whole in conf.names(name) {
        let Ok(query) = srv_query(u16::from_be_bytes(random()), &whole) else { continue };
        match ask_servers(conf, port, &query).await {
            Ok(records) => return Ok(records),
            Err((server, why)) => last = LookupError::Server { name: name.to_owned(), server, why },
        }
    }
    Err(last)
}

async fn ask_servers(conf: &ResolvConf, port: u16, query: &[u8]) -> Result<Vec<Srv>, (SocketAddr, Why)> {
    let mut last = None;
    for _ in 0..conf.attempts {
        for server in conf.servers.iter().map(|ip| SocketAddr::new(*ip, port)) {
            let why = match timeout(conf.timeout, ask(server, query, conf.uses_tcp)).await {
                Ok(Ok(Answer::Records(records))) if !records.is_empty() => return Ok(records),
                // The others would say the same.
                Ok(Ok(Answer::Records(_) | Answer::NoSuchName)) => return Err((server, Why::NoSuchHost)),
                Ok(Ok(Answer::Malformed | Answer::Truncated)) => Why::Malformed,
                Ok(Ok(Answer::Failed(_))) => Why::Misbehaving,
                Ok(Err(error)) => error.into(),
                Err(_) => Why::Late,
            };
            last = Some((server, why));
        }
    }
    Err(last.expect("there is a server, and it is asked at least once"))
}

async fn ask(server: SocketAddr, query: &[u8], uses_tcp: bool) -> io::Result<Answer> {
    if !uses_tcp {
        match ask_by_udp(server, query).await? {
            Answer::Truncated => {}
            answer => return Ok(answer),
        }
    }
    ask_by_tcp(server, query).await
}

async fn ask_by_udp(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // What others send to this port is not received then.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut packet = [0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut packet).await?;
        if let Some(answer) = srv_answer(&packet[..length], query) {
            return Ok(answer);
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    // A message has its length before it. Source: RFC 1035, 4.2.2.
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    srv_answer(&packet, query).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// Bytes that nobody else can guess, so that nobody else can answer.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    provider().secure_random.fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// A service as the two kinds of records name it: `NAME-ssl` and `NAME`, and
/// behind either `-SUFFIX`. Source: etcd's `srv.GetSRVService`.
pub fn services(name: &str, suffix: &str) -> [(&'static str, String); 2] {
    let suffix = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    [("https", format!("{name}-ssl{suffix}")), ("http", format!("{name}{suffix}"))]
}

/// A member as clients reach it, by its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://HOST:PORT` or `http://HOST:PORT`.
    pub url: String,
    /// Those of the lowest are to be asked first.
    pub priority: u16,
}

/// The client URLs of a domain's members, from `_etcd-client-ssl._tcp` and
/// `_etcd-client._tcp`. Source: etcd's `srv.GetClient`.
///
/// # Errors
/// Neither kind has records.
pub async fn clients(domain: &str, suffix: &str) -> Result<Vec<Endpoint>, String> {
    let [(_, encrypted), (_, plain)] = services("etcd-client", suffix);
    match tokio::join!(lookup(&encrypted, domain), lookup(&plain, domain)) {
        (Err(encrypted), Err(plain)) => Err(format!("dns lookup errors: {encrypted} and {plain}")),
        (encrypted, plain) => {
            let endpoint = |scheme: &'static str| {
                move |record: Srv| Endpoint { url: format!("{scheme}://{record}"), priority: record.priority }
            };
            let encrypted = encrypted.unwrap_or_default().into_iter().map(endpoint("https"));
            Ok(encrypted.chain(plain.unwrap_or_default().into_iter().map(endpoint("http"))).collect())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    /// What a server does with a query.
    #[derive(Clone, Copy)]
    enum Habit {
        Silent,
        /// Answers with this response code and no records.
        Says(u8),
        /// One record; by TCP when the flag is set, and a datagram says so.
        Knows {
            by_tcp: bool,
        },
        /// Answers somebody else's query before.
        Confused,
    }

    fn answer(query: &[u8], flags: [u8; 2], has_record: bool) -> Vec<u8> {
        let mut packet = query.to_vec();
        packet[2..4].copy_from_slice(&flags);
        if has_record {
            packet[7] = 1;
            packet.extend(b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x09\0\0\0\0\0\x07\x01a\0");
        }
        packet
    }

    async fn serve(ip: &str, port: u16, habit: Habit) -> u16 {
        let udp = UdpSocket::bind((ip, port)).await.unwrap();
        let port = udp.local_addr().unwrap().port();
        let tcp = TcpListener::bind((ip, port)).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let packet = answer(&query, [0x81, 0x80], true);
                stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&packet).await.unwrap();
            }
        });
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut query).await.unwrap();
                let query = &query[..length];
                let packet = match habit {
                    Habit::Silent => continue,
                    Habit::Says(code) => answer(query, [0x81, 0x80 | code], false),
                    Habit::Knows { by_tcp: true } => answer(query, [0x83, 0x80], false),
                    Habit::Knows { by_tcp: false } => answer(query, [0x81, 0x80], true),
                    Habit::Confused => {
                        let mut other = answer(query, [0x81, 0x83], false);
                        other[0] ^= 1;
                        udp.send_to(&other, from).await.unwrap();
                        answer(query, [0x81, 0x80], true)
                    }
                };
                udp.send_to(&packet, from).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn servers_are_asked_until_one_knows() {
        let knows = Habit::Knows { by_tcp: false };
        #[rustfmt::skip]
        let rows = [
            ("the first knows",         [knows, Habit::Says(3)],                         "a:7"),
            ("by TCP",                  [Habit::Knows { by_tcp: true }, Habit::Says(3)], "a:7"),
            ("the first is silent",     [Habit::Silent, knows],                          "a:7"),
            ("the first fails",         [Habit::Says(2), knows],                         "a:7"),
            ("a stray answer",          [Habit::Confused, Habit::Says(3)],               "a:7"),
            ("there is no such name",   [Habit::Says(3), knows],                         "lookup _s._tcp.x on 127.0.0.1:PORT: no such host"),
            ("there are no records",    [Habit::Says(0), knows],                         "lookup _s._tcp.x on 127.0.0.1:PORT: no such host"),
            ("both fail",               [Habit::Says(2), Habit::Says(5)],                "lookup _s._tcp.x on 127.0.0.2:PORT: server misbehaving"),
            ("both are silent",         [Habit::Silent, Habit::Silent],                  "lookup _s._tcp.x on 127.0.0.2:PORT: i/o timeout"),
        ];
        for (name, [first, second], want) in rows {
            let port = serve("127.0.0.1", 0, first).await;
            serve("127.0.0.2", port, second).await;
            let mut conf = ResolvConf::parse("nameserver 127.0.0.1\nnameserver 127.0.0.2\n");
            conf.timeout = Duration::from_millis(300);
            let got = match ask_all(&conf, port, "_s._tcp.x").await {
                Ok(records) => records.iter().map(Srv::to_string).collect::<Vec<_>>().join(" "),
                Err(error) => error.to_string().replace(&port.to_string(), "PORT"),
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_told() {
        let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let conf = ResolvConf::parse("nameserver 127.0.0.1");
        let error = ask_all(&conf, port, "_s._tcp.x").await.unwrap_err();
        assert_eq!(error.to_string(), format!("lookup _s._tcp.x on 127.0.0.1:{port}: connection refused"));
        let error = ask_all(&conf, port, "_s._tcp.a b").await.unwrap_err();
        assert_eq!(error.to_string(), "lookup _s._tcp.a b: no such host");
    }

    #[test]
    fn services_are_named_as_by_etcd() {
        let names = |suffix| services("etcd-client", suffix).map(|(scheme, name)| format!("{scheme} {name}"));
        assert_eq!(names(""), ["https etcd-client-ssl", "http etcd-client"]);
        assert_eq!(names("x"), ["https etcd-client-ssl-x", "http etcd-client-x"]);
    }
}
