//! Turns `proto/` into Rust messages, without a `protoc` program.

use std::error::Error;

/// Every file with messages; what they import is found by itself.
const FILES: [&str; 6] = [
    "etcdserverpb/cluster.proto",
    "etcdserverpb/kv.proto",
    "etcdserverpb/lease.proto",
    "etcdserverpb/maintenance.proto",
    "etcdserverpb/watch.proto",
    "proa/store.proto",
];

#[allow(clippy::disallowed_macros, reason = "cargo reads a build script's output")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        // Keys and values are slices of the buffer they arrived in.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
