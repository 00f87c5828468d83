//! `make-mirror`: copies a prefix to another cluster and goes on with its changes.

use std::time::Duration;

use proa_etcd_client::api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use proa_etcd_client::api::mvccpb::event::EventType;
use proa_etcd_client::api::mvccpb::{Event, KeyValue};
use proa_etcd_client::{Client, Error, Watch, WatchItem, prefix_range};
use tokio_stream::StreamExt as _;

use super::args::{Args, Flag, switch, value};
use super::failure::Failure;
use super::{Context, emit};

pub const MAKE_MIRROR: &[Flag] = &[
    value("prefix", "mirror the keys with this prefix"),
    value("dest-prefix", "give them this prefix at the destination"),
    switch("no-dest-prefix", "give them no prefix at the destination"),
    value("dest-cacert", "the destination must have a certificate of these CAs"),
    value("dest-cert", "our certificate for the destination, with its chain"),
    value("dest-key", "the key of --dest-cert"),
    switch("dest-insecure-transport", "no TLS to a destination without a scheme (default true)"),
    value("dest-user", "NAME, or NAME:PASSWORD: who asks the destination"),
    value("dest-password", "the password of --dest-user"),
];

/// Entries of one read. Source: etcd's `mirror`, `batchLimit`.
const PAGE_ENTRIES: i64 = 1000;
/// Operations of one write: below etcd's `--max-txn-ops`, 128.
const BATCH_OPS: usize = 100;
/// Between two lines with the count. Source: etcdctl.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// Between two attempts while the destination does not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How keys are called at the destination.
struct Renaming {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Renaming {
    fn read(args: &Args) -> Result<Self, Failure> {
        let from = args.get("prefix").unwrap_or_default();
        let to = args.get("dest-prefix").unwrap_or_default();
        if args.is_on("no-dest-prefix") && !to.is_empty() {
            return Err(Failure::args(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let to = if to.is_empty() && !args.is_on("no-dest-prefix") { from } else { to };
        Ok(Self { from: from.into(), to: to.into() })
    }

    fn rename(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(self.from.as_slice()).unwrap_or(key);
        [self.to.as_slice(), rest].concat()
    }

    fn put(&self, kv: KeyValue) -> RequestOp {
        let key = self.rename(&kv.key).into();
        op(Request::RequestPut(PutRequest { key, value: kv.value, ..PutRequest::default() }))
    }

    fn change(&self, event: Event) -> Option<RequestOp> {
        let is_delete = event.r#type() == EventType::Delete;
        let kv = event.kv?;
        if !is_delete {
            return Some(self.put(kv));
        }
        let key = self.rename(&kv.key).into();
        Some(op(Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })))
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub async fn make_mirror(context: &Context) -> Result<(), Failure> {
    let [destination] = context.args.rest.as_slice() else {
        return Err(Failure::args("make-mirror takes one destination argument"));
    };
    let renaming = Renaming::read(&context.args)?;
    let destination = context.connect_to_destination(destination)?;
    let mut mirror = Mirror { source: &context.client, destination, renaming, total: 0 };
    let revision = mirror.copy().await?;
    mirror.follow(revision + 1).await
}

struct Mirror<'a> {
    source: &'a Client,
    destination: Client,
    renaming: Renaming,
    total: u64,
}

impl Mirror<'_> {
    /// Copies what is there, as of one revision, which it returns.
    async fn copy(&mut self) -> Result<i64, Failure> {
        let (mut key, range_end) = prefix_range(&self.renaming.from);
        let mut revision = 0;
        loop {
            let (limit, range_end) = (PAGE_ENTRIES, range_end.clone());
            let page = RangeRequest { key, range_end, limit, revision, ..RangeRequest::default() };
            let answer = self.source.range(page).await?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            let Some(last) = answer.kvs.last() else { return Ok(revision) };
            key = [last.key.as_ref(), b"\0"].concat().into();
            let puts: Vec<RequestOp> = answer.kvs.into_iter().map(|kv| self.renaming.put(kv)).collect();
            self.write(puts).await?;
            if !answer.more {
                return Ok(revision);
            }
        }
    }

    /// Does what happens from `revision` on, each revision as one step.
    async fn follow(&mut self, revision: i64) -> Result<(), Failure> {
        let (key, range_end) = prefix_range(&self.renaming.from);
        let mut watch = self.source.watch(key, range_end, revision);
        let mut report = tokio::time::interval(REPORT_EVERY);
        report.tick().await;
        loop {
            tokio::select! {
                _ = report.tick() => emit(&format!("{}\n", self.total)),
                events = next_events(&mut watch) => {
                    for step in by_revision(events?) {
                        let changes: Vec<_> =
                            step.into_iter().filter_map(|event| self.renaming.change(event)).collect();
                        self.write(changes).await?;
                    }
                }
            }
        }
    }

    /// Writes, again and again until the destination has it: every operation
    /// here may be done twice.
    async fn write(&mut self, mut ops: Vec<RequestOp>) -> Result<(), Failure> {
        while !ops.is_empty() {
            let rest = ops.split_off(ops.len().min(BATCH_OPS));
            let count = ops.len() as u64;
            let request = TxnRequest { success: ops, ..TxnRequest::default() };
            let mut is_said = false;
            while let Err(error) = self.destination.txn(request.clone()).await {
                let Error::Unavailable { .. } = error else { return Err(error.into()) };
                if !is_said {
                    eprintln!("Warning: the destination does not answer ({error}); trying again");
                    is_said = true;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            self.total += count;
            ops = rest;
        }
        Ok(())
    }
}

async fn next_events(watch: &mut Watch) -> Result<Vec<Event>, Failure> {
    loop {
        match watch.next().await {
            Some(WatchItem::Events { events, .. }) => return Ok(events),
            Some(WatchItem::Begun { .. } | WatchItem::Progress { .. }) => {}
            Some(WatchItem::Compacted { .. }) => {
                return Err(Failure::error("etcdserver: mvcc: required revision has been compacted"));
            }
            Some(WatchItem::Refused(error)) => return Err(error.into()),
            None => return Err(Failure::error("the watch of the source has ended")),
        }
    }
}

/// Events in order, parted by the revision they belong to.
fn by_revision(events: Vec<Event>) -> Vec<Vec<Event>> {
    let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    let mut steps: Vec<Vec<Event>> = Vec::new();
    for event in events {
        match steps.last_mut() {
            Some(step) if revision(&step[0]) == revision(&event) => step.push(event),
            Some(_) | None => steps.push(vec![event]),
        }
    }
    steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn keys_are_renamed_as_the_flags_say() {
        #[rustfmt::skip]
        let rows = [
            ("",                              "a/b", "a/b"),
            ("--prefix=a/",                   "a/b", "a/b"),
            ("--prefix=a/ --dest-prefix=x/",  "a/b", "x/b"),
            ("--prefix=a/ --no-dest-prefix",  "a/b", "b"),
            ("--dest-prefix=x/",              "a/b", "x/a/b"),
            ("--prefix=a --dest-prefix=b",    "aaa", "baa"),
        ];
        for (flags, key, want) in rows {
            let words: Vec<String> =
                flags.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
            let renaming = Renaming::read(&Args::parse(&words, MAKE_MIRROR).unwrap()).unwrap();
            assert_eq!(renaming.rename(key.as_bytes()), want.as_bytes(), "{flags}");
        }
    }

    #[test]
    fn what_happened_at_once_stays_together() {
        let event = |mod_revision| Event {
            kv: Some(KeyValue { mod_revision, ..KeyValue::default() }),
            ..Event::default()
        };
        let steps = by_revision([3, 3, 4, 6, 6].map(event).to_vec());
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
    }
}
