//! Boots images in QEMU: one machine, a cluster, a cluster under faults.
