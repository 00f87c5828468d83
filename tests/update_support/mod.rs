//! A disk, releases, a server that can be made to misbehave, and the updater as a
//! process that works with them.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proa_release::{keys, metadata, payload, seal};
use proa_update_disk::Disk;
use proa_update_model::{
    hash::Sha256,
    layout,
    omaha::{AppResponse, CheckAnswer, Package, PostInstall, Request, Response, Update},
    slots::SlotFlags,
};

pub const APP: &str = "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}";
/// Longer than anything takes here on a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// The names of a release's payloads.
pub const WHOLE: &str = "whole";
pub const DIFFERENCE: &str = "difference";
/// Of zstd: a test does not wait for the best.
const LEVEL: i32 = 3;

/// The binary under test.
pub fn proa() -> PathBuf {
    std::env::var_os("PROA_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_proa")), PathBuf::from)
}

/// Numbers that look random and are the same at each run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// A file that looks like a squashfs and compresses about as one: half of each
/// block is noise.
pub fn system(bytes: u64, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut data = vec![0; bytes as usize];
    for block in data.chunks_mut(4096) {
        let half = block.len() / 2;
        block[..half].iter_mut().for_each(|byte| *byte = numbers.next() as u8);
    }
    data[..4].copy_from_slice(b"hsqs");
    data[28..30].copy_from_slice(&[4, 0]);
    data[40..48].copy_from_slice(&bytes.to_le_bytes());
    data
}

/// Keys, and the releases that are made with them.
pub struct Publisher {
    pub folder: PathBuf,
}

/// What a server needs to know of one release.
#[derive(Clone)]
pub struct Release {
    pub version: String,
    pub slot: Vec<u8>,
    pub root_hash: Sha256,
    pub payload: Vec<u8>,
    /// The version that it starts from, and the payload.
    pub difference: Option<(String, Vec<u8>)>,
    pub metadata: Vec<u8>,
}

/// What is not as usual about a release.
pub struct Wish<'a> {
    pub version: &'a str,
    pub expires_unix_s: u64,
    pub app: &'a str,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { version: "2.0.0", expires_unix_s: u64::from(u32::MAX), app: APP }
    }
}

impl Publisher {
    pub fn new(folder: &Path) -> Self {
        keys::generate(folder).unwrap();
        Self { folder: folder.to_owned() }
    }

    /// A release of `data`, with the difference to `old` if there is one.
    pub fn release(&self, data: &[u8], old: Option<&Release>, wish: &Wish<'_>) -> Release {
        let file = |what: &str, version: &str| self.folder.join(format!("{what}-{version}"));
        let path = file("slot", wish.version);
        fs::write(&path, data).unwrap();
        let version = wish.version.parse().unwrap();
        let root_hash = seal::seal(&path, &version).unwrap();
        let slot = seal::Slot::read(&path).unwrap();
        let key = keys::PayloadKey::read(&self.folder.join("payload-key.pem")).unwrap();
        let make = |name: &str, old: Option<&seal::Slot>| {
            let bytes = payload::make(&slot, old, &key, LEVEL).unwrap();
            fs::write(self.folder.join(name), &bytes).unwrap();
            bytes
        };
        let bytes = make(WHOLE, None);
        let difference = old.map(|old| {
            let slot = seal::Slot::read(&file("slot", &old.version)).unwrap();
            (old.version.clone(), make(DIFFERENCE, Some(&slot)))
        });
        let mut payloads = vec![self.folder.join(WHOLE)];
        payloads.extend(difference.as_ref().map(|_| self.folder.join(DIFFERENCE)));
        let release = metadata::release(metadata::Wanted {
            app: wish.app.to_owned(),
            version,
            expires_unix_s: wish.expires_unix_s,
            minimum: "0.0.1".parse().unwrap(),
            slot: &path,
            payloads,
            origins: old.iter().map(|old| file("release", &old.version)).collect(),
        })
        .unwrap();
        let key = keys::release_key(&self.folder.join("release.pk8")).unwrap();
        let trusted = metadata::read_key_set(&self.folder.join("keys.json")).unwrap();
        let metadata = metadata::sign(&release, &[key], vec![], &trusted).unwrap().into_bytes();
        fs::write(file("release", wish.version), &metadata).unwrap();
        let (version, slot) = (wish.version.to_owned(), fs::read(&path).unwrap());
        Release { version, slot, root_hash, payload: bytes, difference, metadata }
    }
}

