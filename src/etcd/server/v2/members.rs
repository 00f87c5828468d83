//! `/v2/members` and `/v2/machines`: who the members are.

use std::sync::Arc;

use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::url;
use proa_etcd_api::v2::json::push_text;
use tonic::body::Body;

use super::{Asked, body, reply, users};
use crate::grpc::Front;
use crate::node::{MemberChange, MembersChanged};

/// The largest body: a few URLs.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Answers `/v2/machines`: every client URL.
pub fn machines(asked: &Asked<'_>) -> Response<Body> {
    if asked.method != Method::GET && asked.method != Method::HEAD {
        return reply::wrong_method("GET,HEAD");
    }
    let members = asked.front.node.members();
    let mut urls: Vec<String> = members.into_iter().flat_map(|member| member.client_urls).collect();
    urls.sort();
    reply::typed(StatusCode::OK, "text/plain; charset=utf-8", urls.join(", ").into_bytes())
}

/// Answers `/v2/members` and what is below.
pub async fn answer(asked: Asked<'_>) -> Response<Body> {
    if ![Method::GET, Method::POST, Method::DELETE, Method::PUT].contains(&asked.method) {
        return reply::wrong_method("GET,POST,DELETE,PUT");
    }
    let front = asked.front;
    if asked.method != Method::GET && !users::is_root(front, asked.v2, &asked.request).await {
        return reply::message(StatusCode::UNAUTHORIZED, "Insufficient credentials");
    }
    let rest = asked.path[b"/v2/members".len()..].to_vec();
    let rest = String::from_utf8_lossy(rest.strip_prefix(b"/").unwrap_or(&rest)).into_owned();
    let mut response = match asked.method {
        Method::GET => list(front, &rest),
        Method::POST => add(front, asked.request).await,
        _ if rest.is_empty() => reply::words(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"),
        method => match u64::from_str_radix(&rest, 16) {
            Ok(id) if method == Method::DELETE => remove(front, id).await,
            Ok(id) => update(front, id, asked.request).await,
            Err(_) => unknown(&rest),
        },
    };
    reply::tell_cluster(response.headers_mut(), front);
    response
}

fn list(front: &Arc<Front>, rest: &str) -> Response<Body> {
    let members = front.node.members();
    match rest {
        "" => {
            let mut out = b"{\"members\":[".to_vec();
            for (number, member) in members.iter().enumerate() {
                out.extend_from_slice(if number == 0 { b"" } else { b"," });
                push_member(&mut out, member);
            }
            out.extend_from_slice(b"]}\n");
            reply::json(StatusCode::OK, out)
        }
        "leader" => {
            let leader_id = front.node.status().borrow().leader_id;
            match members.iter().find(|member| member.id == leader_id) {
                Some(leader) => reply::json(StatusCode::OK, told(leader)),
                None => reply::message(StatusCode::SERVICE_UNAVAILABLE, "During election"),
            }
        }
        _ => reply::message(StatusCode::NOT_FOUND, "Not found"),
    }
}

async fn add(front: &Arc<Front>, request: http::Request<Incoming>) -> Response<Body> {
    let peer_urls = match peer_urls(request).await {
        Ok(peer_urls) => peer_urls,
        Err((status, why)) => return reply::message(status, &why),
    };
    match front.node.change_members(MemberChange::Add { peer_urls, learner: false }).await {
        Ok(MembersChanged { member, .. }) => reply::json(StatusCode::CREATED, told(&member)),
        Err(error) => refused(front, error, 0),
    }
}

async fn remove(front: &Arc<Front>, id: u64) -> Response<Body> {
    match front.node.change_members(MemberChange::Remove { id }).await {
        Ok(_) => done(),
        Err(error) => refused(front, error, id),
    }
}

async fn update(front: &Arc<Front>, id: u64, request: http::Request<Incoming>) -> Response<Body> {
    let peer_urls = match peer_urls(request).await {
        Ok(peer_urls) => peer_urls,
        Err((status, why)) => return reply::message(status, &why),
    };
    match front.node.change_members(MemberChange::Update { id, peer_urls }).await {
        Ok(_) => done(),
        Err(error) => refused(front, error, id),
    }
}

fn done() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn unknown(id: &str) -> Response<Body> {
    reply::message(StatusCode::NOT_FOUND, &format!("No such member: {id}"))
}

fn refused(front: &Front, error: EtcdError, id: u64) -> Response<Body> {
    match error {
        EtcdError::MemberNotFound if front.node.was_removed(id) => {
            reply::message(StatusCode::GONE, &format!("Member permanently removed: {id:x}"))
        }
        EtcdError::MemberNotFound => unknown(&format!("{id:x}")),
        // Source: etcd's `membership` errors, which are not those of v3.
        EtcdError::PeerUrlExists => reply::message(StatusCode::CONFLICT, "membership: peerURL exists"),
        EtcdError::MemberExists => reply::message(StatusCode::CONFLICT, "membership: ID exists"),
        EtcdError::MemberBadUrls => reply::message(StatusCode::BAD_REQUEST, error.text()),
        error => reply::message(StatusCode::INTERNAL_SERVER_ERROR, error.text()),
    }
}

/// The `peerURLs` of the body, sorted; or why not.
async fn peer_urls(request: http::Request<Incoming>) -> Result<Vec<String>, (StatusCode, String)> {
    let bad = |text: &str| Err((StatusCode::BAD_REQUEST, text.to_owned()));
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_lowercase();
    if kind != "application/json" {
        let text = format!("Bad Content-Type {kind}, accept application/json");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let Ok(body) = body::read(request.into_body(), MAX_BODY_BYTES).await else {
        return bad("the body is larger than 64 KiB or was cut off");
    };
    let json: serde_json::Value = match serde_json::from_slice(&body) {
        Ok(json) => json,
        Err(error) => return bad(&format!("give {{\"peerURLs\":[\"http://HOST:PORT\"]}}: {error}")),
    };
    let urls = json.get("peerURLs").and_then(|urls| urls.as_array().cloned()).unwrap_or_default();
    if urls.is_empty() {
        return bad("no valid URLs given");
    }
    let mut peer_urls = Vec::new();
    for item in urls {
        let Some(text) = item.as_str().map(str::trim) else { return bad("a URL is text") };
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        if !matches!(scheme, "http" | "https" | "unix" | "unixs") {
            return bad(&format!("URL scheme must be http, https, unix, or unixs: {text}"));
        }
        if let Err(right) = url::parse(text) {
            return bad(&format!("peer URL {text:?}: {right}"));
        }
        peer_urls.push(text.to_owned());
    }
    peer_urls.sort();
    Ok(peer_urls)
}

fn told(member: &Member) -> Vec<u8> {
    let mut out = Vec::new();
    push_member(&mut out, member);
    out.push(b'\n');
    out
}

fn push_member(out: &mut Vec<u8>, member: &Member) {
    out.extend_from_slice(format!("{{\"id\":\"{:x}\",\"name\":", member.id).as_bytes());
    push_text(out, member.name.as_bytes());
    for (name, urls) in [("peerURLs", &member.peer_urls), ("clientURLs", &member.client_urls)] {
        out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
        for (number, url) in urls.iter().enumerate() {
            out.extend_from_slice(if number == 0 { b"" } else { b"," });
            push_text(out, url.as_bytes());
        }
        out.push(b']');
    }
    out.push(b'}');
}
