//! Checks that several tables use.

use crate::{duration, net::Network};

/// Any text.
///
/// # Errors
/// None.
pub fn any(_: &str) -> Result<(), String> {
    Ok(())
}

/// What means `true`. Source: Go, `strconv.ParseBool`.
pub const TRUE: &[&str] = &["true", "1", "t", "T", "TRUE", "True"];
const FALSE: &[&str] = &["false", "0", "f", "F", "FALSE", "False"];

/// `true` or `false`, in Go's spellings.
///
/// # Errors
/// What would be right.
pub fn boolean(value: &str) -> Result<(), String> {
    let is_known = TRUE.contains(&value) || FALSE.contains(&value);
    is_known.then_some(()).ok_or_else(|| "give true or false".into())
}

/// A whole number from 1 up.
///
/// # Errors
/// What would be right.
pub fn positive(value: &str) -> Result<(), String> {
    match value.parse::<u32>() {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err("give a whole number from 1 up".into()),
    }
}

/// A whole number from 0 up.
///
/// # Errors
/// What would be right.
pub fn number(value: &str) -> Result<(), String> {
    value.parse::<u64>().map(drop).map_err(|_| "give a whole number from 0 up".into())
}

/// A Go duration.
///
/// # Errors
/// What would be right.
pub fn duration(value: &str) -> Result<(), String> {
    duration::parse(value).map(drop).map_err(|error| error.to_string())
}

/// A path from the root.
///
/// # Errors
/// What would be right.
pub fn absolute(value: &str) -> Result<(), String> {
    value.starts_with('/').then_some(()).ok_or_else(|| "give an absolute path".into())
}

/// An IPv4 network, or nothing.
///
/// # Errors
/// What would be right.
pub fn network(value: &str) -> Result<(), String> {
    match value {
        "" => Ok(()),
        value => value.parse::<Network>().map(drop).map_err(|error| error.to_string()),
    }
}
