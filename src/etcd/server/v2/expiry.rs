//! Ends v2 nodes whose time is over: by the leader's clock, through the log.

use std::time::Duration;

use proa_etcd_api::command::{Command, V2Expire, command::Op};
use proa_etcd_store::v2 as store;

use super::now_ns;
use crate::node::Node;

/// How exactly nodes end. Source: etcd's `SyncTicker`.
const TICK: Duration = Duration::from_millis(500);

/// Looks for as long as the process lives.
pub async fn run(node: Node) {
    loop {
        while is_due(&node) {
            let command = Command { op: Some(Op::V2Expire(V2Expire { now_ns: now_ns() })) };
            if let Err(error) = node.propose_as_member(command).await {
                tracing::warn!("v2 nodes whose time is over stay for now: {error}");
                break;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

fn is_due(node: &Node) -> bool {
    let leads = node.status().borrow().is_leader;
    leads && store::next_expiry(&node.view().view).is_some_and(|expires_ns| expires_ns <= now_ns())
}
