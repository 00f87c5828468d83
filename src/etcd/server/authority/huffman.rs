//! The Huffman code of HTTP/2 header strings (RFC 7541, appendix B), for the
//! characters a URL is made of.

/// Symbols whose codes are of one length. They are consecutive numbers, in the
/// order of the symbols.
struct Row {
    bits: u32,
    first_code: u32,
    symbols: &'static [u8],
}

/// All symbols of up to 15 bits: printable ASCII but the backslash, and NUL.
/// Others have codes of 19 bits and more, and no place in an authority.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { bits: 5,  first_code: 0x0,    symbols: b"012aceiost" },
    Row { bits: 6,  first_code: 0x14,   symbols: b" %-./3456789=A_bdfghlmnpru" },
    Row { bits: 7,  first_code: 0x5c,   symbols: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz" },
    Row { bits: 8,  first_code: 0xf8,   symbols: b"&*,;XZ" },
    Row { bits: 10, first_code: 0x3f8,  symbols: b"!\"()?" },
    Row { bits: 11, first_code: 0x7fa,  symbols: b"'+|" },
    Row { bits: 12, first_code: 0xffa,  symbols: b"#>" },
    Row { bits: 13, first_code: 0x1ff8, symbols: b"\0$@[]~" },
    Row { bits: 14, first_code: 0x3ffc, symbols: b"^}" },
    Row { bits: 15, first_code: 0x7ffc, symbols: b"<`{" },
];
const MAX_BITS: u32 = 15;

/// The text of a Huffman-coded string; `None` when it is malformed or holds
/// anything but printable ASCII.
pub fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut bits) = (0, 0);
    for byte in coded {
        for place in (0..8).rev() {
            code = code << 1 | u32::from(byte >> place & 1);
            bits += 1;
            if let Some(symbol) = symbol(code, bits) {
                text.push(symbol);
                (code, bits) = (0, 0);
            } else if bits == MAX_BITS {
                return None;
            }
        }
    }
    // Filled up to a whole byte with ones. Source: RFC 7541, section 5.2.
    let is_padding = bits < 8 && code == (1 << bits) - 1;
    is_padding.then_some(text)
}

fn symbol(code: u32, bits: u32) -> Option<u8> {
    let row = ROWS.iter().find(|row| row.bits == bits)?;
    let number = code.checked_sub(row.first_code)?;
    row.symbols.get(number as usize).copied()
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::{ROWS, decode};

    /// `text`, Huffman-coded.
    pub fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for symbol in text {
            let place = |row: &&super::Row| row.symbols.contains(symbol);
            let row = ROWS.iter().find(place).unwrap();
            let number = row.symbols.iter().position(|one| one == symbol).unwrap();
            let width = row.bits as usize;
            bits += &format!("{:0width$b}", row.first_code as usize + number);
        }
        bits += &"1".repeat((8 - bits.len() % 8) % 8);
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split(' ').collect();
        (0..digits.len() / 2).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap()).collect()
    }

    /// Source of the rows: RFC 7541, appendix C.
    #[test]
    fn examples_of_the_standard_are_read() {
        #[rustfmt::skip]
        let rows = [
            ("",                              ""),
            ("www.example.com",               "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
            ("no-cache",                      "a8eb 1064 9cbf"),
            ("custom-key",                    "25a8 49e9 5ba9 7d7f"),
            ("custom-value",                  "25a8 49e9 5bb8 e8b4 bf"),
            ("302",                           "6402"),
            ("private",                       "aec3 771a 4b"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff"),
            ("https://www.example.com",       "9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3"),
            ("foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
             "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07"),
        ];
        for (text, coded) in rows {
            assert_eq!(decode(&hex(coded)).as_deref(), Some(text.as_bytes()), "{text}");
            assert_eq!(encode(text.as_bytes()), hex(coded), "{text}");
        }
    }

    #[test]
    fn malformed_strings_are_refused() {
        #[rustfmt::skip]
        let rows = [
            ("a whole byte of padding", "6402 ff"),
            ("padding with zeros",      "00"),
            ("the end-of-string code",  "ffff ffff"),
            ("a backslash, 19 bits",    "fffe 1f"),
        ];
        for (name, coded) in rows {
            assert_eq!(decode(&hex(coded)), None, "{name}");
        }
    }

    /// Each row goes on where the one before ended, as in any canonical code.
    #[test]
    fn codes_leave_no_gap() {
        let (mut next, mut bits) = (0, 0);
        let mut symbols: Vec<u8> = Vec::new();
        for row in ROWS {
            assert_eq!(row.first_code, next << (row.bits - bits), "{} bits", row.bits);
            (next, bits) = (row.first_code + row.symbols.len() as u32, row.bits);
            assert!(row.symbols.is_sorted(), "{} bits", row.bits);
            symbols.extend(row.symbols);
        }
        symbols.sort_unstable();
        let printable = (b' '..=b'~').filter(|symbol| *symbol != b'\\');
        let want: Vec<u8> = std::iter::once(0).chain(printable).collect();
        assert_eq!(symbols, want);
        assert_eq!(decode(&encode(&want)), Some(want));
    }
}
