//! The page that `/metrics` shows.

use std::sync::atomic::Ordering::Relaxed;

use super::text::{Text, label};
use super::{METRICS, calls, process};
use crate::node::Status;
use crate::{CLUSTER_VERSION, PROTOCOL_VERSION};

/// How much the page tells: `--metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// All but how long each kind of call took.
    #[default]
    Basic,
    /// All.
    Extensive,
}

/// What is not counted but looked up when somebody asks.
pub struct Facts {
    /// Where the member stands.
    pub status: Status,
    /// Proposals that wait for an answer.
    pub pending_proposals: usize,
    /// `--quota-backend-bytes`.
    pub quota_bytes: u64,
    /// Bytes of the database on the disk.
    pub database_bytes: u64,
    /// Newest revision.
    pub revision: i64,
    /// Revision up to which history was given up.
    pub compact_revision: i64,
    /// Watchers, and how many of them are behind.
    pub watchers: (usize, usize),
    /// Keys, when they could be counted.
    pub keys: Option<i64>,
    /// How often users and permissions have changed.
    pub auth_revision: u64,
    /// Whether the state is being replaced by a snapshot.
    pub is_replaced: bool,
    /// How much to tell.
    pub detail: Detail,
}

/// The page.
pub fn render(facts: &Facts) -> String {
    let mut text = Text::default();
    server(&mut text, facts);
    store(&mut text, facts);
    disk(&mut text);
    network(&mut text, facts.status.member_id);
    calls::render(&mut text, facts.detail);
    process::render(&mut text);
    text.finish()
}

fn server(text: &mut Text, facts: &Facts) {
    let Status { leader_id, is_leader, is_learner, committed, applied, member_id, .. } = facts.status;
    text.gauge("etcd_server_has_leader", "Whether there is a leader.", u8::from(leader_id != 0));
    text.gauge("etcd_server_is_leader", "Whether this member leads.", u8::from(is_leader));
    text.gauge("etcd_server_is_learner", "Whether this member has no vote.", u8::from(is_learner));
    let changes = METRICS.leader_changes.load(Relaxed);
    text.counter("etcd_server_leader_changes_seen_total", "Times another leader was seen.", changes);
    text.gauge("etcd_server_proposals_committed_total", "Last raft index that is committed.", committed);
    text.gauge("etcd_server_proposals_applied_total", "Last raft index that is applied.", applied);
    let pending = facts.pending_proposals;
    text.gauge("etcd_server_proposals_pending", "Proposals that wait for an answer.", pending);
    let failed = METRICS.proposals_failed.load(Relaxed);
    text.counter("etcd_server_proposals_failed_total", "Proposals without an answer in time.", failed);
    let failed = METRICS.reads_failed.load(Relaxed);
    text.counter("etcd_server_read_indexes_failed_total", "Reads that no majority answered in time.", failed);
    text.gauge("etcd_server_quota_backend_bytes", "Space that data may take.", facts.quota_bytes);
    let slow = METRICS.reads_slow.load(Relaxed);
    text.counter("etcd_server_slow_read_indexes_total", "Of them, those that had a leader to ask.", slow);
    let slow = METRICS.applies_slow.load(Relaxed);
    text.counter("etcd_server_slow_apply_total", "Batches that took over 100 ms to apply.", slow);
    let late = METRICS.heartbeats_late.load(Relaxed);
    text.counter("etcd_server_heartbeat_send_failures_total", "Heartbeats that were late.", late);
    let promoted = METRICS.learners_promoted.load(Relaxed);
    text.counter("etcd_server_learner_promote_successes", "Learners that this leader gave a vote.", promoted);
    let is_replaced = u8::from(facts.is_replaced);
    let help = "Whether a snapshot replaces the data.";
    text.gauge("etcd_server_snapshot_apply_in_progress_total", help, is_replaced);
    text.begin("etcd_server_client_requests_total", "counter", "Requests by their client's version.");
    for (version, counts) in METRICS.versions.counts() {
        for (kind, count) in ["unary", "stream"].into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            text.value(&format!("{},{}", label("client_api_version", &version), label("type", kind)), count);
        }
    }
    let (yes, no) = (METRICS.health_success.load(Relaxed), METRICS.health_failures.load(Relaxed));
    text.counter("etcd_server_health_success", "Times this member was found healthy.", yes);
    text.counter("etcd_server_health_failures", "Times it was not.", no);
    let labels = label("server_id", &format!("{member_id:x}"));
    text.begin("etcd_server_id", "gauge", "This member's id.").value(&labels, 1);
    let labels = label("server_version", PROTOCOL_VERSION);
    text.begin("etcd_server_version", "gauge", "The version of the protocol spoken.").value(&labels, 1);
    let cluster = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
    let labels = label("cluster_version", cluster);
    text.begin("etcd_cluster_version", "gauge", "The version of the cluster.").value(&labels, 1);
}

