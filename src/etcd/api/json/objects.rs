//! A stream of JSON objects, cut apart as its bytes arrive.

use super::BadJson;

/// Takes the bytes of a request body in pieces of any size and gives the JSON
/// objects in it, one after another, with nothing or blanks between them.
///
/// Every byte is looked at once, however small the pieces are; what an object
/// holds is left to a parser.
#[derive(Debug)]
pub struct Objects {
    held: Vec<u8>,
    /// How much of `held` was looked at.
    seen: usize,
    /// Objects and arrays that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    limit: usize,
}

impl Objects {
    /// For objects of at most `limit` bytes, which is also the most that is kept
    /// of a piece and what came before it.
    pub fn new(limit: usize) -> Self {
        Self { held: Vec::new(), seen: 0, depth: 0, in_string: false, is_escaped: false, limit }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole object; `None` when more must arrive first.
    ///
    /// # Errors
    /// [`BadJson::TooLong`]; [`BadJson::Syntax`] for something else than an
    /// object. Nothing comes after an error.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, BadJson> {
        while let Some(&byte) = self.held.get(self.seen) {
            self.seen += 1;
            if self.seen > self.limit {
                return Err(BadJson::TooLong { limit: self.limit });
            }
            if self.look(byte)? {
                let rest = self.held.split_off(self.seen);
                self.seen = 0;
                return Ok(Some(std::mem::replace(&mut self.held, rest)));
            }
        }
        if self.depth == 0 {
            // Blanks only.
            self.held.clear();
            self.seen = 0;
        }
        Ok(None)
    }

    /// Whether the stream ends in the middle of an object.
    pub fn is_cut(&self) -> bool {
        self.depth > 0
    }

    /// `true` when the byte ends an object.
    fn look(&mut self, byte: u8) -> Result<bool, BadJson> {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return Ok(false);
        }
        match byte {
            b'{' => self.depth += 1,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            other if self.depth == 0 => {
                let found = char::from(other).escape_default();
                return Err(BadJson::Syntax(format!(
                    "invalid character '{found}' looking for the beginning of an object"
                )));
            }
            b'[' => self.depth += 1,
            b'"' => self.in_string = true,
            b'}' | b']' => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            _ => {}
        }
        Ok(false)
    }
}
