//! `/v2/keys`: reads, writes and who waits.

use std::sync::Arc;

use http::{Method as Verb, Response, StatusCode};
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, V2Event, V2Write, command::Op, v2_event::Action};
use proa_etcd_api::v2::request::{self, Method, Wish};
use proa_etcd_api::v2::{V2Code, V2Error, json, path};
use proa_etcd_store::{Reply, v2 as store};
use prost::Message as _;
use tonic::body::Body;

use super::waiting::{self, Wanted};
use super::{Asked, body, internal, now_ns, reply, users};
use crate::grpc::Front;

/// Answers a request for keys.
pub async fn answer(asked: Asked<'_>) -> Response<Body> {
    let method = match asked.method {
        Verb::GET => Method::Get,
        Verb::HEAD => Method::Head,
        Verb::PUT => Method::Put,
        Verb::POST => Method::Post,
        Verb::DELETE => Method::Delete,
        _ => return reply::wrong_method("HEAD,GET,PUT,POST,DELETE"),
    };
    let front = asked.front;
    let mut response = match perform(asked, method).await {
        Ok(response) => response,
        Err(error) => reply::refusal(&error),
    };
    reply::tell_cluster(response.headers_mut(), front);
    response
}

async fn perform(asked: Asked<'_>, method: Method) -> Result<Response<Body>, V2Error> {
    let Asked { front, v2, path: target, .. } = asked;
    let (head, body) = asked.request.into_parts();
    let form = body::form(&head.method, &head.headers, head.uri.query(), body).await?;
    let request = request::parse(method, &target[b"/v2/keys".len()..], &form, now_ns())?;
    let key = permitted(&request.path, &target);
    if !users::may(front, v2, &head, &key, request.recursive).await {
        return Err(V2Error::of_request(V2Code::Unauthorized, "Insufficient credentials"));
    }
    match request.wish {
        Wish::Get { recursive, quorum } => {
            if quorum {
                front.node.linearizable().await.map_err(internal)?;
            }
            let (read, index) = get(front, request.path, recursive).await;
            v2.counters.count_read(read.is_ok());
            Ok(told(front, &read?, index, false))
        }
        Wish::Wait { recursive, stream, since } => {
            let watch = store::Watch { path: request.path, recursive };
            waiting::answer(front, v2, Wanted { watch, stream, since }).await
        }
        Wish::Write(write) => {
            let event = propose(front, write).await?;
            let index = event.node.as_ref().map_or(0, |node| node.modified_index);
            Ok(told(front, &event, index, request.no_value_on_success))
        }
    }
}

/// The key that permissions are compared with. As it is asked for: with a slash at
/// its end a directory is covered by what covers everything in it (`/foo/*`).
fn permitted(node: &[u8], target: &[u8]) -> Vec<u8> {
    let mut key = node.strip_prefix(path::KEYS).unwrap_or_default().to_vec();
    if key.is_empty() || (target.ends_with(b"/") && !key.ends_with(b"/")) {
        key.push(b'/');
    }
    key
}

/// Reads a node of the applied state, and how far the tree is.
pub async fn get(front: &Arc<Front>, path: Vec<u8>, recursive: bool) -> (Result<V2Event, V2Error>, u64) {
    let now = front.node.view();
    // A directory may be large: not on a thread that serves others.
    let is_long = store::is_dir(&now.view, &path);
    let read = move || {
        let index = store::head(&now.view).map_or(0, |head| head.index);
        (store::get(&now.view, &path, recursive, now_ns()), index)
    };
    if !is_long {
        return read();
    }
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => (Err(V2Error::of_request(V2Code::RaftInternal, error.to_string())), 0),
    }
}

/// Has a change agreed on.
pub async fn propose(front: &Arc<Front>, write: V2Write) -> Result<V2Event, V2Error> {
    let op = Op::V2Write(write);
    if front.space.is_low() && proa_etcd_store::takes_space(&op) {
        return Err(internal(EtcdError::NoSpace));
    }
    let command = Command { op: Some(op) };
    if command.encoded_len() > front.limits.request_bytes {
        return Err(internal(EtcdError::RequestTooLarge));
    }
    match front.node.propose(command).await.map_err(internal)? {
        Reply::V2(done) => done,
        other => {
            let why = format!("unexpected answer of the store: {other:?}");
            Err(V2Error::of_request(V2Code::RaftInternal, why))
        }
    }
}

fn told(front: &Arc<Front>, event: &V2Event, index: u64, no_value_on_success: bool) -> Response<Body> {
    let action = event.action();
    let created = match action {
        Action::Create => true,
        Action::Set => event.prev_node.is_none(),
        _ => false,
    };
    let writes_value =
        matches!(action, Action::Set | Action::CompareAndSwap | Action::Create | Action::Update);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = reply::json(status, json::keys_event(event, no_value_on_success && writes_value));
    reply::tell_indexes(response.headers_mut(), front, index);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_counts_for_permissions_and_nothing_else_does() {
        let rows = [
            ("/v2/keys", "/1", "/"),
            ("/v2/keys/", "/1/", "/"),
            ("/v2/keys/a", "/1/a", "/a"),
            ("/v2/keys/a//", "/1/a", "/a/"),
            ("/v2/keys/a/../b/", "/1/b", "/b/"),
        ];
        for (target, node, want) in rows {
            assert_eq!(permitted(node.as_bytes(), target.as_bytes()), want.as_bytes(), "{target}");
        }
    }
}
