//! One request: which endpoint, how long, and whether to try the next one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::error::{Error, classify};
use crate::login::Login;
use crate::route::Route;
use crate::tls::ClientTls;

/// How long a client waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the TCP connection to one endpoint.
    pub connect: Duration,
    /// For the answer of one endpoint to one request.
    pub request: Duration,
}

impl Default for Timeouts {
    /// Two and five seconds: the usual ones of etcd's own clients, so that a
    /// leader election (about 1.3 s) ends inside one request.
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), request: Duration::from_secs(5) }
    }
}

/// Whether a request may be carried out twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or the same thing again.
    Safe,
    /// Only when no member has seen the first one.
    IfUnsent,
}

/// What all clones of a client share.
pub(crate) struct Caller {
    pub(crate) members: Arc<Route>,
    pub(crate) timeouts: Timeouts,
    pub(crate) login: Option<Login>,
}

impl Caller {
    pub(crate) fn new(
        endpoints: &[String],
        timeouts: Timeouts,
        tls: Option<&ClientTls>,
    ) -> Result<Arc<Self>, Error> {
        let members = Route::new(endpoints, timeouts, tls)?;
        Ok(Arc::new(Self { members, timeouts, login: None }))
    }

    /// Asks the endpoints in turn, each at most once, until one answers. One
    /// that refuses the token is asked again with a new one, once.
    pub(crate) async fn call<Q, A, F, Fut>(&self, repeat: Repeat, request: Q, send: F) -> Result<A, Error>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut tries_left = self.members.count();
        let mut may_log_in = true;
        loop {
            let (number, channel) = self.members.current();
            let answer = match self.signed(&channel, request.clone()).await {
                Ok(request) => self.ask_once(send(channel, request)).await,
                Err(error) => Err(error.before_the_request()),
            };
            if let Err(error) = &answer
                && may_log_in
                && self.is_token_void(error)
            {
                may_log_in = false;
                continue;
            }
            let Err(error @ Error::Unavailable { .. }) = answer else {
                self.members.answered();
                return answer;
            };
            self.members.leave(number);
            tries_left -= 1;
            let may_repeat = repeat == Repeat::Safe || error.is_without_effect();
            if tries_left == 0 || !may_repeat {
                return Err(error);
            }
        }
    }

    /// One attempt with its deadline.
    pub(crate) async fn ask_once<A>(
        &self,
        sending: impl Future<Output = Result<Response<A>, Status>>,
    ) -> Result<A, Error> {
        match tokio::time::timeout(self.timeouts.request, sending).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(classify(status)),
            Err(_) => Err(Error::Unavailable {
                text: format!("no answer in {} ms", self.timeouts.request.as_millis()),
                sent: true,
            }),
        }
    }
}
