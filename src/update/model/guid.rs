//! The 16-byte identifiers of GPT: partition types, partitions, disks.

use std::fmt;

/// A GUID as it stands on disk: the first three fields are little-endian.
///
/// `5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6` is stored as the bytes
/// `f4f5fb5d 4828 ac4b aa5e 0d9a20b745a6`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// Which text byte each stored byte comes from, counted in hex digit pairs.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    /// The type of an unused table entry.
    pub const ZERO: Self = Self([0; 16]);

    /// Reads the usual text form, in a constant.
    ///
    /// # Panics
    /// When `text` is not 36 characters of hex digits with dashes at 8, 13, 18
    /// and 23. It is meant for constants, where that is a build error.
    pub const fn from_text(text: &str) -> Self {
        let text = text.as_bytes();
        assert!(text.len() == 36, "a GUID has 36 characters");
        let mut pairs = [0; 16];
        let (mut at, mut pair) = (0, 0);
        while at < 36 {
            if matches!(at, 8 | 13 | 18 | 23) {
                assert!(text[at] == b'-', "a GUID has dashes at 8, 13, 18 and 23");
                at += 1;
            } else {
                pairs[pair] = hex(text[at]) << 4 | hex(text[at + 1]);
                pair += 1;
                at += 2;
            }
        }
        let mut stored = [0; 16];
        let mut byte = 0;
        while byte < 16 {
            stored[byte] = pairs[ORDER[byte]];
            byte += 1;
        }
        Self(stored)
    }
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => panic!("a GUID is made of hex digits"),
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, at) in ORDER.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            // `ORDER` is its own inverse: swapping ends twice changes nothing.
            write!(out, "{:02x}", self.0[*at])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::Guid;

    #[test]
    fn text_and_disk_order_agree() {
        let guid = Guid::from_text("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");
        #[rustfmt::skip]
        assert_eq!(guid.0, [
            0xf4, 0xf5, 0xfb, 0x5d, 0x48, 0x28, 0xac, 0x4b,
            0xaa, 0x5e, 0x0d, 0x9a, 0x20, 0xb7, 0x45, 0xa6,
        ]);
        assert_eq!(guid.to_string(), "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");
    }
}
