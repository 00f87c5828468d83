//! Makes the C++ library link statically.
//!
//! RocksDB's build asks for `dylib=stdc++`. With `crt-static` that links without
//! complaint and gives a binary that crashes before main. A folder that holds
//! nothing but the static archive leaves the linker no other choice.

use std::{env, error::Error, fs, os::unix::fs::symlink, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
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
