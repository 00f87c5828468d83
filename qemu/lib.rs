//! Boots images in QEMU: one machine, a cluster, a cluster under faults.
//!
//! No root rights and no traces: the machines' network is a hub inside this process,
//! their disks are sparse copies in a folder of the run, and every QEMU ends when this
//! process does, however that happens.

pub mod accel;
pub mod cluster;
pub mod disk;
pub mod error;
pub mod fleet;
pub mod hub;
pub mod image;
pub mod machine;
pub mod port;
mod spawn;

pub use accel::Accel;
pub use cluster::{Cluster, command_line};
pub use error::Error;
pub use fleet::Fleet;
pub use image::Image;
pub use machine::{Console, Machine, Outside, Plan};
