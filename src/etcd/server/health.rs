//! Whether this member is well: `/health`, `/livez`, `/readyz`.
//!
//! Source: etcd 3.5.16, `etcdhttp/health.go`: paths, queries, words.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, Request, Response, StatusCode, header};
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::{AlarmType, RangeRequest};
use tonic::body::Body;

use crate::grpc::Front;
use crate::http::{method_not_allowed, respond, text};
use crate::metrics::METRICS;

/// One of the questions behind `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
        }
    }
}

/// A member lives as long as it answers from its own state; to be ready it
/// must be part of a majority.
const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead];

/// What a path below `/livez` or `/readyz` asks for; `None` when there is no such path.
fn checks_of(path: &str) -> Option<&'static [Check]> {
    let (all, rest) = match path.strip_prefix("/livez") {
        Some(rest) => (LIVE, rest),
        None => (READY, path.strip_prefix("/readyz")?),
    };
    if rest.is_empty() {
        return Some(all);
    }
    let name = rest.strip_prefix('/')?;
    let number = all.iter().position(|check| check.name() == name)?;
    Some(&all[number..=number])
}

/// Whether the path is one of these.
pub fn is_health(path: &str) -> bool {
    path == "/health" || checks_of(path).is_some()
}

/// Answers `/health`, `/livez`, `/readyz` and what is below them.
pub async fn answer<B>(front: &Arc<Front>, request: &Request<B>) -> Response<Body> {
    if *request.method() != Method::GET {
        return method_not_allowed("GET");
    }
    let query = request.uri().query().unwrap_or_default();
    match checks_of(request.uri().path()) {
        Some(checks) => run_checks(front, checks, query).await,
        None => health(front, query).await,
    }
}

/// The values of one name in a query. Names of alarms and checks need no escapes.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

async fn health(front: &Arc<Front>, query: &str) -> Response<Body> {
    let why_not = why_unhealthy(front, query).await;
    let (count, status) = match why_not {
        None => (&METRICS.health_success, StatusCode::OK),
        Some(_) => (&METRICS.health_failures, StatusCode::SERVICE_UNAVAILABLE),
    };
    count.fetch_add(1, Relaxed);
    let reason = serde_json::Value::from(why_not.clone().unwrap_or_default());
    let body = format!("{{\"health\":\"{}\",\"reason\":{reason}}}", why_not.is_none());
    respond(status, "application/json", body)
}

async fn why_unhealthy(front: &Arc<Front>, query: &str) -> Option<String> {
    for alarm in front.node.alarms() {
        let name = alarm.alarm().as_str_name();
        if values(query, "exclude").all(|excluded| excluded != name) {
            return Some(format!("ALARM {name}"));
        }
    }
    let is_serializable = values(query, "serializable").next() == Some("true");
    if !is_serializable && front.node.status().borrow().leader_id == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if is_serializable { read_here(front) } else { read_everywhere(front).await };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// Each check in a line; a failed one is always told, others when asked for.
async fn run_checks(front: &Arc<Front>, checks: &[Check], query: &str) -> Response<Body> {
    let is_alone = checks.len() == 1;
    let mut lines = String::new();
    let mut is_well = true;
    for check in checks {
        let is_excluded = values(query, "exclude").any(|excluded| excluded == check.name());
        if is_excluded && !is_alone {
            continue;
        }
        match run(front, *check).await {
            Ok(()) => lines += &format!("[+]{} ok\n", check.name()),
            Err(error) => {
                is_well = false;
                lines += &format!("[-]{} failed: {error}\n", check.name());
            }
        }
    }
    if !is_well {
        return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{lines}\n"));
    }
    if values(query, "verbose").next().is_none() {
        lines.clear();
    }
    let mut response = text(StatusCode::OK, &format!("{lines}ok\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

async fn run(front: &Arc<Front>, check: Check) -> Result<(), String> {
    match check {
        Check::DataCorruption => {
            match front.node.alarms().iter().any(|alarm| alarm.alarm() == AlarmType::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            }
        }
        Check::SerializableRead => read_here(front).map_err(|error| error.to_string()),
        Check::LinearizableRead => read_everywhere(front).await.map_err(|error| error.to_string()),
    }
}

/// Whether this member's own state can be read.
fn read_here(front: &Arc<Front>) -> Result<(), EtcdError> {
    let now = front.node.view();
    // A key that nobody has: what counts is that the database answers.
    let request = RangeRequest { key: vec![0].into(), keys_only: true, limit: 1, ..RangeRequest::default() };
    proa_etcd_store::range(&now.view, now.head, &request).map(drop)
}

/// Whether a majority agrees that it can be read.
async fn read_everywhere(front: &Arc<Front>) -> Result<(), EtcdError> {
    front.node.linearizable().await?;
    read_here(front)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_path_of_its_own() {
        #[rustfmt::skip]
        let rows: [(&str, Option<&[Check]>); 8] = [
            ("/livez",                    Some(LIVE)),
            ("/readyz",                   Some(READY)),
            ("/livez/serializable_read",  Some(&[Check::SerializableRead])),
            ("/readyz/linearizable_read", Some(&[Check::LinearizableRead])),
            ("/livez/linearizable_read",  None),
            ("/readyz/",                  None),
            ("/livezx",                   None),
            ("/health",                   None),
        ];
        for (path, want) in rows {
            assert_eq!(checks_of(path), want, "{path}");
        }
    }

    #[test]
    fn a_query_may_say_a_thing_many_times() {
        let query = "exclude=NOSPACE&verbose&exclude=CORRUPT&x=exclude";
        assert_eq!(values(query, "exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert_eq!(values(query, "verbose").count(), 1);
        assert_eq!(values("", "verbose").count(), 0);
    }
}
