//! Members of the store as processes, for the tests that use them.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb::{PutRequest, StatusRequest};
pub use proa_test_ports::free_url;

/// Longer than anything takes here on a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The binary under test.
pub fn proa() -> PathBuf {
    std::env::var_os("PROA_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_proa")), PathBuf::from)
}

/// A command of the binary that is told nothing but its words, and says what it has to
/// say in `log`.
pub fn quiet(log: File) -> Command {
    let mut command = Command::new(proa());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Waits until `look` finds something; panics with `what` when it never does.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One member; killed when dropped.
pub struct Member {
    pub name: String,
    pub client_url: String,
    pub data_dir: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// A member that is not started yet: its data below `folder`, `flags` last.
    pub fn new(folder: &Path, name: &str, peer_url: &str, initial_cluster: &str, flags: &[&str]) -> Self {
        let client_url = free_url();
        let data_dir = folder.join(name);
        let mut args = vec![
            format!("--name={name}"),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster={initial_cluster}"),
        ];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = folder.join(format!("{name}.log"));
        Self { name: name.to_owned(), client_url, data_dir, args, log, child: None }
    }

    /// Adds flags for the next start; the last of two equal ones counts.
    pub fn add_flags(&mut self, flags: &[&str]) {
        self.args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.child = Some(quiet(log).arg("etcd").args(&self.args).spawn().unwrap());
    }

    /// SIGKILL, and the process gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.spawn();
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- stderr of {}:\n{}", self.name, self.stderr());
        }
    }
}

/// A cluster of members on this machine.
pub struct Cluster {
    pub members: Vec<Member>,
    _folder: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Starts `size` members with `more` flags each and waits for a leader.
    pub fn start(size: usize, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self::start_in(folder.path(), size, more);
        cluster._folder = Some(folder);
        cluster
    }

    /// As [`Cluster::start`], with everything below `folder`.
    pub fn start_in(folder: &Path, size: usize, more: &[&str]) -> Self {
        let peers: Vec<String> = (0..size).map(|_| free_url()).collect();
        let list: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let member = |(number, peer): (usize, &String)| {
            Member::new(folder, &format!("m{number}"), peer, &list.join(","), more)
        };
        Self::start_these(peers.iter().enumerate().map(member).collect())
    }

    /// Starts these members and waits for a leader.
    pub fn start_these(mut members: Vec<Member>) -> Self {
        members.iter_mut().for_each(Member::start);
        let mut cluster = Self { members, _folder: None };
        cluster.wait_ready();
        cluster
    }

    /// Until every member knows a leader.
    pub fn wait_ready(&mut self) {
        self.wait_ready_by(|url| Client::connect(&[url]).unwrap());
    }

    /// As [`Cluster::wait_ready`], with authentication on: as the user root.
    pub fn wait_ready_as(&mut self, root_password: &str) {
        self.wait_ready_by(|url| Client::connect(&[url]).unwrap().as_user("root", root_password));
    }

    fn wait_ready_by(&mut self, client: impl Fn(String) -> Client) {
        let runtime = runtime();
        for member in &mut self.members {
            let client = client(member.client_url.clone());
            wait_for("a member with a leader", || {
                if let Some(status) = member.ended() {
                    panic!("{} ended with {status}:\n{}", member.name, member.stderr());
                }
                let status = runtime.block_on(client.status(StatusRequest {})).ok()?;
                (status.leader != 0).then_some(())
            });
        }
    }

    /// The members as `--initial-cluster` has them.
    pub fn peer_list(&self) -> String {
        let flag = |arg: &String| arg.strip_prefix("--initial-cluster=").map(str::to_owned);
        self.members[0].args.iter().find_map(flag).unwrap()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.endpoints()).unwrap()
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Writes a key, again and again until it is acknowledged; its revision.
pub async fn put_surely(client: &Client, key: &str, value: &str) -> i64 {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    let begun = Instant::now();
    loop {
        match client.put(request.clone()).await {
            Ok(answer) => return answer.header.unwrap().revision,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "put {key}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
