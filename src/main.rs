//! The one binary: dispatch by argv[0].

fn main() {}
