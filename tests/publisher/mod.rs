//! Who publishes releases, on this host: a store, an update server on it, and the
//! tools that make releases of the image in the build folder.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long servers may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The application that Proa's machines ask for.
const APP: &str = "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}";

/// Store and server; both end with this.
pub struct Publisher {
    proa: PathBuf,
    dir: PathBuf,
    port: u16,
    api_port: u16,
    children: Vec<Child>,
}

/// Ports of the loopback address that nobody listens on, below those that the
/// system hands out itself.
fn free_ports<const N: usize>() -> [u16; N] {
    let first = 20_000 + (std::process::id() % 11_000) as u16;
    let mut ports = (first..32_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    std::array::from_fn(|_| ports.next().expect("a free port"))
}

impl Publisher {
    /// Starts both with their files in `dir`.
    pub fn start(proa: &Path, dir: &Path) -> Self {
        let [port, api_port, client, peer] = free_ports();
        let mut publisher =
            Self { proa: proa.to_owned(), dir: dir.to_owned(), port, api_port, children: Vec::new() };
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        publisher.spawn(
            "publisher-etcd",
            &[
                "etcd".into(),
                format!("--data-dir={}", dir.join("publisher-store").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        );
        publisher.spawn(
            "publisher-omahad",
            &[
                "omahad".into(),
                format!("--listen=127.0.0.1:{port}"),
                format!("--api-listen=127.0.0.1:{api_port}"),
                format!("--packages={}", dir.join("packages").display()),
                format!("--endpoints={client}"),
            ],
        );
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = publisher.omahactl(&["group", "list"]) {
            assert!(Instant::now() < deadline, "the update server does not answer: {error}");
            thread::sleep(Duration::from_millis(100));
        }
        // Machines of a group that nobody made are strangers to the server.
        publisher.omahactl(&["group", "add", "stable", "channel=stable"]).unwrap();
        publisher
    }

    fn spawn(&mut self, name: &str, words: &[String]) {
        let log = fs::File::create(self.dir.join(format!("{name}.log"))).unwrap();
        let child = Command::new(&self.proa)
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.children.push(child.unwrap());
    }

    /// The URL by which a machine of QEMU's user network asks.
    pub fn url(&self) -> String {
        format!("http://10.0.2.2:{}/v1/update/", self.port)
    }

    /// Runs `omahactl`; what it printed.
    pub fn omahactl(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.proa)
            .arg("omahactl")
            .arg(format!("--endpoint=http://127.0.0.1:{}", self.api_port))
            .args(words)
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Makes a release of the image with another version and perhaps something wrong in
    /// it, publishes it and points the channel `stable` at it.
    pub fn publish(&self, image: &Path, version: &str, hook: Option<&str>) {
        let folder = self.dir.join(version);
        fs::create_dir_all(&folder).unwrap();
        let slot = folder.join("slot");
        let mut variant = Command::new("buildroot/variant.sh");
        variant.arg(version).arg(&slot).env("PROA_ROOT", image.join("root"));
        variant.args(hook.map(|name| format!("tests/releases/{name}.sh")));
        run(&mut variant);

        let keys = image.join("keys");
        let payload = folder.join(format!("full-{version}.payload"));
        let release = folder.join("release.json");
        run(tool()
            .args(["payload", "--level", "3", "--new"])
            .arg(&slot)
            .arg("--rsa-key")
            .arg(keys.join("payload-key.pem"))
            .arg("-o")
            .arg(&payload));
        run(tool()
            .args(["metadata", "--app", APP, "--version", version, "--minimum", "0", "--expires-days", "1"])
            .arg("--slot")
            .arg(&slot)
            .arg("--key")
            .arg(keys.join("release.pk8"))
            .arg("--payload")
            .arg(&payload)
            .arg("-o")
            .arg(&release));
        let text = |path: &Path| path.display().to_string();
        self.omahactl(&["release", "add", &text(&payload), "--metadata", &text(&release)]).unwrap();
        self.omahactl(&["channel", "set", "stable", version]).unwrap();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The tool beside the released binary.
fn tool() -> Command {
    let path = env::var("PROA_RELEASE_TOOL")
        .unwrap_or_else(|_| "target/x86_64-unknown-linux-gnu/release/proa-release".into());
    Command::new(path)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
