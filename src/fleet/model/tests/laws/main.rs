//! The laws that the model's documentation states, over small worlds and random
//! ones.
#![allow(clippy::unwrap_used)]

mod agent;
mod cluster;
mod drain;
mod engine;
mod files;
mod store;
mod tables;
