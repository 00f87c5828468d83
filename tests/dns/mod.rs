//! A DNS server for tests, and a network of their own in which it is the one that
//! the system asks.
//!
//! Resolvers know no port but 53 and no file but `/etc/resolv.conf`, so each test
//! runs once more, alone, in new namespaces: with loopback only, and with a file
//! of its own there. That takes root, or a kernel that lets users be root in a
//! namespace; where there is neither, the test says so and is skipped.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Set in the environment of a test that runs inside.
const INSIDE: &str = "PROA_TEST_INSIDE";
/// Mounts the file that is its first argument, and becomes the rest.
const ENTER: &str = r#"ip link set lo up && mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#;
const PORT: u16 = 53;
/// The largest answer in a datagram. Source: RFC 1035, 4.2.1.
const DATAGRAM_BYTES: usize = 512;

/// Runs `body` where loopback is all there is and this machine is asked for names.
/// `test` is the test's own name.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let Some(namespaces) = namespaces() else {
        eprintln!("skipped {test}: neither root nor a user namespace; cannot serve DNS to the system");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n").unwrap();
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", ENTER, "sh"])
        .arg(&file)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn namespaces() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["--net", "--mount"], &["--user", "--map-root-user", "--net", "--mount"]];
    let works = |way: &&[&str]| Command::new("unshare").args(*way).arg("true").status();
    ways.into_iter().find(|way| works(way).is_ok_and(|status| status.success()))
}

/// A server at 127.0.0.1, UDP and TCP, until it is dropped.
pub struct Dns {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Serves lines such as `m0.demo.example A 127.0.0.11` and
    /// `_etcd-server._tcp.demo.example SRV 0 0 2380 m0.demo.example`.
    pub fn serve(zone: &str) -> Self {
        let zone: Arc<Vec<Record>> = Arc::new(zone.lines().map(Record::parse).collect());
        let is_over = Arc::new(AtomicBool::new(false));
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (by_udp, by_tcp) = ((Arc::clone(&zone), Arc::clone(&is_over)), (zone, Arc::clone(&is_over)));
        let datagrams = std::thread::spawn(move || {
            let (zone, is_over) = by_udp;
            let mut query = [0; DATAGRAM_BYTES];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut query) else { continue };
                let mut packet = answer(&zone, &query[..length]);
                if packet.len() > DATAGRAM_BYTES {
                    // Truncated: the header and the question are left.
                    packet.truncate(12 + question(&query).1);
                    packet[2] |= 0x02;
                    packet[7] = 0;
                }
                let _ = udp.send_to(&packet, from);
            }
        });
        let streams = std::thread::spawn(move || {
            let (zone, is_over) = by_tcp;
            while !is_over.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut query).is_ok() {
                    let packet = answer(&zone, &query);
                    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &packet].concat());
                }
            }
        });
        Self { is_over, threads: vec![datagrams, streams] }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Record {
    owner: String,
    kind: u16,
    data: Vec<u8>,
}

impl Record {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, data) = match words[1] {
            "A" => (1, words[2].parse::<Ipv4Addr>().unwrap().octets().to_vec()),
            "SRV" => {
                let numbers = words[2..5].iter().map(|word| word.parse::<u16>().unwrap());
                (33, numbers.flat_map(u16::to_be_bytes).chain(name(words[5])).collect())
            }
            other => panic!("no such kind of record: {other}"),
        };
        Self { owner: words[0].to_owned(), kind, data }
    }
}

fn name(text: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    text.split('.').flat_map(label).chain([0]).collect()
}

/// The name and the kind that are asked for, and how long the question is.
fn question(query: &[u8]) -> ((String, u16), usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    ((labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]])), at + 5 - 12)
}

fn answer(zone: &[Record], query: &[u8]) -> Vec<u8> {
    let ((owner, kind), length) = question(query);
    let mut packet = query[..12 + length].to_vec();
    let is_known = zone.iter().any(|record| record.owner == owner);
    let records: Vec<&Record> =
        zone.iter().filter(|record| record.owner == owner && record.kind == kind).collect();
    // Response, recursion available; no such name, if so; one question and the answers.
    packet[2] = 0x81;
    packet[3] = if is_known { 0x80 } else { 0x83 };
    packet[4..12].copy_from_slice(&[0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    for record in records {
        packet.extend([0xc0, 12]);
        packet.extend(record.kind.to_be_bytes());
        packet.extend([0, 1, 0, 0, 0, 60]);
        packet.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
        packet.extend(&record.data);
    }
    packet
}
