//! Forms and queries, read as Go's `net/url` reads them.

use super::{V2Code, V2Error};

/// The fields of a form, in order; the body's come before the query's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<(Vec<u8>, Vec<u8>)>);

impl Form {
    /// Reads `key=value&key=value` of the body and of the query.
    ///
    /// # Errors
    /// [`V2Code::InvalidForm`] with Go's words.
    pub fn parse(body: &[u8], query: &[u8]) -> Result<Self, V2Error> {
        let mut fields = Vec::new();
        for part in [body, query] {
            for pair in part.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
                fields.push(field(pair).map_err(|why| V2Error::of_request(V2Code::InvalidForm, why))?);
            }
        }
        Ok(Self(fields))
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.0.iter().filter(|(key, _)| key == name.as_bytes());
        found.next().map(|(_, value)| value.as_slice())
    }

    /// A switch; absent is off.
    ///
    /// # Errors
    /// [`V2Code::InvalidField`].
    pub fn switch(&self, name: &str) -> Result<bool, V2Error> {
        Ok(self.tristate(name, &format!("invalid value for \"{name}\""))?.unwrap_or(false))
    }

    /// A switch that may be absent; `why` is the cause if it cannot be read.
    ///
    /// # Errors
    /// [`V2Code::InvalidField`].
    pub fn tristate(&self, name: &str, why: &str) -> Result<Option<bool>, V2Error> {
        // Source: Go's `strconv.ParseBool`.
        match self.get(name) {
            None => Ok(None),
            Some(b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => Ok(Some(true)),
            Some(b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => Ok(Some(false)),
            Some(_) => Err(V2Error::of_request(V2Code::InvalidField, why)),
        }
    }

    /// A number; absent is 0.
    ///
    /// # Errors
    /// `code` if it is not one.
    pub fn number(&self, name: &str, code: V2Code) -> Result<u64, V2Error> {
        let Some(value) = self.get(name) else { return Ok(0) };
        let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| V2Error::of_request(code, format!("invalid value for \"{name}\"")))
    }
}

fn field(pair: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    if pair.contains(&b';') {
        return Err("invalid semicolon separator in query".to_owned());
    }
    let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &b""[..]),
    };
    Ok((unescape(key, Plus::IsSpace)?, unescape(value, Plus::IsSpace)?))
}

/// What a `+` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// A space, in forms and queries.
    IsSpace,
    /// Itself, in paths.
    IsPlus,
}

/// Turns `%41` into `A`.
///
/// # Errors
/// Go's words about the first escape that is none.
pub fn unescape(text: &[u8], plus: Plus) -> Result<Vec<u8>, String> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'%' => match (digit(at + 1), digit(at + 2)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    at += 2;
                }
                (None, _) | (_, None) => {
                    let shown = String::from_utf8_lossy(&text[at..text.len().min(at + 3)]).into_owned();
                    return Err(format!("invalid URL escape {shown:?}"));
                }
            },
            b'+' if plus == Plus::IsSpace => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_body_wins_over_the_query() {
        let form = Form::parse(b"value=a+b%2B&x", b"value=c&ttl=5").unwrap();
        assert_eq!(form.get("value"), Some(&b"a b+"[..]));
        assert_eq!((form.get("x"), form.get("y")), (Some(&b""[..]), None));
        assert_eq!(form.number("ttl", V2Code::TtlNotANumber), Ok(5));
    }

    #[test]
    #[rustfmt::skip]
    fn bad_forms_are_refused_in_gos_words() {
        let rows: [(&[u8], &str); 4] = [
            (b"value=%zz",      "invalid URL escape \"%zz\""),
            (b"value=%4",       "invalid URL escape \"%4\""),
            (b"value=%",        "invalid URL escape \"%\""),
            (b"a=1;b=2",        "invalid semicolon separator in query"),
        ];
        for (body, why) in rows {
            assert_eq!(Form::parse(body, b""), Err(V2Error::of_request(V2Code::InvalidForm, why)));
        }
    }

    #[test]
    fn numbers_have_digits_only() {
        for text in ["", "+1", "-1", "1_0", "0x1", "18446744073709551616", " 1"] {
            let form = Form(vec![(b"n".to_vec(), text.as_bytes().to_vec())]);
            assert!(form.number("n", V2Code::IndexNotANumber).is_err(), "{text:?}");
        }
    }
}
