//! Generates the gRPC services over the api crate's message types, and makes the
//! C++ library link statically.

use std::{env, error::Error, fs, os::unix::fs::symlink, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    link_cpp_statically()?;
    generate_services()
}

/// RocksDB's build asks for `dylib=stdc++`. With `crt-static` that links without
/// complaint and gives a binary that crashes before main. A folder that holds
/// nothing but the static archive leaves the linker no other choice, here and in
/// every crate above.
fn link_cpp_statically() -> Result<(), Box<dyn Error>> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
    let output = Command::new(&compiler).arg("-print-file-name=libstdc++.a").output()?;
    let archive = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    if !archive.is_absolute() {
        return Err(format!("{compiler} has no libstdc++.a: install the package g++").into());
    }
    let dir = PathBuf::from(env::var("OUT_DIR")?).join("static");
    fs::create_dir_all(&dir)?;
    let link = dir.join("libstdc++.a");
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(archive, link)?;
    println!("cargo:rustc-link-search=native={}", dir.display());
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

fn generate_services() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../api/proto");
    let files = [
        "etcdserverpb/kv.proto",
        "etcdserverpb/watch.proto",
        "etcdserverpb/lease.proto",
        "etcdserverpb/cluster.proto",
        "etcdserverpb/maintenance.proto",
        "etcdserverpb/auth.proto",
        "v3electionpb/election.proto",
        "v3lockpb/lock.proto",
    ];
    let descriptors = protox::compile(files, ["../api/proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .build_server(true)
        // Answers of a watch hold events that are encoded already.
        .extern_path(".etcdserverpb.WatchResponse", "crate::watch::answer::Answer")
        .extern_path(".etcdserverpb", "::proa_etcd_api::etcdserverpb")
        .extern_path(".mvccpb", "::proa_etcd_api::mvccpb")
        .extern_path(".v3electionpb", "::proa_etcd_api::v3electionpb")
        .extern_path(".v3lockpb", "::proa_etcd_api::v3lockpb")
        .extern_path(".authpb", "::proa_etcd_api::authpb")
        .compile_fds(descriptors)?;
    // No part of the store's API: its messages are nobody else's.
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .build_server(true)
        .compile_fds(protox::compile(["health.proto"], ["proto"])?)?;
    Ok(())
}
