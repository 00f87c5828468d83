//! One raft member without I/O: step(Input) -> Output.