/// A request as it came.
pub struct Got {
    pub method: String,
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub body: Vec<u8>,
}

/// An HTTP server on a thread a connection, answered by a function.
pub struct Server {
    pub url: String,
    pub events: Arc<Mutex<Vec<proa_update_model::omaha::Event>>>,
    /// What was asked for of payloads: its name and how many bytes.
    fetched: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Server {
    /// How many bytes were asked for of the payload with this name.
    pub fn fetched(&self, name: &str) -> u64 {
        let fetched = self.fetched.lock().unwrap();
        fetched.iter().filter(|(path, _)| path.ends_with(name)).map(|(_, bytes)| bytes).sum()
    }

    pub fn start(answer: impl Fn(&Got, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, events: Arc::default(), fetched: Arc::default() };
        let (answer, events, fetched) =
            (Arc::new(answer), Arc::clone(&server.events), Arc::clone(&server.fetched));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, events, fetched) =
                    (Arc::clone(&answer), Arc::clone(&events), Arc::clone(&fetched));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(got) = read(&stream) else { return };
                    if let Ok(request) = Request::parse(&got.body) {
                        events.lock().unwrap().extend(request.apps.into_iter().flat_map(|app| app.events));
                    }
                    if let Some((from, to)) = got.range {
                        fetched.lock().unwrap().push((got.path.clone(), to + 1 - from));
                    }
                    answer(&got, &mut stream);
                });
            }
        });
        server
    }

    /// A server that offers `release` and serves its payload well.
    pub fn honest(release: Release) -> Self {
        let release = Arc::new(release);
        Self::start(move |got, stream| match got.method.as_str() {
            "POST" => respond(stream, "200 OK", "", offer(got, &release).as_bytes()),
            _ => {
                let difference = release.difference.as_ref().filter(|_| got.path.ends_with(DIFFERENCE));
                payload_part(stream, got, difference.map_or(&release.payload, |(_, payload)| payload));
            }
        })
    }
}

/// One request; `None` when the client went away before it was whole.
fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap_or(0);
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut range, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().unwrap();
        }
        if let Some((from, to)) = line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
            range = Some((from.parse().unwrap(), to.parse().unwrap()));
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Got { method, path, range, body })
}

/// A client that is killed does not hear the end of its answer.
pub fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// The part of a payload that was asked for.
pub fn payload_part(stream: &mut TcpStream, got: &Got, payload: &[u8]) {
    let (from, to) = got.range.expect("the updater asks for ranges");
    let part = &payload[from as usize..=to as usize];
    let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", payload.len());
    respond(stream, "206 Partial Content", &range, part);
}

/// What an Omaha server answers to this request: the offer, when it is asked for.
pub fn offer(got: &Got, release: &Release) -> String {
    let request = Request::parse(&got.body).unwrap();
    let app = &request.apps[0];
    let fits = |(from, _): &&(String, Vec<u8>)| app.delta_okay && *from == app.version;
    let (name, payload) = match release.difference.as_ref().filter(fits) {
        Some((_, payload)) => (DIFFERENCE, payload),
        None => (WHOLE, &release.payload),
    };
    let update = || {
        CheckAnswer::Update(Box::new(Update {
            poll_interval_s: None,
            codebases: vec![format!("http://{}/", host(got))],
            version: release.version.clone(),
            packages: vec![Package {
                name: name.to_owned(),
                sha1: "x".to_owned(),
                size_bytes: payload.len() as u64,
                sha256_hex: String::new(),
            }],
            post_install: PostInstall {
                sha256: STANDARD.encode(Sha256::of(payload).0),
                release_metadata: Some(release.metadata.clone()),
                ..PostInstall::default()
            },
        }))
    };
    let answer = AppResponse {
        app_id: app.app_id.clone(),
        status: "ok".to_owned(),
        ping: app.ping.is_some(),
        update_check: app.update_check.as_ref().map(|_| update()),
        events: app.events.len(),
    };
    Response { server: "test".to_owned(), day_elapsed_s: 0, apps: vec![answer] }.render()
}

