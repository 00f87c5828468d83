//! The v2 API's words: errors, answers as JSON, forms, paths.

pub mod error;
pub mod form;
pub mod json;
pub mod path;
pub mod request;
pub mod rights;

pub use error::{V2Code, V2Error};
