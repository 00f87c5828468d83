//! The JSON gateway: a request of JSON becomes a gRPC request to the same
//! services that clients with gRPC ask, and its answer becomes JSON.
//!
//! So there is nothing here that a service would have to know, and nothing that
//! it checks can be gone around: a request carries the caller's token and
//! never anything that was learned from its connection, for a proxy's
//! certificate must not speak for those behind it (CVE-2018-16886).
//!
//! Source: grpc-gateway 1.16 as etcd 3.5 uses it, for paths, status codes and
//! the form of errors and streams.

mod body;
mod error;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use proa_etcd_api::descriptor::Rpc;
use proa_etcd_api::json::{self, BadJson};
use proa_etcd_api::routes;
use tonic::Status;
use tonic::body::Body;

use crate::grpc::{Front, OVERHEAD_BYTES, Services};
use body::{Failure, Messages, Step};

/// How much longer a message is in JSON than on the wire: base64 makes four
/// bytes of three; the rest is for names and blanks.
const JSON_FACTOR: usize = 2;
/// Request headers that a client wants to reach the service begin so.
/// Source: grpc-gateway's `MetadataHeaderPrefix`.
const METADATA: &str = "grpc-metadata-";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers a request whose path begins with `/v3/` or `/v3beta/`.
pub async fn answer(front: &Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let Some(rpc) = routes::find(request.uri().path()) else {
        return error::respond(&Status::not_found("Not Found"));
    };
    if request.method() != Method::POST {
        return error::respond(&Status::unimplemented("Method Not Allowed"));
    }
    let limit = JSON_FACTOR * (front.limits.request_bytes + OVERHEAD_BYTES);
    if rpc.client_streams || rpc.server_streams {
        return stream(front, rpc, request, limit).await;
    }
    match ask_once(front, rpc, request, limit).await {
        Ok(text) => respond(Full::from(text)),
        Err(status) => error::respond(&status),
    }
}

/// One message, one answer.
async fn ask_once(
    front: &Arc<Front>,
    rpc: &'static Rpc,
    request: Request<Incoming>,
    limit: usize,
) -> Result<String, Status> {
    let (parts, incoming) = request.into_parts();
    let message = body::frame(&read_whole(rpc, incoming, limit).await?);
    let asked = to_grpc(rpc, &parts.headers, Body::new(Full::from(message)));
    let mut messages = call(front, asked).await;
    let Step::Message(message) = messages.next().await? else {
        return Err(Status::internal("no answer"));
    };
    // What comes after it says whether it counts.
    while let Step::Message(_) = messages.next().await? {}
    to_text(rpc, &message)
}

async fn read_whole(rpc: &'static Rpc, incoming: Incoming, limit: usize) -> Result<Vec<u8>, Status> {
    let text = match Limited::new(incoming, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(refuse(&BadJson::TooLong { limit })),
        Err(error) => return Err(Status::invalid_argument(error.to_string())),
    };
    json::parse(&text).and_then(|value| json::to_wire(rpc.request, &value)).map_err(|error| refuse(&error))
}

/// Any number of messages or answers. An answer is sent as soon as it is there,
/// one a line.
async fn stream(
    front: &Arc<Front>,
    rpc: &'static Rpc,
    request: Request<Incoming>,
    limit: usize,
) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let failure = Failure::default();
    let body = match rpc.client_streams {
        true => body::requests(rpc.request, incoming, limit, failure.clone()),
        false => match read_whole(rpc, incoming, limit).await {
            Ok(message) => Body::new(Full::from(body::frame(&message))),
            Err(status) => return error::respond(&status),
        },
    };
    let asked = to_grpc(rpc, &parts.headers, body);
    let mut messages = call(front, asked).await;
    // The first step decides the status of the whole.
    match (messages.next().await, failure.take()) {
        (Ok(Step::End) | Err(_), Some(failure)) => error::respond_to_stream(&failure),
        (Err(status), None) => error::respond_to_stream(&status),
        (Ok(first), later) => {
            failure.put_back(later);
            respond(body::answers(rpc.answer, messages, first, failure))
        }
    }
}

/// Asks the services as soon as fewer calls are under way than there may be.
async fn call(front: &Arc<Front>, request: Request<Body>) -> Messages {
    let place = Arc::clone(&front.json_calls).acquire_owned().await.expect("nobody closes it");
    Messages::new(Services::new(front).call(request).await, place)
}

/// The same request as a client with gRPC would send it.
fn to_grpc(rpc: &Rpc, given: &http::HeaderMap, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // Names of the tables have no letters that a path cannot hold.
    *request.uri_mut() = format!("/{}/{}", rpc.service, rpc.method).parse().unwrap_or_default();
    let headers = request.headers_mut();
    for (name, value) in given {
        if let Some(name) = metadata(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// What a request header is called for the service, if it may see it.
fn metadata(name: &HeaderName) -> Option<HeaderName> {
    if *name == header::AUTHORIZATION {
        return Some(header::AUTHORIZATION);
    }
    let name = name.as_str().strip_prefix(METADATA)?;
    // Those of the protocol itself are not a client's to set.
    let is_reserved = name.starts_with("grpc-") || matches!(name, "content-type" | "te" | "content-length");
    if is_reserved { None } else { name.parse().ok() }
}

fn to_text(rpc: &Rpc, message: &[u8]) -> Result<String, Status> {
    json::to_json(rpc.answer, message).map_err(|error| Status::internal(error.to_string()))
}

/// The status of a request that cannot be read.
fn refuse(error: &BadJson) -> Status {
    match error {
        BadJson::TooLong { .. } => Status::resource_exhausted(error.to_string()),
        BadJson::Syntax(_)
        | BadJson::NotAnObject { .. }
        | BadJson::Value { .. }
        | BadJson::SecondChoice { .. } => Status::invalid_argument(error.to_string()),
    }
}

fn respond<B>(body: B) -> Response<Body>
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert("grpc-metadata-content-type", GRPC);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_may_say_reaches_the_service() {
        let rows = [
            ("authorization", Some("authorization")),
            ("grpc-metadata-hasleader", Some("hasleader")),
            ("grpc-metadata-token", Some("token")),
            ("grpc-metadata-grpc-timeout", None),
            ("grpc-metadata-content-type", None),
            ("x-forwarded-for", None),
            ("cookie", None),
        ];
        for (name, want) in rows {
            let got = metadata(&HeaderName::from_static(name));
            assert_eq!(got.as_ref().map(HeaderName::as_str), want, "{name}");
        }
    }
}
