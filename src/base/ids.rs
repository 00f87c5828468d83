//! Typed identities: parsed at the edge, right ever after.

use std::{fmt, str::FromStr};

/// The 128-bit identity of one installed machine.
///
/// Source: `/etc/machine-id`, written as 32 lower-case hex digits (machine-id(5)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(u128);

/// A text that is no machine id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine id is 32 lower-case hex digits, not all zero")]
pub struct BadMachineId;

impl MachineId {
    /// The id made of 16 random bytes, marked as a version 4 UUID as
    /// machine-id(5) asks for; never zero for that reason.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        let version_cleared = bits & !(0xf << 76) & !(0x3 << 62);
        Self(version_cleared | (0x4 << 76) | (0x2 << 62))
    }

    /// The first eight hex digits: what tables show.
    pub fn short(&self) -> String {
        format!("{:08x}", self.0 >> 96)
    }

    /// The number behind the text.
    pub fn get(&self) -> u128 {
        self.0
    }
}

impl FromStr for MachineId {
    type Err = BadMachineId;

    fn from_str(text: &str) -> Result<Self, BadMachineId> {
        // `from_str_radix` alone would also take a sign and upper case.
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(BadMachineId);
        }
        match u128::from_str_radix(text, 16) {
            Ok(id) if id != 0 => Ok(Self(id)),
            Ok(_) | Err(_) => Err(BadMachineId),
        }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineId({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_32_lower_case_hex_digits_are_an_id() {
        #[rustfmt::skip]
        let cases = [
            ("plain",      "0123456789abcdef0123456789abcdef",  true),
            ("upper case", "0123456789ABCDEF0123456789abcdef",  false),
            ("sign",       "+123456789abcdef0123456789abcdef",  false),
            ("short",      "0123456789abcdef",                  false),
            ("long",       "0123456789abcdef0123456789abcdef0", false),
            ("zero",       "00000000000000000000000000000000",  false),
            ("empty",      "",                                  false),
        ];
        for (name, text, good) in cases {
            assert_eq!(text.parse::<MachineId>().is_ok(), good, "{name}");
        }
    }

    #[test]
    fn random_ids_print_as_version_4_and_parse_back() {
        for bytes in [[0; 16], [0xff; 16]] {
            let id = MachineId::from_random(bytes);
            let text = id.to_string();
            assert_eq!(&text[12..13], "4");
            assert!(matches!(&text[16..17], "8" | "9" | "a" | "b"));
            assert_eq!(text.parse::<MachineId>().unwrap(), id);
            assert_eq!(id.short(), text[..8]);
        }
    }
}
