//! `/init` alone, for a first boot before the whole binary exists.
fn main() -> std::process::ExitCode {
    proa_boot::run(&[&proa_boot::PROGRAM])
}
