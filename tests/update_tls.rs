//! Updates by HTTPS: from an omahad with a certificate of a CA of one's own, from a
//! mirror, and not from anybody who shows another one.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod omahad;
mod pki;
mod update_support;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use etcd::Cluster;
use omahad::Omahad;
use pki::{Ca, Files};
use proa_update_model::slots::SlotFlags;
use update_support::{Machine, Publisher, Release, Server, WHOLE, Wish, proa, respond, system};

const MIB: u64 = 1 << 20;

struct World {
    folder: tempfile::TempDir,
    store: Cluster,
    publisher: Publisher,
    ca: Ca,
    /// Is asked by nobody here: each updater is told another server.
    nobody: Server,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&folder.path().join("keys"));
        let ca = Ca::new(folder.path(), "ca");
        let nobody = Server::start(|_, stream| respond(stream, "404 Not Found", "", b""));
        Self { folder, store: Cluster::start(1, &[]), publisher, ca, nobody }
    }

    fn omahad(&self, name: &str, files: &Files) -> Omahad {
        let pair = [files.certificate.as_path(), files.key.as_path()];
        Omahad::start_tls(self.folder.path(), name, &self.store, pair, &self.ca.path())
    }

    fn machine(&self, name: &str) -> Machine {
        Machine::new(&self.folder.path().join(name), 4, &self.publisher, &system(MIB, 1))
    }

    fn release(&self, version: &str, seed: u64) -> Release {
        self.publisher.release(&system(MIB, seed), None, &Wish { version, ..Wish::default() })
    }

    /// Adds the release that was made last, and offers it to all.
    fn publish(&self, omahad: &Omahad, version: &str, more: &[&str]) {
        let file = |name: &str| self.publisher.folder.join(name).display().to_string();
        let (payload, metadata) = (file(WHOLE), file(&format!("release-{version}")));
        let mut words = vec!["release", "add", &payload, "--metadata", &metadata];
        words.extend(more);
        omahad.done(&words);
        omahad.done(&["channel", "set", "stable", version]);
    }

    fn update(&self, machine: &Machine, omahad: &Omahad, release: &Release) {
        let server = format!("--server={}/v1/update/", omahad.machines);
        let ca = format!("--ca-file={}", self.ca.path().display());
        let mut engine = machine.start(&self.nobody, &[&server, &ca]);
        engine.wait_for("the update", |_| machine.is_updated());
        machine.assert_updated(release);
    }
}

#[test]
fn machines_update_by_https_from_omahad_and_from_a_mirror() {
    let world = World::new();
    let files = world.ca.sign("server", 1);
    let omahad = world.omahad("first", &files);
    let first = world.release("2.0.0", 2);
    // Two machines at a time would be one too many for a group's first release.
    omahad.done(&["group", "add", "stable", "channel=stable", "safe-mode=false"]);
    world.publish(&omahad, "2.0.0", &[]);
    world.update(&world.machine("one"), &omahad, &first);

    // The payload is elsewhere, by HTTPS as well.
    let mirror = world.omahad("mirror", &world.ca.sign("mirror", 2));
    let second = world.release("3.0.0", 3);
    fs::copy(world.publisher.folder.join(WHOLE), mirror.packages.join("whole")).unwrap();
    fs::remove_file(omahad.packages.join("whole")).unwrap();
    let codebase = format!("{}/packages/", mirror.machines);
    world.publish(&omahad, "3.0.0", &["--codebase", &codebase]);
    assert!(!omahad.packages.join("whole").exists(), "it is not sent there");
    world.update(&world.machine("two"), &omahad, &second);
}

#[test]
fn who_shows_another_certificate_is_not_believed() {
    let world = World::new();
    let other = Ca::new(world.folder.path(), "other");
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    let ours = world.ca.path();
    let nowhere = world.folder.path().join("nowhere.pem");
    let cannot_read = format!("cannot speak TLS: cannot read {}: No such file", nowhere.display());
    #[rustfmt::skip]
    let cases: [(&str, Files, &Path, &str); 4] = [
        ("another-ca", other.sign("server", 1),                             &ours, "invalid peer certificate: UnknownIssuer"),
        ("expired",    world.ca.sign_until("expired", 2, yesterday),        &ours, "invalid peer certificate: certificate expired: "),
        ("other-host", world.ca.sign_hosts(&["update.example"], "other", 3), &ours, "invalid peer certificate: certificate not valid for name \"127.0.0.1\""),
        ("no-ca",      world.ca.sign("good", 4),                            &nowhere, &cannot_read),
    ];
    for (name, files, ca, why) in cases {
        let omahad = world.omahad(name, &files);
        let machine = world.machine(&format!("machine-{name}"));
        let server = format!("--server={}/v1/update/", omahad.machines);
        let ca_file = format!("--ca-file={}", ca.display());
        let mut engine = machine.start(&world.nobody, &[&server, &ca_file]);
        engine.wait_for(name, |engine| engine.log().contains(why));
        let log = engine.log();
        let line = log.lines().find(|line| line.contains(why)).unwrap();
        assert!(
            name == "no-ca" || line.contains(&format!("cannot reach {}/v1/update/: ", omahad.machines)),
            "{line}"
        );
        assert_eq!(machine.flags(), [SlotFlags::new(1, 0, true), SlotFlags::new(0, 0, false)], "{name}");
        // omahactl says the same.
        if name != "no-ca" {
            let error = omahad.ctl(omahad::PROA_APP, &["group", "list"]).unwrap_err();
            assert!(error.contains(why) && error.lines().count() == 1, "{name}: {error}");
        }
    }
}

#[test]
fn omahad_names_what_is_wrong_with_its_certificate() {
    let world = World::new();
    let files = world.ca.sign("server", 1);
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let cert = flag("cert-file", &files.certificate);
    let nowhere = world.folder.path().join("nowhere");
    let key_of_other = world.ca.sign("another", 2).key;
    let cannot_read = format!("cannot speak TLS: cannot read {}", nowhere.display());
    let cases = [
        (vec![cert.clone()], "cert-file and key-file need each other".to_owned()),
        (vec![flag("key-file", &files.key)], "cert-file and key-file need each other".to_owned()),
        (vec![cert.clone(), flag("key-file", &nowhere)], cannot_read),
        (vec![cert.clone(), flag("key-file", &key_of_other)], key_of_other.display().to_string()),
    ];
    for (flags, why) in cases {
        let output = Command::new("timeout")
            .args(["60"])
            .arg(proa())
            .args(["omahad", "--listen=127.0.0.1:0", "--api-listen=127.0.0.1:0"])
            .arg(flag("packages", &world.folder.path().join("p")))
            .args(&flags)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
        assert!(error.contains(&why) && error.lines().count() == 1, "{flags:?}: {error}");
    }
}

#[test]
fn omahactl_trusts_the_systems_cas_when_it_is_told_no_other() {
    let world = World::new();
    let omahad = world.omahad("server", &world.ca.sign("server", 1));
    let run = |system: &Path| {
        Command::new(proa())
            .args(["omahactl", "--endpoint", &omahad.api, "group", "list"])
            .env_clear()
            .env("SSL_CERT_FILE", system)
            .output()
            .unwrap()
    };
    assert!(run(&world.ca.path()).status.success());
    let other = Ca::new(world.folder.path(), "other");
    let refused = run(&other.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("UnknownIssuer"), "{refused:?}");
}
