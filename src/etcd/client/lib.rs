//! The client of the store that every other part uses.
