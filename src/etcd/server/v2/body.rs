//! Bodies and forms of requests, read as Go's `net/http` reads them.

use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use proa_etcd_api::v2::form::Form;
use proa_etcd_api::v2::{V2Code, V2Error};

/// The largest form. Source: Go's `parsePostForm`, 10 MB; a request that is
/// larger than `--max-request-bytes` after decoding is refused later.
const MAX_FORM_BYTES: usize = 10 << 20;

/// Reads the form of a request: of the body where the method has one, and of
/// the query.
///
/// # Errors
/// [`V2Code::InvalidForm`].
pub async fn form(
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
    body: Incoming,
) -> Result<Form, V2Error> {
    let bad = |why: &str| V2Error::of_request(V2Code::InvalidForm, why);
    let has_form = *method == Method::PUT || *method == Method::POST;
    let body = if has_form && is_form(headers).map_err(bad)? {
        read(body, MAX_FORM_BYTES).await
    } else {
        Ok(Vec::new())
    };
    let body = body.map_err(|error| match error {
        Unread::TooLarge => bad("http: POST too large"),
        Unread::Broken => bad("unexpected EOF"),
    })?;
    Form::parse(&body, query.unwrap_or_default().as_bytes())
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It has more bytes than are taken.
    TooLarge,
    /// The client went away in the middle.
    Broken,
}

/// Reads a body of at most `most_bytes`.
///
/// # Errors
/// [`Unread`].
pub async fn read(body: Incoming, most_bytes: usize) -> Result<Vec<u8>, Unread> {
    match Limited::new(body, most_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Err(_) => Err(Unread::Broken),
    }
}

/// Whether the body is a form. Source: Go's `mime.ParseMediaType`, its words.
fn is_form(headers: &HeaderMap) -> Result<bool, &'static str> {
    let Some(text) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let text = text.to_str().map_err(|_| "mime: invalid media parameter")?;
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    if kind.is_empty() {
        return if text.is_empty() { Ok(false) } else { Err("mime: no media type") };
    }
    let parameters: Vec<&str> = parts.collect();
    // One semicolon too many at the end is forgiven.
    let parameters = parameters.strip_suffix(&[""]).unwrap_or(&parameters);
    let is_parameter =
        |part: &&str| part.split_once('=').is_some_and(|(name, value)| !name.is_empty() && !value.is_empty());
    match parameters.iter().all(is_parameter) {
        true => Ok(kind == "application/x-www-form-urlencoded"),
        false => Err("mime: invalid media parameter"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn content_types_are_read_as_go_does() {
        let rows = [
            ("application/x-www-form-urlencoded",                Ok(true)),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", Ok(true)),
            ("application/x-www-form-urlencoded;",               Ok(true)),
            ("application/json",                                 Ok(false)),
            ("a;b;;c",                                           Err("mime: invalid media parameter")),
        ];
        for (text, want) in rows {
            let headers = [(header::CONTENT_TYPE, text.parse().unwrap())].into_iter().collect();
            assert_eq!(is_form(&headers), want, "{text}");
        }
        assert_eq!(is_form(&HeaderMap::new()), Ok(false));
    }
}
