//! From JSON to the wire.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Deserializer, Map, Value};

use super::BadJson;
use crate::descriptor::{Field, Kind, Message};

/// Go's decoders differ in what padding they want: all of it is taken.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Longest part of a wrong value that is repeated in an error.
const MAX_SHOWN_CHARS: usize = 80;

/// The first JSON value of a request body. Nothing at all is an empty message,
/// and what follows the value is not looked at, both as etcd's gateway has it.
///
/// # Errors
/// [`BadJson::Syntax`], also for more than 128 levels.
pub fn parse(text: &[u8]) -> Result<Value, BadJson> {
    match Deserializer::from_slice(text).into_iter().next() {
        None => Ok(Value::Object(Map::new())),
        Some(value) => value.map_err(|error| BadJson::Syntax(error.to_string())),
    }
}

/// The wire form of a message given as JSON.
///
/// Fields go by either of their names. Unknown ones are skipped, as a newer
/// client's must be; `null` is the same as nothing.
///
/// # Errors
/// See [`BadJson`]; the text names the field.
pub fn to_wire(message: &'static Message, json: &Value) -> Result<Vec<u8>, BadJson> {
    let mut out = Vec::new();
    write_message(message, json, &mut out)?;
    Ok(out)
}

fn write_message(message: &'static Message, json: &Value, out: &mut Vec<u8>) -> Result<(), BadJson> {
    let Value::Object(given) = json else {
        return Err(BadJson::NotAnObject { message: message.name, found: shown(json) });
    };
    let mut choices = Vec::new();
    // In the tables' order, so that equal messages are equal on the wire.
    for field in message.fields {
        let value = given.get(field.name).or_else(|| given.get(field.camel));
        let Some(value) = value.filter(|value| !value.is_null()) else { continue };
        if let Some(choice) = field.oneof {
            if choices.contains(&choice) {
                return Err(BadJson::SecondChoice { message: message.name, field: field.name });
            }
            choices.push(choice);
        }
        match value {
            Value::Array(values) if field.repeated => {
                values.iter().try_for_each(|value| write_field(field, value, out))?;
            }
            value if field.repeated => return Err(wrong(field, value)),
            value => write_field(field, value, out)?,
        }
    }
    Ok(())
}

fn write_field(field: &'static Field, value: &Value, out: &mut Vec<u8>) -> Result<(), BadJson> {
    let refuse = || wrong(field, value);
    match field.kind {
        Kind::Bool => varint(field, value.as_bool().ok_or_else(refuse)?.into(), out),
        Kind::Int32 => {
            let number = signed(value).and_then(|number| i32::try_from(number).ok()).ok_or_else(refuse)?;
            varint(field, i64::from(number).cast_unsigned(), out);
        }
        Kind::Int64 => varint(field, signed(value).ok_or_else(refuse)?.cast_unsigned(), out),
        Kind::Uint32 => {
            let number = unsigned(value).and_then(|number| u32::try_from(number).ok()).ok_or_else(refuse)?;
            varint(field, number.into(), out);
        }
        Kind::Uint64 => varint(field, unsigned(value).ok_or_else(refuse)?, out),
        Kind::Enum(values) => {
            let number = match value {
                Value::String(name) => {
                    values.iter().find(|(_, known)| known == name).map(|(number, _)| *number)
                }
                // A number need not have a name: the service says what it thinks of it.
                other => signed(other).and_then(|number| i32::try_from(number).ok()),
            };
            varint(field, i64::from(number.ok_or_else(refuse)?).cast_unsigned(), out);
        }
        Kind::String => bytes(field, value.as_str().ok_or_else(refuse)?.as_bytes(), out),
        Kind::Bytes => {
            let text = value.as_str().ok_or_else(refuse)?;
            bytes(field, &from_base64(text).ok_or_else(refuse)?, out);
        }
        Kind::Message(message) => {
            let mut inner = Vec::new();
            write_message(message, value, &mut inner)?;
            bytes(field, &inner, out);
        }
    }
    Ok(())
}

fn varint(field: &Field, number: u64, out: &mut Vec<u8>) {
    encode_key(field.number, WireType::Varint, out);
    encode_varint(number, out);
}

fn bytes(field: &Field, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(field.number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The standard alphabet or the one for URLs, line breaks left out.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let standard = |letter: u8| match letter {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'\r' | b'\n' => None,
        other => Some(other),
    };
    let letters: Vec<u8> = text.bytes().filter_map(standard).collect();
    BASE64.decode(letters).ok()
}

/// A whole number, as such, as a string or as `1e2`.
fn signed(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .or_else(|| number.as_f64().and_then(whole).and_then(|number| u64::try_from(number).ok())),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a float stands for exactly: below 2^53 every whole number does.
fn whole(number: f64) -> Option<i64> {
    let is_exact = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "just checked")]
    is_exact.then_some(number as i64)
}

fn wrong(field: &'static Field, value: &Value) -> BadJson {
    BadJson::Value { kind: field.kind.name(), field: field.name, found: shown(value) }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
