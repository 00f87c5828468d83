//! Plain HTTP on the client port: which path is whose.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;

use crate::gateway;
use crate::grpc::Front;
use crate::{CLUSTER_VERSION, PROTOCOL_VERSION};

/// What browsers are told about every answer. Source: etcd's `addCORSHeader`
/// with its default `--cors=*`.
const CORS: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE")),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization")),
];

/// Answers one plain HTTP request.
pub async fn answer(front: &Arc<Front>, request: Request<Incoming>) -> http::Response<Body> {
    // A browser asks before it sends.
    let mut response = match *request.method() {
        Method::OPTIONS => http::Response::new(Body::empty()),
        _ => route(front, request).await,
    };
    allow_origins(response.headers_mut());
    response
}

fn allow_origins(headers: &mut HeaderMap) {
    headers.extend(CORS);
}

async fn route(front: &Arc<Front>, request: Request<Incoming>) -> http::Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    if path.starts_with("/v3/") || path.starts_with("/v3beta/") {
        return gateway::answer(front, request).await;
    }
    if path.starts_with("/v2/") {
        return crate::v2::answer(front, request).await;
    }
    if !matches!(path, "/health" | "/version" | "/livez" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if *method != Method::GET && *method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    }
    match path {
        "/health" => health(front).await,
        "/readyz" => ready(front).await,
        "/livez" => text(StatusCode::OK, "ok\n"),
        _ => {
            let body =
                format!("{{\"etcdserver\":\"{PROTOCOL_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\"}}");
            json(StatusCode::OK, body)
        }
    }
}

/// Source: etcd's `/health`: healthy means no alarm, a leader, and a read that
/// the majority answered.
async fn health(front: &Arc<Front>) -> http::Response<Body> {
    match reason(front).await {
        None => json(StatusCode::OK, "{\"health\":\"true\",\"reason\":\"\"}".to_owned()),
        Some(reason) => {
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}");
            json(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

async fn ready(front: &Arc<Front>) -> http::Response<Body> {
    match front.node.linearizable().await {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n")),
    }
}

async fn reason(front: &Arc<Front>) -> Option<&'static str> {
    if front.node.status().borrow().leader_id == 0 {
        return Some("RAFT NO LEADER");
    }
    if front.node.linearizable().await.is_err() {
        return Some("QGET ERROR");
    }
    match front.has_space_alarm().await {
        Ok(false) => None,
        Ok(true) => Some("ALARM NOSPACE"),
        Err(_) => Some("ALARM ERROR"),
    }
}

fn text(status: StatusCode, body: &str) -> http::Response<Body> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json(status: StatusCode, body: String) -> http::Response<Body> {
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
