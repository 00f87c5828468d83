//! The updater: poll, download, write and verify the passive slot, decide whether a boot was good,
//! and reboot when the cluster can bear it.
