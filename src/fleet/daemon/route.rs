//! Which request this is: paths, methods and queries of the API, decided without I/O.

use http::{Method, StatusCode};
use proa_base::ids::MachineId;
use proa_fleet_model::{api::ApiError, unit_name::UnitName};

use crate::journal::{MAX_LINES, Output, Request};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /units`, with a page token.
    Units(Option<String>),
    /// `GET /units/NAME`.
    Unit(String),
    /// `PUT /units/NAME`.
    PutUnit(String),
    /// `DELETE /units/NAME`.
    DeleteUnit(String),
    /// `GET /units/NAME/journal`.
    Journal(UnitName, Request),
    /// `GET /units/NAME/status`.
    Status(UnitName),
    /// `GET /state`, with a page token or filters.
    States(StateQuery),
    /// `GET /state/NAME`.
    State(String),
    /// `GET /machines`, with a page token.
    Machines(Option<String>),
    /// `PATCH /machines`.
    PatchMachines,
    /// `GET /cordons`.
    Cordons,
    /// `GET /cordons/MACHINE`.
    Cordon(Which),
    /// `PUT /cordons/MACHINE`.
    PutCordon(Which),
    /// `DELETE /cordons/MACHINE`.
    DeleteCordon(Which),
}

/// A machine in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that is asked: `self`.
    This,
    /// The one with this id.
    Id(MachineId),
}

/// What `GET /state` can be narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateQuery {
    /// The page.
    pub token: Option<String>,
    /// Only on this machine.
    pub machine: Option<MachineId>,
    /// Only of this unit.
    pub unit: Option<String>,
}

/// Finds the route of a request; paths start with `/fleet/v1` or `/v1-alpha`.
///
/// # Errors
/// 404 for an unknown path, 405 for a wrong method, 400 for a bad name or query.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Route, ApiError> {
    let rest = path.strip_prefix("/fleet/v1/").or_else(|| path.strip_prefix("/v1-alpha/"));
    let rest =
        rest.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "no such path; the API is under /fleet/v1"))?;
    let parts: Vec<String> = rest.trim_end_matches('/').split('/').map(decode).collect::<Result<_, _>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = pairs(query)?;
    match (parts.as_slice(), method) {
        (["units"], &Method::GET) => Ok(Route::Units(only_token(&query)?)),
        (["units", name], &Method::GET) => Ok(Route::Unit((*name).to_owned())),
        (["units", name], &Method::PUT) => Ok(Route::PutUnit((*name).to_owned())),
        (["units", name], &Method::DELETE) => Ok(Route::DeleteUnit((*name).to_owned())),
        (["units", name, "journal"], &Method::GET) => Ok(Route::Journal(unit(name)?, journal(&query)?)),
        (["units", name, "status"], &Method::GET) => Ok(Route::Status(unit(name)?)),
        (["state"], &Method::GET) => Ok(Route::States(states(&query)?)),
        (["state", name], &Method::GET) => Ok(Route::State((*name).to_owned())),
        (["machines"], &Method::GET) => Ok(Route::Machines(only_token(&query)?)),
        (["machines"], &Method::PATCH) => Ok(Route::PatchMachines),
        (["cordons"], &Method::GET) => Ok(Route::Cordons),
        (["cordons", machine], &Method::GET) => Ok(Route::Cordon(which(machine)?)),
        (["cordons", machine], &Method::PUT) => Ok(Route::PutCordon(which(machine)?)),
        (["cordons", machine], &Method::DELETE) => Ok(Route::DeleteCordon(which(machine)?)),
        (
            ["units" | "state" | "machines" | "cordons"]
            | ["units" | "state" | "cordons", _]
            | ["units", _, "journal" | "status"],
            _,
        ) => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not possible on {path}"))),
        _ => Err(refuse(StatusCode::NOT_FOUND, &format!("no such path: {path}"))),
    }
}

fn refuse(status: StatusCode, text: &str) -> ApiError {
    ApiError::new(status.as_u16(), text)
}

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::new(400, text)
}

fn unit(name: &str) -> Result<UnitName, ApiError> {
    name.parse().map_err(|error| bad(format!("{name:?}: {error}")))
}

fn which(machine: &str) -> Result<Which, ApiError> {
    let id = |text: &str| text.parse().map(Which::Id);
    let wrong = |error| bad(format!("machine {machine:?}: {error}; self is the machine that is asked"));
    if machine == "self" { Ok(Which::This) } else { id(machine).map_err(wrong) }
}

type Query = Vec<(String, String)>;

fn pairs(query: Option<&str>) -> Result<Query, ApiError> {
    let words = query.unwrap_or("").split('&').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            Ok((decode(key)?, decode(&value.replace('+', " "))?))
        })
        .collect()
}

fn get<'a>(query: &'a Query, key: &str) -> Option<&'a str> {
    query.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// A page token stands alone: it already says everything about the list.
///
/// Source: the original's API: other arguments beside a token are refused.
fn token(query: &Query) -> Result<Option<String>, ApiError> {
    match get(query, "nextPageToken") {
        Some(_) if query.len() > 1 => Err(bad("nextPageToken cannot be combined with other arguments")),
        Some(token) if !token.is_empty() => Ok(Some(token.to_owned())),
        Some(_) | None => Ok(None),
    }
}

fn only_token(query: &Query) -> Result<Option<String>, ApiError> {
    token(query)
}

fn states(query: &Query) -> Result<StateQuery, ApiError> {
    let filter = |key: &str| get(query, key).filter(|value| !value.is_empty());
    let machine = match filter("machineID") {
        Some(text) => Some(text.parse().map_err(|error| bad(format!("machineID {text:?}: {error}")))?),
        None => None,
    };
    Ok(StateQuery { token: token(query)?, machine, unit: filter("unitName").map(str::to_owned) })
}

fn journal(query: &Query) -> Result<Request, ApiError> {
    let mut request = Request { lines: 10, follow: false, output: Output::SHORT };
    for (key, value) in query {
        match key.as_str() {
            "lines" => {
                let right = || bad(format!("lines {value:?}: give a whole number up to {MAX_LINES}"));
                request.lines = value.parse().ok().filter(|lines| *lines <= MAX_LINES).ok_or_else(right)?;
            }
            "follow" => match value.as_str() {
                "" | "1" | "true" => request.follow = true,
                "0" | "false" => request.follow = false,
                _ => return Err(bad(format!("follow {value:?}: give 1 or 0"))),
            },
            "output" => request.output = value.parse().map_err(|error| bad(format!("{error}")))?,
            _ => {
                return Err(bad(format!("unknown argument {key:?}; a journal has lines, follow and output")));
            }
        }
    }
    Ok(request)
}

/// Takes percent-encoding off. Source: RFC 3986, 2.1.
fn decode(text: &str) -> Result<String, ApiError> {
    let wrong = || bad(format!("{text:?} is not percent-encoded text"));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(wrong);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).expect("two hex digits are a byte"));
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, want: Result<Route, u16>) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        let got = route(&method.parse().unwrap(), path, query);
        assert_eq!(got.map_err(|error| error.code), want, "{method} {uri}");
    }

    #[test]
    fn every_path_has_its_methods() {
        let name = || "a@1.service".to_owned();
        check("GET", "/fleet/v1/units", Ok(Route::Units(None)));
        check("GET", "/v1-alpha/units", Ok(Route::Units(None)));
        check("GET", "/fleet/v1/units?nextPageToken=x", Ok(Route::Units(Some("x".into()))));
        check("GET", "/fleet/v1/units?nextPageToken=x&a=b", Err(400));
        check("GET", "/fleet/v1/units/a@1.service", Ok(Route::Unit(name())));
        check("GET", "/fleet/v1/units/a%401.service", Ok(Route::Unit(name())));
        check("PUT", "/fleet/v1/units/a@1.service", Ok(Route::PutUnit(name())));
        check("DELETE", "/fleet/v1/units/a@1.service", Ok(Route::DeleteUnit(name())));
        check("POST", "/fleet/v1/units/a@1.service", Err(405));
        check("DELETE", "/fleet/v1/units", Err(405));
        check("GET", "/fleet/v1/state/a@1.service", Ok(Route::State(name())));
        check("PATCH", "/fleet/v1/machines", Ok(Route::PatchMachines));
        check("PUT", "/fleet/v1/machines", Err(405));
        check("GET", "/fleet/v1/cordons", Ok(Route::Cordons));
        check("PUT", "/fleet/v1/cordons/self", Ok(Route::PutCordon(Which::This)));
        let id = "00000000000000000000000000000007";
        let this = Which::Id(id.parse().unwrap());
        check("DELETE", &format!("/fleet/v1/cordons/{id}"), Ok(Route::DeleteCordon(this)));
        check("GET", "/fleet/v1/cordons/7", Err(400));
        check("POST", "/fleet/v1/cordons/self", Err(405));
        check("GET", "/fleet/v1/nothing", Err(404));
        check("GET", "/fleet/v2/units", Err(404));
        check("GET", "/", Err(404));
        check("GET", "/fleet/v1/units/%zz", Err(400));
    }

    #[test]
    fn nothing_but_a_unit_name_reaches_a_command_line() {
        for name in ["-M.service", "a b.service", "..%2f.service", "x", "--help", "%00.service", "*.service"]
        {
            let path = format!("/fleet/v1/units/{name}/journal");
            let got = route(&Method::GET, &path, None);
            match got {
                // Leading dashes are legal in a unit's name; it is passed as --unit=NAME.
                Ok(Route::Journal(unit, _)) => assert_eq!(unit.as_str(), "-M.service"),
                other => assert_eq!(other.unwrap_err().code, 400, "{name}"),
            }
        }
    }

    #[test]
    fn journals_are_bounded() {
        let request =
            |lines, follow, output: &str| Request { lines, follow, output: output.parse().unwrap() };
        let cases = [
            ("", Ok(request(10, false, "short"))),
            ("lines=50&follow=1&output=cat", Ok(request(50, true, "cat"))),
            ("lines=100001", Err(400)),
            ("lines=-1", Err(400)),
            ("output=-f", Err(400)),
            ("since=1", Err(400)),
        ];
        for (query, want) in cases {
            let got = journal(&pairs(Some(query)).unwrap()).map_err(|error| error.code);
            assert_eq!(got, want, "{query}");
        }
    }
}
