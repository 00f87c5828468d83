//! The architecture as a test: which crate may import which, and what a pure crate
//! must not touch.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Crate folder, crate name, and the crates of ours that it may import. Those marked
/// pure take data, time and randomness as arguments.
#[rustfmt::skip]
const EDGES: &[(&str, &str, Kind, &[&str])] = &[
    ("src/base",         "proa-base",         Kind::Base, &[]),
    ("src/etcd/api",     "proa-etcd-api",     Kind::Pure, &[]),
    ("src/etcd/store",   "proa-etcd-store",   Kind::Pure, &["proa-base", "proa-etcd-api"]),
    ("src/etcd/replica", "proa-etcd-replica", Kind::Pure, &["proa-base"]),
    ("src/fleet/model",  "proa-fleet-model",  Kind::Pure, &["proa-base"]),
    ("src/update/model", "proa-update-model", Kind::Pure, &["proa-base"]),
    ("src/etcd/server",  "proa-etcd-server",  Kind::Io,   &["proa-base", "proa-etcd-api", "proa-etcd-client", "proa-etcd-replica", "proa-etcd-store"]),
    ("src/etcd/client",  "proa-etcd-client",  Kind::Io,   &["proa-base", "proa-etcd-api"]),
    ("src/fleet/daemon", "proa-fleet-daemon", Kind::Io,   &["proa-base", "proa-etcd-api", "proa-etcd-client", "proa-fleet-model"]),
    ("src/update/disk",   "proa-update-disk",   Kind::Io,   &["proa-update-model"]),
    ("src/update/engine", "proa-update-engine", Kind::Io,   &["proa-base", "proa-etcd-api", "proa-etcd-client", "proa-update-disk", "proa-update-model"]),
    ("src/update/server", "proa-update-server", Kind::Io,   &["proa-base", "proa-etcd-api", "proa-etcd-client", "proa-update-model"]),
    ("src/boot",         "proa-boot",         Kind::Io,   &["proa-base", "proa-update-disk", "proa-update-model"]),
    ("qemu",             "proa-qemu",         Kind::Io,   &[]),
    ("release",          "proa-release",      Kind::Io,   &["proa-update-model"]),
    ("applets",          "proa-applets",      Kind::Io,   &["proa-base", "proa-boot", "proa-etcd-api", "proa-etcd-client", "proa-etcd-server", "proa-fleet-daemon", "proa-fleet-model", "proa-update-disk", "proa-update-engine", "proa-update-model", "proa-update-server"]),
    ("tests/ports",      "proa-test-ports",   Kind::Io,   &[]),
    (".",                "proa",              Kind::Io,   &["proa-applets"]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Base,
    Pure,
    Io,
}

/// Crates that do I/O; a pure crate imports none of them.
const IO_CRATES: &[&str] = &["tokio", "hyper", "hyper-util", "tonic", "zbus", "rocksdb", "tracing", "libc"];

/// Paths that a pure crate's sources must not name. `clippy.toml` bans the same by
/// meaning; this catches a crate whose `clippy.toml` is missing.
const IO_PATHS: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "println!",
];

/// The longest a source file may be without a reason in its `//!`.
const MOST_LINES: usize = 500;

/// The names in one table of a manifest.
fn table(manifest: &str, name: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == format!("[{name}]");
        } else if inside && !line.trim().is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.insert(line[..end].to_owned());
        }
    }
    names
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn crates_import_only_what_the_design_allows() {
    for (dir, name, kind, allowed) in EDGES {
        let manifest = fs::read_to_string(Path::new(dir).join("Cargo.toml")).expect(dir);
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{dir} is not {name}");
        let imports = table(&manifest, "dependencies");
        let ours: BTreeSet<&str> =
            imports.iter().map(String::as_str).filter(|n| n.starts_with("proa-")).collect();
        for import in ours {
            assert!(allowed.contains(&import), "{name} must not import {import}");
        }
        if *kind == Kind::Pure {
            for banned in IO_CRATES {
                assert!(!imports.contains(*banned), "{name} is pure and must not import {banned}");
            }
            assert!(Path::new(dir).join("clippy.toml").exists(), "{dir}/clippy.toml is missing");
        }
    }
}

#[test]
fn every_crate_of_the_workspace_has_a_row() {
    let root = fs::read_to_string("Cargo.toml").expect("the workspace");
    let members = root.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    let members: BTreeSet<&str> = members.split(',').map(|m| m.trim().trim_matches('"')).collect();
    for member in members.into_iter().filter(|m| !m.is_empty()) {
        assert!(EDGES.iter().any(|(dir, ..)| *dir == member), "{member} has no row in tests/tidy.rs");
    }
}

#[test]
fn versions_are_set_only_at_the_root() {
    for (dir, name, ..) in EDGES.iter().filter(|(dir, ..)| *dir != ".") {
        let manifest = fs::read_to_string(Path::new(dir).join("Cargo.toml")).expect(dir);
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let lines = manifest.split(&format!("[{kind}]\n")).nth(1).unwrap_or("");
            for line in lines.lines().take_while(|line| !line.starts_with('[')) {
                let inherits = line.is_empty() || line.starts_with('#') || line.contains("workspace = true");
                assert!(inherits, "{name}: {line:?} must inherit from the workspace");
            }
        }
    }
}

#[test]
fn pure_crates_name_no_io() {
    for (dir, name, kind, _) in EDGES {
        if *kind != Kind::Pure {
            continue;
        }
        for path in sources(Path::new(dir)) {
            if path.ends_with("build.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            // Tests may print a failing seed, and a comment may speak of printing.
            let product = text.split("#[cfg(test)]").next().unwrap_or("");
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let product: String = product.lines().filter(is_code).collect();
            for banned in IO_PATHS.iter().filter(|_| !path.to_string_lossy().contains("tests")) {
                assert!(!product.contains(banned), "{name}: {} names {banned}", path.display());
            }
        }
    }
}

#[test]
fn files_stay_short() {
    let mut long = BTreeMap::new();
    for dir in ["src", "applets", "qemu", "tests"] {
        for path in sources(Path::new(dir)) {
            let text = fs::read_to_string(&path).expect("a source file");
            let lines = text.lines().count();
            if lines > MOST_LINES
                && !text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains("Long because"))
            {
                long.insert(path, lines);
            }
        }
    }
    assert!(long.is_empty(), "over {MOST_LINES} lines without a «Long because» in //!: {long:?}");
}

#[test]
fn nothing_is_left_undone_behind_a_command() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore")];
    for dir in ["src", "applets", "qemu", "tests"] {
        for path in sources(Path::new(dir)) {
            let text = fs::read_to_string(&path).expect("a source file");
            for mark in marks {
                assert!(!text.contains(mark), "{} holds {mark}", path.display());
            }
        }
    }
}
