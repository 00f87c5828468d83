//! `/v2/stats`: what this member has counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Response, StatusCode};
use proa_etcd_api::command::{V2Event, v2_event::Action, v2_write::Kind};
use proa_etcd_api::v2::json::{push_text, time};
use tonic::body::Body;

use super::{Asked, now_ns, reply};
use crate::metrics::METRICS;
use crate::metrics::peers::Counts;
use crate::node::Node;

/// Requests since the start, by kind and success.
#[derive(Default)]
pub struct Counters {
    gets: Pair,
    sets: Pair,
    deletes: Pair,
    updates: Pair,
    creates: Pair,
    swaps: Pair,
    compared_deletes: Pair,
    expired: AtomicU64,
}

#[derive(Default)]
struct Pair {
    success: AtomicU64,
    fail: AtomicU64,
}

impl Pair {
    fn count(&self, succeeded: bool) {
        let counter = if succeeded { &self.success } else { &self.fail };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// Counts a read.
    pub fn count_read(&self, succeeded: bool) {
        self.gets.count(succeeded);
    }

    /// Counts a write of whatever member.
    pub fn count_write(&self, kind: Kind, succeeded: bool) {
        let pair = match kind {
            Kind::Set => &self.sets,
            Kind::Create | Kind::CreateInOrder => &self.creates,
            Kind::Update => &self.updates,
            Kind::CompareAndSwap => &self.swaps,
            Kind::Delete => &self.deletes,
            Kind::CompareAndDelete => &self.compared_deletes,
        };
        pair.count(succeeded);
    }

    /// Counts what nobody asked for.
    pub fn count_event(&self, event: &V2Event) {
        if event.action() == Action::Expire {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Source: etcd's `v2store.Stats`.
    fn json(&self, watchers: usize) -> String {
        let pairs = [
            ("gets", &self.gets),
            ("sets", &self.sets),
            ("delete", &self.deletes),
            ("update", &self.updates),
            ("create", &self.creates),
            ("compareAndSwap", &self.swaps),
            ("compareAndDelete", &self.compared_deletes),
        ];
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let fields = pairs.map(|(name, pair)| {
            let (success, fail) = (counted(&pair.success), counted(&pair.fail));
            format!("\"{name}Success\":{success},\"{name}Fail\":{fail}")
        });
        let expired = counted(&self.expired);
        format!("{{{},\"expireCount\":{expired},\"watchers\":{watchers}}}", fields.join(","))
    }
}

/// Since when this member runs, and since when it has followed its leader.
pub struct Since {
    started_ns: i64,
    leader: Mutex<Leader>,
}

struct Leader {
    id: u64,
    since_ns: i64,
    since: Instant,
}

impl Since {
    /// Looks at `node` from now on, for as long as it lives.
    pub fn start(node: &Node) -> Arc<Self> {
        let leader = Leader { id: 0, since_ns: now_ns(), since: Instant::now() };
        let since = Arc::new(Self { started_ns: now_ns(), leader: Mutex::new(leader) });
        let (told, mut status) = (Arc::clone(&since), node.status());
        tokio::spawn(async move {
            loop {
                told.note(status.borrow_and_update().leader_id);
                if status.changed().await.is_err() {
                    return;
                }
            }
        });
        since
    }

    fn note(&self, id: u64) {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if leader.id != id {
            *leader = Leader { id, since_ns: now_ns(), since: Instant::now() };
        }
    }

    /// Source: etcd's `v2stats.ServerStats`, without the counts of raft
    /// messages, which nobody counts here.
    fn json(&self, node: &Node) -> Vec<u8> {
        let (id, is_leader) = {
            let status = node.status();
            let status = status.borrow();
            (status.member_id, status.is_leader)
        };
        let members = node.members();
        let name = members.iter().find(|member| member.id == id).map_or("", |member| member.name.as_str());
        let state = if is_leader { "StateLeader" } else { "StateFollower" };
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let leader_id = if leader.id == 0 { String::new() } else { format!("{:x}", leader.id) };
        let mut out = b"{\"name\":".to_vec();
        push_text(&mut out, name.as_bytes());
        let rest = format!(
            ",\"id\":\"{id:x}\",\"state\":\"{state}\",\"startTime\":\"{}\",\"leaderInfo\":{{\"leader\":\"{leader_id}\",\
             \"uptime\":\"{}\",\"startTime\":\"{}\"}}}}",
            time(self.started_ns),
            go_duration(leader.since.elapsed()),
            time(leader.since_ns)
        );
        out.extend_from_slice(rest.as_bytes());
        out
    }
}

/// A duration as Go writes it, from seconds up: `1h2m3.5s`.
fn go_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let tail = format!("{}{fraction}s", seconds % 60);
    match (hours, minutes) {
        (0, 0) => tail,
        (0, minutes) => format!("{minutes}m{tail}"),
        (hours, minutes) => format!("{hours}h{minutes}m{tail}"),
    }
}

/// What the leader `id` knows of those who follow it. A chunk, several messages
/// on their way together, counts as one.
///
/// Source: etcd's `v2stats.LeaderStats`, times in milliseconds.
fn leader_json<'a>(id: u64, followers: impl Iterator<Item = &'a (u64, Counts)>) -> String {
    let ms = |us: f64| us / 1000.0;
    let follower = |(id, counts): &(u64, Counts)| {
        let latency = counts.latency;
        let (average, spread) = latency.spread_us();
        format!(
            "\"{id:x}\":{{\"latency\":{{\"current\":{},\"average\":{},\"standardDeviation\":{},\"minimum\":{},\
             \"maximum\":{}}},\"counts\":{{\"fail\":{},\"success\":{}}}}}",
            ms(latency.last_us as f64),
            ms(average),
            ms(spread),
            ms(latency.least_us as f64),
            ms(latency.most_us as f64),
            counts.failures,
            counts.chunks
        )
    };
    let followers: Vec<String> = followers.map(follower).collect();
    format!("{{\"leader\":\"{id:x}\",\"followers\":{{{}}}}}", followers.join(","))
}

/// Answers a request below `/v2/stats/`.
pub fn answer(asked: &Asked<'_>) -> Response<Body> {
    if asked.method != Method::GET {
        return reply::wrong_method("GET");
    }
    let body = match asked.path.as_slice() {
        b"/v2/stats/leader" => {
            let node = &asked.front.node;
            let (id, is_leader) = {
                let status = node.status();
                let status = status.borrow();
                (status.member_id, status.is_leader)
            };
            if !is_leader {
                return reply::message(StatusCode::FORBIDDEN, "not current leader");
            }
            let members = node.members();
            let is_other = |id: &u64| members.iter().any(|member| member.id == *id);
            let counts = METRICS.peers.counts();
            leader_json(id, counts.iter().filter(|(id, _)| is_other(id))).into_bytes()
        }
        b"/v2/stats/self" => asked.v2.since.json(&asked.front.node),
        _ => asked.v2.counters.json(asked.v2.hub.waiting()).into_bytes(),
    };
    reply::json(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_are_told_as_etcd_does() {
        let mut counts = Counts { chunks: 2, failures: 1, ..Counts::default() };
        counts.latency.observe(Duration::from_micros(1500));
        counts.latency.observe(Duration::from_micros(2500));
        let want = "{\"leader\":\"a\",\"followers\":{\"b\":{\"latency\":{\"current\":2.5,\"average\":2,\
                    \"standardDeviation\":0.5,\"minimum\":1.5,\"maximum\":2.5},\"counts\":{\"fail\":1,\"success\":2}}}}";
        assert_eq!(leader_json(10, [(11, counts)].iter()), want);
        assert_eq!(leader_json(10, [].iter()), "{\"leader\":\"a\",\"followers\":{}}");
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (ms, want) in [(0, "0s"), (1_500, "1.5s"), (60_000, "1m0s"), (3_723_004, "1h2m3.004s")] {
            assert_eq!(go_duration(Duration::from_millis(ms)), want);
        }
    }
}
