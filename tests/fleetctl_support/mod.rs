//! A store and machines on this host, for tests of fleetd and fleetctl.
//!
//! The far end of fleetd is real: a store of the same binary, and, where a test
//! asks for it, a systemd of its own in namespaces of its own.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used)]

use proa_test_ports::free_port;
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The binary under test.
pub const PROA: &str = env!("CARGO_BIN_EXE_proa");
/// Under emulation and load everything takes its time; a failure may.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for a condition, and says what it waited for when that does not come.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with its owner.
pub struct Process(Child);

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has ended by itself, and how.
    pub fn wait(&mut self) -> i32 {
        self.0.wait().unwrap().code().unwrap_or(-1)
    }

    /// Asks it to end.
    pub fn terminate(&mut self) -> i32 {
        let status = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a process with its output in a file.
pub fn spawn(command: &mut Command, log: &Path) -> Process {
    let file = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    // A panicking test must not leave anything behind.
    Process(command.process_group(0).spawn().unwrap())
}

/// One member of the store.
pub struct Store {
    dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Store {
    /// Starts a store of one member below `dir`.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("etcd");
        fs::create_dir_all(&dir).unwrap();
        let mut store = Self { dir, client_port: free_port(), peer_port: free_port(), process: None };
        store.up();
        store
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Kills it.
    pub fn down(&mut self) {
        self.process = None;
    }

    /// Starts it on the data that it has.
    pub fn up(&mut self) {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new(PROA);
        command.arg("etcd").args(["--name", "m1"]).arg("--data-dir").arg(self.dir.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("m1={peer}")]);
        self.process = Some(spawn(&mut command, &self.dir.join("log")));
    }
}

/// One fleetd on this host, with a socket of its own.
pub struct Machine {
    /// Its folder.
    pub dir: PathBuf,
    /// Its id.
    pub id: String,
    /// The TCP address of its API.
    pub api: String,
    process: Process,
}

impl Machine {
    /// The flags of the `number`th machine, except where systemd is.
    fn flags(dir: &Path, number: u8, store: &Store, port: u16) -> Vec<String> {
        vec![
            format!("--machine-id={}", machine_id(number)),
            format!("--public-ip=10.77.0.{number}"),
            format!("--metadata=number={number}"),
            format!("--socket={}", dir.join("sock").display()),
            format!("--listen=127.0.0.1:{port}"),
            format!("--advertise=127.0.0.1:{port}"),
            format!("--etcd-servers={}", store.url()),
            // On a machine that runs other tests beside this one a write may take its time.
            "--etcd-request-timeout=20".to_owned(),
            "--agent-ttl=3s".to_owned(),
            "--engine-reconcile-interval=0.5".to_owned(),
            "--systemd-user".to_owned(),
        ]
    }

    /// A machine whose systemd does not run.
    pub fn without_systemd(root: &Path, number: u8, store: &Store) -> Self {
        let dir = root.join(format!("machine{number}"));
        fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        let mut command = Command::new(PROA);
        command.arg("fleetd").args(Self::flags(&dir, number, store, port));
        command.arg(format!("--units-directory={}", dir.join("units").display()));
        // A systemd that this host may run is none of this test's business.
        command.env("XDG_RUNTIME_DIR", &dir);
        let process = spawn(&mut command, &dir.join("log"));
        Self { id: machine_id(number), api: format!("127.0.0.1:{port}"), dir, process }
    }

    /// A machine with a systemd of its own: process, mount and control group namespaces, and an
    /// empty `/run`. Needs root.
    pub fn with_systemd(root: &Path, number: u8, store: &Store) -> Self {
        let dir = root.join(format!("machine{number}"));
        fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        let script = include_str!("machine.sh");
        let flags = Self::flags(&dir, number, store, port).join(" ");
        let mut command = Command::new("sh");
        command.args(["-c", script, "machine"]).arg(&dir).arg(PROA).arg(flags);
        let process = spawn(&mut command, &dir.join("log"));
        Self { id: machine_id(number), api: format!("127.0.0.1:{port}"), dir, process }
    }

    /// Runs fleetctl against this machine.
    pub fn fleetctl(&self, args: &[&str]) -> Output {
        let endpoint = format!("--endpoint=unix://{}", self.dir.join("sock").display());
        fleetctl_at(&endpoint, args)
    }

    /// Runs fleetctl, and fails with everything it said when it fails.
    pub fn fleetctl_ok(&self, args: &[&str]) -> String {
        let output = self.fleetctl(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "fleetctl {args:?}: {text}{complaint}\n{}", self.log());
        text
    }

    /// What fleetd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Ends the whole machine at once, as a power cut does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends fleetd alone with a signal, such as `-KILL`; a machine with systemd starts it again.
    pub fn signal_fleetd(&self, signal: &str) {
        let file = self.dir.join("signal");
        fs::write(self.dir.join("signal.new"), signal).unwrap();
        fs::rename(self.dir.join("signal.new"), &file).unwrap();
        wait_until("fleetd has ended", || !file.exists());
    }

    /// Asks fleetd to end; its exit status.
    pub fn terminate(&mut self) -> i32 {
        self.process.terminate()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill();
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
            remove_group(&Path::new(root).join(format!("proa-test-{}", self.process.id())));
        }
    }
}

/// Removes a control group and those in it; processes in them have just been killed.
fn remove_group(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&entry.path());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(group).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}

/// 32 digits that begin with the number.
pub fn machine_id(number: u8) -> String {
    format!("{number:08x}{}", "0123456789abcdef01234567")
}

/// Runs fleetctl with an endpoint flag.
pub fn fleetctl_at(endpoint: &str, args: &[&str]) -> Output {
    Command::new(PROA).arg("fleetctl").arg(endpoint).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a command complained about.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
