//! `/v2/stats`: what this member has counted.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Response, StatusCode};
use proa_etcd_api::command::{V2Event, v2_event::Action, v2_write::Kind};
use tonic::body::Body;

use super::{Asked, reply};

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

/// Answers a request below `/v2/stats/`.
pub fn answer(asked: &Asked<'_>) -> Response<Body> {
    if asked.method != Method::GET {
        return reply::wrong_method("GET");
    }
    let body = asked.v2.counters.json(asked.v2.hub.waiting());
    reply::json(StatusCode::OK, body.into_bytes())
}
