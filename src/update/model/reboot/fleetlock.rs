//! FleetLock: the lock over HTTP, as Zincati's machines ask for it.
//!
//! Source: Zincati's documentation, "FleetLock protocol": a POST with the header
//! `fleet-lock-protocol: true` and `{"client_params":{"id":..,"group":..}}`;
//! both requests may be repeated.

use serde::{Deserialize, Serialize};

use super::semaphore::{MAX_HOLDER_BYTES, Refused, Semaphore};

/// The largest body that is read: an id and a group of 256 bytes, four times over.
pub const MAX_BODY_BYTES: usize = 2048;

/// The group of clients that name none of their own; it is the lock of the cluster.
pub const DEFAULT_GROUP: &str = "default";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `/v1/pre-reboot`: take a slot.
    PreReboot,
    /// `/v1/steady-state`: give it back.
    SteadyState,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// The lock it uses, as locksmith names it.
    pub group: String,
}

/// A refusal: the status, and the body `{"kind":..,"value":..}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// A word for programs.
    pub kind: &'static str,
    /// A line for people.
    pub value: String,
}

#[derive(Deserialize)]
struct Body {
    client_params: Params,
}

#[derive(Deserialize)]
struct Params {
    id: String,
    group: String,
}

impl Refusal {
    /// A refusal with this status, word and line.
    pub fn new(status: u16, kind: &'static str, value: impl Into<String>) -> Self {
        Self { status, kind, value: value.into() }
    }

    /// The body.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("two strings become JSON")
    }
}

/// Finds out what is asked for.
///
/// # Errors
/// 404 for another path, 405 for another method, 400 without the header.
pub fn operation(method: &str, path: &str, protocol: Option<&str>) -> Result<Operation, Refusal> {
    let operation = match path {
        "/v1/pre-reboot" => Operation::PreReboot,
        "/v1/steady-state" => Operation::SteadyState,
        _ => {
            let text = "no such path; there are /v1/pre-reboot and /v1/steady-state";
            return Err(Refusal::new(404, "unknown_endpoint", text));
        }
    };
    if method != "POST" {
        return Err(Refusal::new(405, "bad_method", "FleetLock requests are POST requests"));
    }
    if protocol != Some("true") {
        return Err(Refusal::new(400, "bad_request", "the header fleet-lock-protocol must be true"));
    }
    Ok(operation)
}

/// Reads the body of a request.
///
/// # Errors
/// 400 with what is wrong.
pub fn client(body: &[u8]) -> Result<Client, Refusal> {
    let bad = |text: String| Refusal::new(400, "bad_request", text);
    let Body { client_params: Params { id, group } } = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not what is expected: {error}")))?;
    let is_group = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if group.is_empty() || group.len() > MAX_HOLDER_BYTES || !group.bytes().all(is_group) {
        let text = "client_params.group must be 1 to 256 letters, digits, dots and dashes";
        return Err(bad(text.to_owned()));
    }
    if id.is_empty() || id.len() > MAX_HOLDER_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "client_params.id must be 1 to 256 printable characters without spaces";
        return Err(bad(text.to_owned()));
    }
    let group = if group == DEFAULT_GROUP { String::new() } else { group };
    Ok(Client { id, group })
}

/// The lock after the request; `None` when it need not change.
///
/// # Errors
/// 409 when no slot is free.
pub fn apply(operation: Operation, lock: &Semaphore, id: &str) -> Result<Option<Semaphore>, Refusal> {
    let changed = match operation {
        Operation::PreReboot if lock.is_held_by(id) => return Ok(None),
        Operation::SteadyState if !lock.is_held_by(id) => return Ok(None),
        Operation::PreReboot => lock.lock(id),
        Operation::SteadyState => lock.unlock(id),
    };
    changed.map(Some).map_err(|error| match error {
        Refused::Full(_) => {
            let holders = lock.holders().join(", ");
            let text = format!("all {} slots are taken, by {holders}", lock.max);
            Refusal::new(409, "failed_lock_semaphore_full", text)
        }
        other => Refusal::new(400, "bad_request", other.to_string()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_protocol() {
        #[rustfmt::skip]
        let cases = [
            ("POST", "/v1/pre-reboot",   Some("true"),  Ok(Operation::PreReboot)),
            ("POST", "/v1/steady-state", Some("true"),  Ok(Operation::SteadyState)),
            ("POST", "/v1/pre-reboot",   None,          Err(400)),
            ("POST", "/v1/pre-reboot",   Some("false"), Err(400)),
            ("GET",  "/v1/pre-reboot",   Some("true"),  Err(405)),
            ("POST", "/v1/pre-reboot/",  Some("true"),  Err(404)),
            ("POST", "/",                Some("true"),  Err(404)),
        ];
        for (method, path, protocol, want) in cases {
            let got = operation(method, path, protocol).map_err(|refusal| refusal.status);
            assert_eq!(got, want, "{method} {path} {protocol:?}");
        }
    }

    #[test]
    fn bodies_are_read_or_refused() {
        let read = |id: &str, group: &str| {
            let body = serde_json::json!({"client_params": {"id": id, "group": group}});
            client(body.to_string().as_bytes()).map_err(|refusal| refusal.status)
        };
        let named = |group: &str| Ok(Client { id: "a".to_owned(), group: group.to_owned() });
        assert_eq!(read("a", "default"), named(""));
        assert_eq!(read("a", "workers-1.eu"), named("workers-1.eu"));
        for (id, group) in
            [("a", ""), ("a", "b/c"), ("a", "b c"), ("", "b"), ("a b", "b"), (&"x".repeat(257), "b")]
        {
            assert_eq!(read(id, group), Err(400), "{id:?} {group:?}");
        }
        for body in ["", "{}", "null", r#"{"client_params":{"id":1,"group":"x"}}"#] {
            assert_eq!(client(body.as_bytes()).unwrap_err().status, 400, "{body}");
        }
    }

    #[test]
    fn both_requests_may_be_repeated() {
        use Operation::{PreReboot, SteadyState};
        let free = Semaphore::default();
        assert_eq!(apply(SteadyState, &free, "a"), Ok(None));
        let held = apply(PreReboot, &free, "a").unwrap().unwrap();
        assert_eq!(apply(PreReboot, &held, "a"), Ok(None));
        let full = apply(PreReboot, &held, "b").unwrap_err();
        let want = r#"{"kind":"failed_lock_semaphore_full","value":"all 1 slots are taken, by a"}"#;
        assert_eq!((full.status, full.json().as_str()), (409, want));
        let back = apply(SteadyState, &held, "a").unwrap().unwrap();
        assert_eq!(back.render(), r#"{"semaphore":1,"max":1,"holders":[]}"#);
    }
}
