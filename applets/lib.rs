//! Every command of the binary: parse, call, print.
