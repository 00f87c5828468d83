//! How the gateway says no.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;
use tonic::{Code, Status};

/// The HTTP status of a gRPC code. Source: grpc-gateway 1.16,
/// `runtime.HTTPStatusFromCode`.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A refused request with one answer.
pub(super) fn respond(status: &Status) -> Response<Body> {
    with_body(status, plain(status))
}

/// A refused stream, before anything was sent.
pub(super) fn respond_to_stream(status: &Status) -> Response<Body> {
    with_body(status, in_stream(status))
}

fn plain(status: &Status) -> String {
    let message = quoted(status.message());
    format!("{{\"error\":{message},\"code\":{},\"message\":{message}}}", status.code() as i32)
}

/// The line that ends a stream. Source: grpc-gateway's `StreamError`.
pub(super) fn in_stream(status: &Status) -> String {
    let http = http_status(status.code());
    format!(
        "{{\"error\":{{\"grpc_code\":{},\"http_code\":{},\"message\":{},\"http_status\":{}}}}}\n",
        status.code() as i32,
        http.as_u16(),
        quoted(status.message()),
        quoted(http.canonical_reason().unwrap_or_default())
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn with_body(status: &Status, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = http_status(status.code());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_form_of_etcds_gateway() {
        let status = Status::out_of_range("etcdserver: mvcc: \"x\"");
        let want = r#"{"error":"etcdserver: mvcc: \"x\"","code":11,"message":"etcdserver: mvcc: \"x\""}"#;
        assert_eq!(plain(&status), want);
        assert_eq!(http_status(status.code()).as_u16(), 400);
        let want = concat!(
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","#,
            r#""http_status":"Service Unavailable"}}"#,
            "\n"
        );
        assert_eq!(in_stream(&Status::unavailable("etcdserver: no leader")), want);
    }
}
