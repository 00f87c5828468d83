//! Makes the released binary smaller at its last link.

use std::{env, fs, path::Path};

/// What only unwinding reads. The released binary ends at a panic and at a C++
/// exception (RocksDB throws for what cannot be, and for an options file that
/// is damaged), so nothing is left that would walk the stack.
const NO_UNWINDING: &str =
    "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table*) } } INSERT AFTER .comment;\n";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        // Templates of C++ and generics of Rust leave many twins. Nothing here
        // tells functions apart by their address.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        // A static binary relocates itself: 32 000 addresses, as bits instead
        // of as 24 bytes each. glibc 2.36 and newer read that at their start.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        let folder = env::var("OUT_DIR").expect("cargo names the folder");
        let script = Path::new(&folder).join("no-unwinding.ld");
        fs::write(&script, NO_UNWINDING).expect("the folder can be written to");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
