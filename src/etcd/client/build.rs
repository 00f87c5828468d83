//! Generates the service clients over the api crate's message types.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../api/proto");
    let files = ["kv", "watch", "lease", "cluster", "maintenance", "auth"]
        .map(|name| format!("etcdserverpb/{name}.proto"));
    let descriptors = protox::compile(files, ["../api/proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(true)
        .build_server(false)
        .extern_path(".etcdserverpb", "::proa_etcd_api::etcdserverpb")
        .extern_path(".mvccpb", "::proa_etcd_api::mvccpb")
        .extern_path(".authpb", "::proa_etcd_api::authpb")
        .compile_fds(descriptors)?;
    Ok(())
}