/// What an Omaha server answers that has nothing new.
pub fn nothing(got: &Got) -> String {
    let request = Request::parse(&got.body).unwrap();
    let app = &request.apps[0];
    let none = || CheckAnswer::NoUpdate { poll_interval_s: None, reason: String::new() };
    let answer = AppResponse {
        app_id: app.app_id.clone(),
        status: "ok".to_owned(),
        ping: app.ping.is_some(),
        update_check: app.update_check.as_ref().map(|_| none()),
        events: app.events.len(),
    };
    Response { server: "test".to_owned(), day_elapsed_s: 0, apps: vec![answer] }.render()
}

/// The path of the server's URL holds the address, so that offers need no more.
fn host(got: &Got) -> &str {
    got.path.trim_start_matches('/').trim_end_matches('/')
}

/// A disk with two slots, of which A runs version 1.0.0.
pub struct Machine {
    pub folder: PathBuf,
    pub disk: PathBuf,
    slot_bytes: u64,
}

impl Machine {
    pub fn new(folder: &Path, slot_mib: u64, publisher: &Publisher, running: &[u8]) -> Self {
        fs::create_dir_all(folder).unwrap();
        let machine =
            Self { folder: folder.to_owned(), disk: folder.join("disk"), slot_bytes: slot_mib * MIB };
        let a = folder.join("slot-a");
        fs::write(&a, running).unwrap();
        let root_hash = seal::seal(&a, &"1.0.0".parse().unwrap()).unwrap();
        machine.format(slot_mib, &fs::read(&a).unwrap());
        let record = format!(
            r#"{{"disk":"{}","slot":3,"letter":"A","version":"1.0.0","root_hash":"{root_hash}","proven":true}}"#,
            machine.disk.display()
        );
        for name in ["boot.json", "boot-a.json"] {
            fs::write(folder.join(name), &record).unwrap();
        }
        for name in ["keys.json", "update-payload-key.pub.pem"] {
            fs::copy(publisher.folder.join(name), folder.join(name)).unwrap();
        }
        machine
    }

    fn format(&self, slot_mib: u64, a: &[u8]) {
        let disk = File::create(&self.disk).unwrap();
        disk.set_len((slot_mib * 2 + 4) * MIB).unwrap();
        let script = format!(
            "label: gpt\n\
             3: start=1MiB, size={slot_mib}MiB, type={slot}, name=SLOT-A, attrs=\"GUID:48,56\"\n\
             4: size={slot_mib}MiB, type={slot}, name=SLOT-B\n",
            slot = layout::SLOT_TYPE,
        );
        let mut sfdisk = Command::new("/usr/sbin/sfdisk")
            .arg("--quiet")
            .arg(&self.disk)
            .stdin(Stdio::piped())
            .spawn()
            .expect("/usr/sbin/sfdisk, of the package fdisk");
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let mut disk = fs::OpenOptions::new().write(true).open(&self.disk).unwrap();
        use std::io::Seek as _;
        disk.seek(std::io::SeekFrom::Start(MIB)).unwrap();
        disk.write_all(a).unwrap();
    }

    /// As if the update had never begun.
    pub fn reset(&self) {
        // It may not have begun.
        let _ = fs::remove_dir_all(self.folder.join("state"));
        let a = fs::read(self.folder.join("slot-a")).unwrap();
        self.format(self.slot_bytes / MIB, &a);
    }

