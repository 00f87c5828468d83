//! A message bus of a test's own, and the clients of others on it.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::update_support::{Engine, PATIENCE, proa};

/// The updater's name, object and interface, as the original has them.
pub const NAME: &str = "com.coreos.update1";
pub const PATH: &str = "/com/coreos/update1";
pub const INTERFACE: &str = "com.coreos.update1.Manager";

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>"#;

/// A dbus-daemon; killed when dropped.
pub struct Bus {
    pub socket: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl Bus {
    pub fn start(folder: &Path) -> Self {
        let mut bus = Self { socket: folder.join("bus"), folder: folder.to_owned(), child: None };
        fs::write(folder.join("bus.conf"), CONFIG.replace("SOCKET", &bus.socket.display().to_string()))
            .unwrap();
        bus.restart();
        bus
    }

    pub fn restart(&mut self) {
        self.stop();
        let child = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg(format!("--config-file={}", self.folder.join("bus.conf").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon, of the package of that name");
        self.child = Some(child);
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            assert!(begun.elapsed() < PATIENCE, "dbus-daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // A killed one leaves it behind; where it is missing, that is as well.
        let _ = fs::remove_file(&self.socket);
    }

    /// As the updater is told of it.
    pub fn flag(&self) -> String {
        format!("--bus={}", self.socket.display())
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// What systemd's client prints, or its error.
    pub fn busctl(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new("busctl")
            .arg(format!("--address={}", self.address()))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("busctl, of the package systemd");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Calls one of the updater's methods.
    pub fn call(&self, method: &str) -> Result<String, String> {
        self.busctl(&["call", NAME, PATH, INTERFACE, method])
    }

    /// Until the updater answers there and takes orders.
    pub fn wait_for_name(&self, engine: &mut Engine) {
        engine.wait_for("the updater on the bus", |_| {
            let reset = self.call("ResetStatus");
            reset.is_ok()
        });
    }

    /// What `gdbus` sees of the updater's signals.
    pub fn monitor(&self) -> Monitor {
        let log = self.folder.join("signals");
        let child = Command::new("gdbus")
            .args(["monitor", "--address", &self.address(), "--dest", NAME])
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect("gdbus, of the package libglib2.0-bin");
        let monitor = Monitor { child, log };
        let begun = Instant::now();
        while !monitor.seen().contains("is owned by") {
            assert!(begun.elapsed() < PATIENCE, "gdbus does not watch");
            std::thread::sleep(Duration::from_millis(10));
        }
        monitor
    }

    /// What a command of ours shows on a terminal.
    pub fn on_terminal(&self, command: &str) -> String {
        let output = Command::new("script")
            .args(["-qec", &format!("{} {command}", proa().display()), "/dev/null"])
            .env("UPDATE_ENGINE_BUS", &self.socket)
            .stdin(Stdio::null())
            .output()
            .expect("script, of the package bsdutils");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A `gdbus monitor`; killed when dropped.
pub struct Monitor {
    child: Child,
    log: PathBuf,
}

impl Monitor {
    pub fn seen(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `update_engine_client` succeeded, and what it printed here and there.
pub fn client(bus: &Bus, words: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(proa())
        .arg("update_engine_client")
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("UPDATE_ENGINE_BUS", &bus.socket)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_ne!(status.code(), Some(124), "{words:?} never ends");
    (status.success(), text(stdout), text(stderr))
}
