//! The binary's commands as processes with flags of any kind.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use super::etcd::{proa, quiet};

/// A member by its flags; killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(folder: &Path, name: &str, flags: &[String]) -> Self {
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let mut command = quiet(log);
        command.args(["etcd", "--name", name, "--data-dir"]).arg(folder.join(name)).args(flags);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `etcdctl` printed: its output when it succeeded, else its error.
pub fn etcdctl(endpoint: &str, flags: &[String], words: &[&str]) -> Result<String, String> {
    let output = Command::new(proa())
        .args(["etcdctl", "--endpoints", endpoint, "--command-timeout=3s"])
        .args(flags)
        .args(words)
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// `etcd` with just these words; its output goes to a file in `folder`.
pub fn spawn(folder: &Path, name: &str, words: &[String]) -> Process {
    let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    Process(quiet(log).arg("etcd").args(words).spawn().unwrap())
}
