//! The updater's decisions: slot flags and which slot boots.
