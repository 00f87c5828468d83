//! Watching: who wants which events, and how each gets every one of them.

pub mod answer;
pub mod groups;
pub mod hub;

#[cfg(test)]
mod tests;
