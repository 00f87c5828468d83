//! The binary as a file: its links, its linking, its dispatch.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output},
};

const PROA: &str = env!("CARGO_BIN_EXE_proa");

fn run_as(name: &str, args: &[&str]) -> Output {
    Command::new(PROA).arg0(name).args(args).output().expect("the binary starts")
}

#[test]
fn symlinks_txt_is_the_applet_table() {
    let text = fs::read_to_string("symlinks.txt").expect("symlinks.txt is there");
    let listed: Vec<&str> = text.lines().collect();
    let table: BTreeSet<&str> = proa_applets::APPLETS.iter().map(|applet| applet.link).collect();
    assert!(listed.is_sorted(), "symlinks.txt is not sorted");
    assert_eq!(listed, table.into_iter().collect::<Vec<_>>());
    for applet in proa_applets::APPLETS {
        assert_eq!(Path::new(applet.link).file_name().and_then(|n| n.to_str()), Some(applet.name));
    }
}

#[test]
fn install_links_makes_each_link_and_may_run_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().to_str().expect("a plain path");
    for _ in 0..2 {
        assert!(run_as("proa", &["--install-links", root]).status.success());
    }
    for applet in proa_applets::APPLETS {
        let link = dir.path().join(applet.link.trim_start_matches('/'));
        assert_eq!(fs::read_link(link).expect("a link"), Path::new("/usr/bin/proa"));
    }
}

#[test]
fn an_unknown_name_gets_usage_and_127() {
    for output in [run_as("etcdx", &[]), run_as("proa", &["nonsense"]), run_as("proa", &[])] {
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: proa COMMAND"));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn both_ways_to_call_a_command_are_one() {
    let by_link = run_as("/usr/bin/fleetctl", &["version"]);
    let by_word = run_as("proa", &["fleetctl", "version"]);
    assert!(by_link.status.success());
    assert_eq!(by_link.stdout, by_word.stdout);
    assert!(!by_link.stdout.is_empty());
}

/// A dynamic section that needs a library, or an interpreter, would not start in
/// the initramfs; the linker makes such a file without complaint.
#[test]
fn the_binary_is_fully_static() {
    let readelf = |flag: &str| {
        let output = Command::new("readelf").args([flag, PROA]).output().expect("readelf of binutils");
        assert!(output.status.success(), "readelf {flag} failed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!readelf("-d").contains("NEEDED"));
    assert!(!readelf("-l").contains("INTERP"));
}