fn store(text: &mut Text, facts: &Facts) {
    let mut count = |name, help, count: &std::sync::atomic::AtomicU64| {
        text.counter(name, help, count.load(Relaxed));
    };
    count("etcd_mvcc_put_total", "Puts applied.", &METRICS.puts);
    count("etcd_mvcc_delete_total", "Deletions applied.", &METRICS.deletes);
    count("etcd_mvcc_range_total", "Ranges answered.", &METRICS.ranges);
    count("etcd_mvcc_txn_total", "Transactions applied.", &METRICS.txns);
    // The names that these four had before 3.4; dashboards are older than that.
    count("etcd_debugging_mvcc_put_total", "Puts applied.", &METRICS.puts);
    count("etcd_debugging_mvcc_delete_total", "Deletions applied.", &METRICS.deletes);
    count("etcd_debugging_mvcc_range_total", "Ranges answered.", &METRICS.ranges);
    count("etcd_debugging_mvcc_txn_total", "Transactions applied.", &METRICS.txns);
    let help = "Leases that ended by themselves.";
    count("etcd_debugging_server_lease_expired_total", help, &METRICS.leases_expired);
    count("etcd_debugging_lease_renewed_total", "Renewals by this leader.", &METRICS.leases_renewed);
    count("etcd_debugging_lease_granted_total", "Leases granted.", &METRICS.leases_granted);
    count("etcd_debugging_lease_revoked_total", "Leases revoked.", &METRICS.leases_revoked);
    let bytes = facts.database_bytes;
    text.gauge("etcd_mvcc_db_total_size_in_bytes", "Space that the database takes on the disk.", bytes);
    let help = "Space that the database takes on the disk.";
    text.gauge("etcd_debugging_mvcc_db_total_size_in_bytes", help, bytes);
    // Free space inside of files does not exist here.
    text.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Space of it that holds data.", bytes);
    text.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", facts.revision);
    let compacted = facts.compact_revision;
    text.gauge("etcd_debugging_mvcc_compact_revision", "History up to here was given up.", compacted);
    text.gauge("etcd_debugging_auth_revision", "The revision of users and permissions.", facts.auth_revision);
    let streams = METRICS.watch_streams.load(Relaxed);
    text.gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watchers.", streams);
    text.histogram("etcd_mvcc_hash_duration_seconds", "How long hashing took.", &METRICS.hash);
    let help = "How long hashing as of a revision took.";
    text.histogram("etcd_mvcc_hash_rev_duration_seconds", help, &METRICS.hash_by_revision);
    if let Some(keys) = facts.keys {
        text.gauge("etcd_debugging_mvcc_keys_total", "Keys.", keys);
    }
    let (all, behind) = facts.watchers;
    text.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", all);
    text.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up from history.", behind);
}

fn disk(text: &mut Text) {
    let sync = &METRICS.log_sync;
    text.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "How long the raft log took to reach the disk.",
        sync,
    );
    let bytes = METRICS.log_bytes.load(Relaxed);
    text.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the raft log.", bytes);
    let help = "How long a snapshot took to be sent to a client.";
    text.histogram("etcd_disk_backend_snapshot_duration_seconds", help, &METRICS.snapshot);
    let commit = &METRICS.commit;
    let help = "How long a batch took to be in the database.";
    text.histogram("etcd_disk_backend_commit_duration_seconds", help, commit);
}

fn network(text: &mut Text, member_id: u64) {
    let received = METRICS.client_received_bytes.load(Relaxed);
    text.counter("etcd_network_client_grpc_received_bytes_total", "Bytes of clients' messages.", received);
    let sent = METRICS.client_sent_bytes.load(Relaxed);
    text.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients.", sent);
    let peers = METRICS.peers.counts();
    if peers.is_empty() {
        return;
    }
    text.begin("etcd_network_peer_sent_bytes_total", "counter", "Bytes sent to a member.");
    for (member, counts) in &peers {
        text.value(&label("To", &format!("{member:x}")), counts.sent_bytes);
    }
    text.begin("etcd_network_peer_received_bytes_total", "counter", "Bytes received from a member.");
    for (member, counts) in &peers {
        text.value(&label("From", &format!("{member:x}")), counts.received_bytes);
    }
    text.begin("etcd_network_peer_sent_failures_total", "counter", "Chunks that did not reach a member.");
    for (member, counts) in &peers {
        text.value(&label("To", &format!("{member:x}")), counts.failures);
    }
    let pair = |member: u64| {
        format!("{},{}", label("Local", &format!("{member_id:x}")), label("Remote", &format!("{member:x}")))
    };
    text.begin("etcd_network_known_peers", "gauge", "The members that this one knows.");
    for (member, _) in &peers {
        text.value(&pair(*member), 1);
    }
    text.begin("etcd_network_active_peers", "gauge", "Whether a member is connected to.");
    for (member, counts) in &peers {
        text.value(&pair(*member), u8::from(counts.is_connected));
    }
    text.begin(
        "etcd_network_disconnected_peers_total",
        "counter",
        "Times a connection to a member was lost.",
    );
    for (member, counts) in &peers {
        text.value(&pair(*member), counts.disconnections);
    }
    text.begin("etcd_network_peer_round_trip_time_seconds", "histogram", "Time to a member and back.");
    for (member, times) in METRICS.peers.round_trips() {
        text.buckets(&label("To", &format!("{member:x}")), &times);
    }
}
