//! `proa-release`: makes payloads and signs releases, on the machine that publishes.

fn main() {}
