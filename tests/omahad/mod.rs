//! The update server as a process, for the tests that use it.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::etcd::{Cluster, free_url, proa, quiet, wait_for};

/// The application that Proa's machines ask for.
pub const PROA_APP: &str = "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}";

/// An omahad; killed when dropped.
pub struct Omahad {
    /// Where machines ask, `http://HOST:PORT`.
    pub machines: String,
    /// Where omahactl asks.
    pub api: String,
    /// The folder of its packages.
    pub packages: PathBuf,
    /// What omahactl is told beside where that is.
    flags: Vec<String>,
    child: Child,
}

impl Omahad {
    pub fn start(folder: &Path, name: &str, cluster: &Cluster) -> Self {
        Self::start_with(folder, name, cluster, &[], &[])
    }

    /// One that speaks TLS with this certificate, and an omahactl that trusts this CA.
    pub fn start_tls(
        folder: &Path,
        name: &str,
        cluster: &Cluster,
        [certificate, key]: [&Path; 2],
        ca: &Path,
    ) -> Self {
        let (certificate, key, ca) = (certificate.display(), key.display(), ca.display());
        let flags = [format!("--cert-file={certificate}"), format!("--key-file={key}")];
        let mut omahad = Self::start_with(folder, name, cluster, &flags, &[format!("--cacert={ca}")]);
        for url in [&mut omahad.machines, &mut omahad.api] {
            *url = url.replace("http://", "https://");
        }
        omahad
    }

    fn start_with(folder: &Path, name: &str, cluster: &Cluster, own: &[String], flags: &[String]) -> Self {
        let (machines, api) = (free_url(), free_url());
        let packages = folder.join(name);
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let bare = |url: &str| url.trim_start_matches("http://").to_owned();
        let child = quiet(log)
            .args(["omahad", "--listen", &bare(&machines), "--api-listen", &bare(&api), "--packages"])
            .arg(&packages)
            .args(own)
            .args(["--endpoints", &cluster.endpoints().join(",")])
            .spawn()
            .unwrap();
        wait_for("omahad to listen", || TcpStream::connect(bare(&machines)).ok());
        wait_for("omahad's API", || TcpStream::connect(bare(&api)).ok());
        Self { machines, api, packages, flags: flags.to_vec(), child }
    }

    /// What omahactl printed, or the one line of its error.
    pub fn ctl(&self, app: &str, words: &[&str]) -> Result<String, String> {
        let output = Command::new(proa())
            .args(["omahactl", "--endpoint", &self.api, "--app", app])
            .args(&self.flags)
            .args(words)
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    pub fn done(&self, words: &[&str]) -> String {
        self.ctl(PROA_APP, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The most memory that the process ever had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Omahad {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
