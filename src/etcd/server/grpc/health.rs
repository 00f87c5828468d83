//! `grpc.health.v1`: what probes and balancing clients ask any gRPC server.
//!
//! Source: etcd 3.5, which registers grpc-go's `health.Server` and sets nothing
//! but the whole server, which serves; `/health` and `/readyz` look deeper.

use futures_util::{Stream, StreamExt as _, stream};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::health_server::Health;
use super::pb::health::{HealthCheckRequest, HealthCheckResponse};

/// Answers for the whole server, whose name is empty.
#[derive(Clone, Copy, Debug)]
pub struct Probes;

fn status_of(service: &str) -> ServingStatus {
    if service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown }
}

#[tonic::async_trait]
impl Health for Probes {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match status_of(&request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = status_of(&request.get_ref().service);
        Ok(Response::new(Box::pin(once_and_open(HealthCheckResponse { status: status.into() }))))
    }
}

/// What nothing follows, on a stream that does not end: it would be asked again.
fn once_and_open(
    answer: HealthCheckResponse,
) -> impl Stream<Item = Result<HealthCheckResponse, Status>> + Send {
    stream::once(std::future::ready(Ok(answer))).chain(stream::pending())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn ask(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn the_server_serves_and_no_part_of_it_is_known() {
        let answer = Probes.check(ask("")).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
        let refused = Probes.check(ask("etcdserverpb.KV")).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (tonic::Code::NotFound, "unknown service"));
        for (service, want) in [("", ServingStatus::Serving), ("x", ServingStatus::ServiceUnknown)] {
            let mut told = Probes.watch(ask(service)).await.unwrap().into_inner();
            assert_eq!(told.next().await.unwrap().unwrap().status(), want);
        }
    }
}
