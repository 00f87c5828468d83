//! Makes the released binary smaller at its last link.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        // Templates of C++ and generics of Rust leave many twins. Nothing here
        // tells functions apart by their address.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        // A static binary relocates itself: 32 000 addresses, as bits instead
        // of as 24 bytes each. glibc 2.36 and newer read that at their start.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
