//! Plain HTTP on the client port: which path is whose.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use proa_etcd_api::etcdserverpb::RangeRequest;
use tonic::body::Body;

use crate::grpc::Front;
use crate::{CLUSTER_VERSION, PROTOCOL_VERSION, gateway, health, metrics};

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
    let path = request.uri().path();
    if front.serves_json && (path.starts_with("/v3/") || path.starts_with("/v3beta/")) {
        return gateway::answer(front, request).await;
    }
    if path.starts_with("/v2/") {
        return crate::v2::answer(front, request).await;
    }
    if let Some(response) = answer_watchman(front, &request).await {
        return response;
    }
    match path {
        "/version" if *request.method() == Method::GET => {
            let body =
                format!("{{\"etcdserver\":\"{PROTOCOL_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\"}}");
            json(StatusCode::OK, body)
        }
        "/version" => method_not_allowed("GET"),
        _ => not_found(),
    }
}

/// Answers a request on a port of `--listen-metrics-urls`.
pub async fn answer_metrics_port(front: &Arc<Front>, request: Request<Incoming>) -> http::Response<Body> {
    answer_watchman(front, &request).await.unwrap_or_else(not_found)
}

/// What is asked by those who look after a member; `None` when it is something else.
async fn answer_watchman<B>(front: &Arc<Front>, request: &Request<B>) -> Option<http::Response<Body>> {
    if health::is_health(request.uri().path()) {
        return Some(health::answer(front, request).await);
    }
    if request.uri().path() != "/metrics" {
        return None;
    }
    if *request.method() != Method::GET {
        return Some(method_not_allowed("GET"));
    }
    if let Some(counting) = front.keys.begin() {
        count_keys(front, counting).await;
    }
    Some(respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics_page(front)))
}

/// Goes on when whoever asked does not wait for it: the next one has the number.
async fn count_keys(front: &Arc<Front>, counting: metrics::Counting) {
    let front = Arc::clone(front);
    let counted = tokio::task::spawn_blocking(move || {
        let now = front.node.view();
        let all = Bytes::from_static(&[0]);
        let request =
            RangeRequest { key: all.clone(), range_end: all, count_only: true, ..RangeRequest::default() };
        match proa_etcd_store::range(&now.view, now.head, &request) {
            Ok(answer) => front.keys.counted(counting, now.head.revision, answer.count),
            Err(_) => front.keys.forget(),
        }
    });
    // Nothing is counted in a process that ends.
    let _ = counted.await;
}

fn metrics_page(front: &Front) -> String {
    let head = front.node.view().head;
    metrics::render(&metrics::Facts {
        status: front.node.status().borrow().clone(),
        pending_proposals: front.node.pending_proposals(),
        quota_bytes: front.limits.quota_bytes,
        database_bytes: front.space.database_bytes(),
        revision: head.revision,
        compact_revision: head.compact_revision,
        watchers: front.hub.counts(),
        keys: front.keys.get(),
        auth_revision: front.node.auth_stamp().revision,
        is_replaced: front.node.is_being_replaced(),
        detail: front.metrics,
    })
}

fn not_found() -> http::Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The answer to a method that a path does not have.
pub fn method_not_allowed(allowed: &'static str) -> http::Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An answer of plain text.
pub fn text(status: StatusCode, body: &str) -> http::Response<Body> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json(status: StatusCode, body: String) -> http::Response<Body> {
    respond(status, "application/json", body)
}

/// An answer of any text.
pub fn respond(status: StatusCode, content_type: &'static str, body: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
