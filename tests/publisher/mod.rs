//! Who publishes releases, on this host: a store, an update server on it, and the
//! tools that make releases of the image in the build folder.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::etcd::Cluster;
use super::omahad::{Omahad, PROA_APP};

/// Store and server; both end with this.
pub struct Publisher {
    omahad: Omahad,
    _store: Cluster,
    dir: PathBuf,
}

impl Publisher {
    /// Starts both; packages and releases are kept in `dir`.
    pub fn start(dir: &Path) -> Self {
        let store = Cluster::start(1, &[]);
        let omahad = Omahad::start(dir, "packages", &store);
        // Machines of a group that nobody made are strangers to the server.
        omahad.done(&["group", "add", "stable", "channel=stable"]);
        Self { omahad, _store: store, dir: dir.to_owned() }
    }

    /// The URL by which a machine of QEMU's user network asks.
    pub fn url(&self) -> String {
        let (_, port) = self.omahad.machines.rsplit_once(':').expect("a URL with a port");
        format!("http://10.0.2.2:{port}/v1/update/")
    }

    /// Runs `omahactl`; what it printed.
    pub fn omahactl(&self, words: &[&str]) -> String {
        self.omahad.done(words)
    }

    /// Makes a release of the image with another version and perhaps something wrong in
    /// it, and points the channel `stable` at it.
    pub fn publish(&self, image: &Path, version: &str, hook: Option<&str>) {
        self.make(image, version, hook);
        self.offer(version);
    }

    /// Points the channel `stable` at a release.
    pub fn offer(&self, version: &str) {
        self.omahactl(&["channel", "set", "stable", version]);
    }

    /// Makes a release as [`Publisher::publish`] does, and offers it to nobody yet: that
    /// takes a core for some seconds, which machines that are held to a time may miss.
    pub fn make(&self, image: &Path, version: &str, hook: Option<&str>) {
        self.make_from(image, version, hook, None);
    }

    /// Makes a release as [`Publisher::make`] does, and the difference to the one that
    /// was made before as `from`.
    pub fn make_from(&self, image: &Path, version: &str, hook: Option<&str>, from: Option<&str>) {
        let folder = self.dir.join(version);
        fs::create_dir_all(&folder).unwrap();
        let slot = folder.join("slot");
        let mut variant = Command::new("buildroot/variant.sh");
        variant.arg(version).arg(&slot).env("PROA_ROOT", image.join("root"));
        variant.args(hook.map(|name| format!("tests/releases/{name}.sh")));
        run(&mut variant);

        let keys = image.join("keys");
        let release = folder.join("release.json");
        let mut metadata = tool();
        metadata.args(["metadata", "--app", PROA_APP, "--version", version, "--minimum", "0"]);
        metadata.args(["--expires-days", "1", "--slot"]).arg(&slot);
        metadata.arg("--key").arg(keys.join("release.pk8")).arg("-o").arg(&release);
        let mut payloads = Vec::new();
        for old in std::iter::once(None).chain(from.map(Some)) {
            let name = old.map_or("full".to_owned(), |old| format!("from-{old}"));
            let payload = folder.join(format!("{name}-{version}.payload"));
            let mut make = tool();
            make.args(["payload", "--level", "3", "--new"]).arg(&slot);
            make.arg("--rsa-key").arg(keys.join("payload-key.pem")).arg("-o").arg(&payload);
            metadata.arg("--payload").arg(&payload);
            if let Some(old) = old {
                make.arg("--old").arg(self.dir.join(old).join("slot"));
                metadata.arg("--from").arg(self.dir.join(old).join("release.json"));
            }
            run(&mut make);
            payloads.push(payload.display().to_string());
        }
        run(&mut metadata);
        let mut words = vec!["release", "add"];
        words.extend(payloads.iter().map(String::as_str));
        let release = release.display().to_string();
        words.extend(["--metadata", &release]);
        self.omahactl(&words);
    }

    /// Takes the whole payload of a release away from the server: what still updates to
    /// it, takes the difference.
    pub fn lose_whole(&self, version: &str) {
        fs::remove_file(self.omahad.packages.join(format!("full-{version}.payload"))).unwrap();
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
