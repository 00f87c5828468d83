//! A store under comparison: one process with one member, and calls to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proa_etcd_client::api::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::etcd::{PATIENCE, free_url, proa};
use crate::v2::Http;

/// Small, so that big values and what does not fit are cheap to send.
const MAX_REQUEST_BYTES: usize = 100_000;

/// How often a store that does not start is started.
const STARTS: usize = 5;

/// Whose program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The real etcd.
    Oracle,
    Ours,
}

/// A running store; killed when dropped.
pub struct Peer {
    pub whose: Whose,
    pub channel: Channel,
    /// For the v2 API.
    pub http: Http,
    pub url: String,
    log: PathBuf,
    child: Child,
}

impl Peer {
    /// Starts a store with its data below `folder` and waits until it serves.
    ///
    /// A port that was free may be taken by the time it is listened on, by a
    /// connection of anybody on this machine: then other ports are tried.
    pub async fn start(whose: Whose, oracle: &Path, folder: &Path) -> Self {
        for attempt in 1..=STARTS {
            let mut peer = Self::spawn(whose, oracle, &folder.join(format!("{whose:?}{attempt}")));
            if peer.serves().await {
                return peer;
            }
        }
        panic!("{whose:?} did not start {STARTS} times");
    }

    fn spawn(whose: Whose, oracle: &Path, folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let (url, peer) = (free_url(), free_url());
        let log = folder.join("log");
        let mut command = match whose {
            Whose::Oracle => Command::new(oracle),
            Whose::Ours => Command::new(proa()),
        };
        if whose == Whose::Ours {
            command.arg("etcd");
        }
        let child = command
            .arg("--name=m0")
            .arg(format!("--data-dir={}", folder.join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=m0={peer}"))
            .arg("--enable-v2")
            .arg(format!("--max-request-bytes={MAX_REQUEST_BYTES}"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{whose:?}: {error}"));
        let channel = Endpoint::from_shared(url.clone()).unwrap().tcp_nodelay(true).connect_lazy();
        Self { whose, channel, http: crate::v2::client(), url, log, child }
    }

    /// Waits for the first answer; `false` if the process ended instead.
    async fn serves(&mut self) -> bool {
        let begun = std::time::Instant::now();
        let request = RangeRequest { key: "ready?".into(), ..RangeRequest::default() };
        loop {
            if self.child.try_wait().unwrap().is_some() {
                println!("{:?} ended: {}", self.whose, self.stderr());
                return false;
            }
            match self.call::<_, RangeResponse>("/etcdserverpb.KV/Range", request.clone()).await {
                Ok(_) => return true,
                Err(refusal) => {
                    assert!(begun.elapsed() < PATIENCE, "{:?}: {refusal:?}\n{}", self.whose, self.stderr());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One request, one answer.
    pub async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// A client that is ready for a call.
    pub async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    /// The last of what the process said; etcd's lines hold whole requests.
    pub fn stderr(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(|line| line.chars().take(200).collect()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real etcd's program of a version, fetched when it is not there yet.
pub fn oracle(version: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("buildroot/peers.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "buildroot/peers.sh failed");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut rows = lines.lines().filter_map(|line| line.split_once(' '));
    let (_, folder) = rows.find(|(found, _)| *found == version).expect("a version that peers.sh fetches");
    Path::new(folder).join("usr/bin/etcd")
}
