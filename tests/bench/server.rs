//! Servers under measurement: one or three members of one product, as processes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb::PutRequest;
use proa_test_ports::free_url;

/// Longest wait for a cluster to take its first write.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Busy machines are no place to measure; a build alone is a load of two.
pub const MOST_LOAD: f64 = 0.7;

/// What the machine did in the last minute, in processes that wanted to run.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// The binary of this build, or what `PROA_BIN` names.
pub fn ours() -> Product {
    let program =
        std::env::var_os("PROA_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_proa")), PathBuf::from);
    Product { name: "proa".to_owned(), command: vec![program.display().to_string(), "etcd".to_owned()] }
}

/// One product to measure.
#[derive(Clone)]
pub struct Product {
    /// As it stands in the table.
    pub name: String,
    /// The program and what comes before etcd's flags.
    pub command: Vec<String>,
}

/// Running members of one product; they end with this value.
pub struct Servers {
    /// Client URLs, one a member.
    pub urls: Vec<String>,
    processes: Vec<Child>,
    folder: tempfile::TempDir,
}

/// What the members have used together.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Processor time in seconds, user and system.
    pub cpu_s: f64,
    /// Resident memory in MiB.
    pub resident_mib: f64,
}

impl Servers {
    /// Starts `size` members below `root`, with `words` after the flags that all have,
    /// and waits until a write is taken.
    pub async fn start(product: &Product, size: usize, root: &Path, words: &[String]) -> Self {
        let folder = tempfile::tempdir_in(root).expect("a folder for the data");
        let clients: Vec<String> = (0..size).map(|_| free_url()).collect();
        let peers: Vec<String> = (0..size).map(|_| free_url()).collect();
        let cluster: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let start = |number: usize| {
            let data_dir: PathBuf = folder.path().join(format!("m{number}"));
            let log = File::create(folder.path().join(format!("m{number}.log"))).expect("a log file");
            Command::new(&product.command[0])
                .args(&product.command[1..])
                .arg(format!("--name=m{number}"))
                .arg(format!("--data-dir={}", data_dir.display()))
                .arg(format!("--listen-client-urls={}", clients[number]))
                .arg(format!("--advertise-client-urls={}", clients[number]))
                .arg(format!("--listen-peer-urls={}", peers[number]))
                .arg(format!("--initial-advertise-peer-urls={}", peers[number]))
                .arg(format!("--initial-cluster={}", cluster.join(",")))
                .args(words)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("the product starts")
        };
        let processes = (0..size).map(start).collect();
        let servers = Self { urls: clients, processes, folder };
        servers.wait().await;
        servers
    }

    async fn wait(&self) {
        let begun = Instant::now();
        for url in &self.urls {
            let client = Client::connect(std::slice::from_ref(url)).expect("a URL made here");
            let first = PutRequest { key: "warm".into(), ..PutRequest::default() };
            while client.put(first.clone()).await.is_err() {
                assert!(begun.elapsed() < START_PATIENCE, "{url} took no write in {START_PATIENCE:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// What the members have used until now.
    pub fn usage(&self) -> Usage {
        self.processes.iter().map(|process| usage(process.id())).fold(Usage::default(), |sum, one| Usage {
            cpu_s: sum.cpu_s + one.cpu_s,
            resident_mib: sum.resident_mib + one.resident_mib,
        })
    }
}

impl Servers {
    /// Where the members have their data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Source: proc(5), `/proc/PID/stat` fields 14 and 15 and `VmRSS` of `status`.
fn usage(pid: u32) -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The name, in parentheses, may hold anything.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    let status = read("status");
    let resident_kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    // USER_HZ is 100 on every Linux.
    Usage { cpu_s: ticks / 100.0, resident_mib: resident_kib / 1024.0 }
}
