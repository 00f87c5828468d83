//! Folds functions of the binary whose machine code is the same into one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        // Templates of C++ and generics of Rust leave many twins. Nothing here
        // tells functions apart by their address.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
