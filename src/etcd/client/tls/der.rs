//! As much of DER as is asked of certificates. Source: X.690, section 8.

/// A sequence.
pub const SEQUENCE: u8 = 0x30;
/// An object identifier.
pub const OBJECT_IDENTIFIER: u8 = 0x06;

/// Takes one value off the front: its tag and what is in it. `None` when it is
/// cut off, or longer than 64 KiB: no certificate of a person's or a machine's is.
pub fn take<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], rest) = input.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((tag, value))
}

/// Takes one value off the front that must have this tag.
pub fn take_tagged<'a>(input: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let mut rest = *input;
    let (tag, value) = take(&mut rest)?;
    (tag == wanted).then(|| *input = rest)?;
    Some(value)
}
