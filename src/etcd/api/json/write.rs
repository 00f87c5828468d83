//! From the wire to JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::fmt::Write as _;

use super::BadWire;
use crate::descriptor::{Field, Kind, Message};

/// Levels of messages in messages: as deep as a decoder goes.
/// Source: prost's `RECURSION_LIMIT`.
const MAX_DEPTH: usize = 100;

/// The JSON form of an encoded message.
///
/// The message must be encoded canonically, fields in the order of their
/// numbers, as prost does it; so the text is written in one pass.
///
/// # Errors
/// [`BadWire`] when it is not, or is a message of another kind.
pub fn to_json(message: &'static Message, wire: &[u8]) -> Result<String, BadWire> {
    // Base64 takes a third more, names and quotes some.
    let mut out = String::with_capacity(wire.len() * 2 + 64);
    write_message(message, wire, MAX_DEPTH, &mut out)?;
    Ok(out)
}

fn write_message(
    message: &'static Message,
    mut wire: &[u8],
    depth: usize,
    out: &mut String,
) -> Result<(), BadWire> {
    out.push('{');
    let mut last: Option<&Field> = None;
    while !wire.is_empty() {
        let bad = |number| BadWire { message: message.name, number };
        let (number, kind) = decode_key(&mut wire).map_err(|_| bad(0))?;
        let field = message.fields.iter().find(|field| field.number == number).ok_or(bad(number))?;
        let goes_on = last.is_some_and(|last| last.number == number);
        let is_back = last.is_some_and(|last| last.number > number);
        if is_back || goes_on && !field.repeated || depth == 0 {
            return Err(bad(number));
        }
        if !goes_on {
            end(last, out);
            if last.is_some() {
                out.push(',');
            }
            // Writing to a string cannot fail; nor below.
            let _ = write!(out, "\"{}\":", field.name);
        }
        if field.repeated {
            out.push(if goes_on { ',' } else { '[' });
        }
        match kind {
            WireType::Varint => {
                let value = decode_varint(&mut wire).map_err(|_| bad(number))?;
                write_number(field.kind, value, out).ok_or(bad(number))?;
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut wire).ok().and_then(|length| usize::try_from(length).ok());
                let split = length.and_then(|length| wire.split_at_checked(length));
                let (value, rest) = split.ok_or(bad(number))?;
                wire = rest;
                match field.kind {
                    Kind::Message(inner) => write_message(inner, value, depth - 1, out)?,
                    _ => write_bytes(field.kind, value, out).ok_or(bad(number))?,
                }
            }
            WireType::SixtyFourBit | WireType::StartGroup | WireType::EndGroup | WireType::ThirtyTwoBit => {
                return Err(bad(number));
            }
        }
        last = Some(field);
    }
    end(last, out);
    out.push('}');
    Ok(())
}

/// Ends the value of a field that others follow or none.
fn end(field: Option<&Field>, out: &mut String) {
    if field.is_some_and(|field| field.repeated) {
        out.push(']');
    }
}

fn write_number(kind: Kind, value: u64, out: &mut String) -> Option<()> {
    #[allow(clippy::cast_possible_truncation, reason = "as protobuf has it")]
    let written = match kind {
        Kind::Bool => write!(out, "{}", value != 0),
        Kind::Int32 => write!(out, "{}", value as i32),
        Kind::Uint32 => write!(out, "{}", value as u32),
        // As strings: a reader in JavaScript would lose digits.
        Kind::Int64 => write!(out, "\"{}\"", value.cast_signed()),
        Kind::Uint64 => write!(out, "\"{value}\""),
        Kind::Enum(values) => match values.iter().find(|(number, _)| *number == value as i32) {
            Some((_, name)) => write!(out, "\"{name}\""),
            None => write!(out, "{}", value as i32),
        },
        Kind::String | Kind::Bytes | Kind::Message(_) => return None,
    };
    written.ok()
}

fn write_bytes(kind: Kind, value: &[u8], out: &mut String) -> Option<()> {
    match kind {
        Kind::Bytes => {
            out.push('"');
            BASE64_STANDARD.encode_string(value, out);
            out.push('"');
            Some(())
        }
        Kind::String => {
            out.push_str(&serde_json::to_string(std::str::from_utf8(value).ok()?).ok()?);
            Some(())
        }
        Kind::Bool
        | Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Enum(_)
        | Kind::Message(_) => None,
    }
}
