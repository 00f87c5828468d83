//! The Omaha server: channels, groups, rollouts and packages.
