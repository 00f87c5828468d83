//! Answers of the v2 API: status, headers, body.

use std::fmt::Display;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use proa_etcd_api::v2::{V2Error, json, path};
use tonic::body::Body;

use crate::grpc::Front;

const PLAIN: &str = "text/plain; charset=utf-8";

/// An answer with a body of a type.
pub fn typed(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    typed(status, "application/json", body)
}

/// Words for a person. Source: Go's `http.Error`.
pub fn words(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = typed(status, PLAIN, body.as_bytes().to_vec());
    let options = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, options);
    response
}

/// Nothing is here.
pub fn not_found() -> Response<Body> {
    words(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The path cannot be read.
pub fn bad_request() -> Response<Body> {
    typed(StatusCode::BAD_REQUEST, PLAIN, b"400 Bad Request".to_vec())
}

/// `method` is none of `allowed`.
pub fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response = words(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The same is at `location`.
pub fn redirect(method: &Method, location: &str) -> Response<Body> {
    let shown = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n");
    // Source: Go's `http.Redirect` explains itself only to who reads.
    let mut response = match *method {
        Method::GET | Method::HEAD => typed(StatusCode::OK, "text/html; charset=utf-8", body.into_bytes()),
        _ => Response::new(Body::empty()),
    };
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    set(response.headers_mut(), "location", location);
    response
}

/// Says which cluster this is.
pub fn tell_cluster(headers: &mut HeaderMap, front: &Front) {
    let id = front.node.status().borrow().cluster_id;
    set(headers, "x-etcd-cluster-id", format!("{id:x}"));
}

/// Says how far the tree and raft are.
pub fn tell_indexes(headers: &mut HeaderMap, front: &Front, etcd_index: u64) {
    let (applied, term) = {
        let status = front.node.status();
        let status = status.borrow();
        (status.applied, status.term)
    };
    set(headers, "x-etcd-index", etcd_index);
    set(headers, "x-raft-index", applied);
    set(headers, "x-raft-term", term);
}

/// A refusal of a request for keys.
pub fn refusal(error: &V2Error) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, json::error(error, path::KEYS));
    set(response.headers_mut(), "x-etcd-index", error.index);
    response
}

/// A refusal of anything else. Source: etcd's `httptypes.HTTPError`.
pub fn message(status: StatusCode, text: &str) -> Response<Body> {
    let mut body = b"{\"message\":".to_vec();
    json::push_text(&mut body, text.as_bytes());
    body.push(b'}');
    json(status, body)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: impl Display) {
    // A location was escaped; everything else is a number or a constant.
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        headers.insert(name, value);
    }
}