    /// From its next start on the updater is told that this boot came from slot A with
    /// 1.0.0, or from slot B with `release`, and is good.
    pub fn boots(&self, letter: &str, release: &Release) {
        let old = fs::read_to_string(self.folder.join("boot-a.json")).unwrap();
        let new = old.replace(
            r#""slot":3,"letter":"A","version":"1.0.0""#,
            r#""slot":4,"letter":"B","version":"2.0.0""#,
        );
        let hash = old.split(r#""root_hash":""#).nth(1).unwrap().split('"').next().unwrap();
        let new = new.replace(hash, &release.root_hash.to_string());
        let record = if letter == "A" { old } else { new };
        fs::write(self.folder.join("boot.json"), record).unwrap();
    }

    pub fn flags(&self) -> Vec<SlotFlags> {
        let table = Disk::open(&self.disk, 512).unwrap().table().unwrap();
        assert!(table.damage().is_none(), "both copies are equal");
        table.partitions().iter().map(|partition| SlotFlags(partition.attributes)).collect()
    }

    /// Turns one bit of slot A around, as a disk that rots does.
    pub fn rot(&self, at: u64) {
        use std::os::unix::fs::FileExt as _;
        let disk = fs::OpenOptions::new().read(true).write(true).open(&self.disk).unwrap();
        let mut byte = [0];
        disk.read_exact_at(&mut byte, MIB + at).unwrap();
        disk.write_all_at(&[byte[0] ^ 1], MIB + at).unwrap();
    }

    /// The first bytes of slot B.
    pub fn slot_b(&self, bytes: usize) -> Vec<u8> {
        let mut disk = File::open(&self.disk).unwrap();
        use std::io::Seek as _;
        disk.seek(std::io::SeekFrom::Start(MIB + self.slot_bytes)).unwrap();
        let mut data = vec![0; bytes];
        disk.read_exact(&mut data).unwrap();
        data
    }

    /// Starts the updater, which asks at once.
    pub fn start(&self, server: &Server, more: &[&str]) -> Engine {
        let log = self.folder.join("log");
        let path = |name: &str| self.folder.join(name).display().to_string();
        let address = server.url.trim_start_matches("http://");
        let child = Command::new(proa())
            .args(["update_engine", "--bus=", "--endpoints=", "--poll-interval=150ms", "--machine-id=m"])
            .arg(format!("--server={}/{address}/", server.url))
            .arg(format!("--boot-record={}", path("boot.json")))
            .arg(format!("--boot-folder={}", path("boot")))
            .arg(format!("--state-folder={}", path("state")))
            .arg(format!("--keys-file={}", path("keys.json")))
            .arg(format!("--payload-key={}", path("update-payload-key.pub.pem")))
            .args(more)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Engine { child, log }
    }

    /// Whether the updater says that the new release boots next.
    pub fn is_updated(&self) -> bool {
        let state = fs::read_to_string(self.folder.join("state/state.json")).unwrap_or_default();
        state.contains(r#""is_active":true"#)
    }

    /// The new release is there, whole, and boots next with one try; the old one is
    /// what it falls back to.
    pub fn assert_updated(&self, release: &Release) {
        assert_eq!(Sha256::of(&self.slot_b(release.slot.len())), Sha256::of(&release.slot));
        assert_eq!(self.flags(), [SlotFlags::new(1, 0, true), SlotFlags::new(2, 1, false)]);
    }
}

/// The updater as a process; killed when dropped.
pub struct Engine {
    child: Child,
    log: PathBuf,
}

impl Engine {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The most memory that it had so far, in KiB.
    ///
    /// Of a binary that is not the released one its own pages do not count: it is
    /// ten times as large, and most of what is touched of it is for debuggers.
    pub fn peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        let of_the_binary = if std::env::var_os("PROA_BIN").is_some() { 0 } else { kib("RssFile:")? };
        Some(kib("VmHWM:")?.saturating_sub(of_the_binary))
    }

    /// Seconds that it had of a processor, for itself and in the kernel.
    pub fn processor_s(&self) -> Option<(f64, f64)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        // In hundredths, whatever the kernel counts in: USER_HZ.
        let mut seconds = || words.next()?.parse::<f64>().ok().map(|ticks| ticks / 100.0);
        Some((seconds()?, seconds()?))
    }

    pub fn kill(mut self) -> Option<u64> {
        let peak = self.peak_kib();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        peak
    }

    /// Until `look` finds something; panics with the log when it never does.
    pub fn wait_for(&mut self, what: &str, mut look: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !look(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: update_engine ended with {ended:?}:\n{}", self.log());
            assert!(begun.elapsed() < PATIENCE, "waited too long for {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
