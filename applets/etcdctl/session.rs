//! `lock` and `elect`: a place in a line, held by a lease for as long as this
//! process lives.

use proa_etcd_client::api::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, RangeResponse,
};
use proa_etcd_client::{Client, KeepAlive, Place, WatchItem, prefix_range};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::StreamExt as _;

use super::args::{Flag, switch, value};
use super::failure::Failure;
use super::print::Format;
use super::{Context, emit_bytes};

pub const LOCK: &[Flag] = &[value("ttl", "seconds until the lock of a dead process is free (default 10)")];
pub const ELECT: &[Flag] = &[switch("listen", "only print who is elected, again and again (-l)")];

/// Seconds that a dead candidate stays elected. Source: etcd's `concurrency`, `defaultSessionTTL`.
const ELECT_TTL_S: i64 = 60;
/// What Go gives for a command that a signal ended.
const ENDED_BY_SIGNAL: u8 = 255;

/// A lease that is kept alive.
struct Session<'a> {
    client: &'a Client,
    lease: i64,
    kept: KeepAlive,
}

impl<'a> Session<'a> {
    async fn start(client: &'a Client, ttl: i64) -> Result<Self, Failure> {
        let lease = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?.id;
        Ok(Self { client, lease, kept: client.keep_alive(lease) })
    }

    /// Returns when the lease has ended.
    async fn ended(&mut self) {
        while self.kept.next().await.is_some() {}
    }

    /// Ends the lease, and with it the place in the line.
    async fn end(self) -> Result<(), Failure> {
        self.client.lease_revoke(LeaseRevokeRequest { id: self.lease }).await?;
        Ok(())
    }
}

/// The signals by which users end a command.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let one =
            |kind| signal(kind).map_err(|error| Failure::error(format!("listening for signals: {error}")));
        Ok(Self { interrupt: one(SignalKind::interrupt())?, terminate: one(SignalKind::terminate())? })
    }

    async fn called(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Joins the line and waits for its head; a signal leaves the line again.
async fn acquire(
    session: &mut Session<'_>,
    stop: &mut Stop,
    name: &str,
    value: &[u8],
) -> Result<Place, Failure> {
    let (client, lease) = (session.client, session.lease);
    let waiting = async {
        let mut place = client.queue_join(name, lease, value).await?;
        client.queue_wait(name, &mut place).await?;
        Ok(place)
    };
    tokio::select! {
        place = waiting => place,
        () = session.ended() => Err(Failure::error("session expired")),
        () = stop.called() => Err(Failure::error("interrupted while waiting")),
    }
}

pub async fn lock(context: &Context) -> Result<(), Failure> {
    let Some((name, command)) = context.args.rest.split_first() else {
        return Err(Failure::args("lock takes a lock name argument and an optional command to execute"));
    };
    let ttl = context.args.number("ttl", 10)?;
    context.printer.refuse(&[Format::Table])?;
    let mut stop = Stop::listen()?;
    let mut session = Session::start(&context.client, ttl).await?;
    let outcome = hold_lock(context, &mut session, &mut stop, name, command).await;
    // The lock is free at once, whatever happened; a lease that cannot be
    // ended now ends by itself, and the outcome counts more.
    let ended = session.end().await;
    outcome.and(ended)
}

async fn hold_lock(
    context: &Context,
    session: &mut Session<'_>,
    stop: &mut Stop,
    name: &str,
    command: &[String],
) -> Result<(), Failure> {
    let place = acquire(session, stop, name, b"").await?;
    if command.is_empty() {
        print_place(context, &place, "lock lost on init").await?;
        return tokio::select! {
            () = stop.called() => Ok(()),
            () = session.ended() => Err(Failure::error("session expired")),
        };
    }
    let running = run(command, &place);
    tokio::pin!(running);
    loop {
        tokio::select! {
            outcome = &mut running => return outcome,
            () = session.ended() => {
                eprintln!("Warning: the session expired, others may hold the lock while the command runs");
                return running.await;
            }
            // The terminal sends it to the command as well, which decides.
            () = stop.called() => {}
        }
    }
}

async fn run(command: &[String], place: &Place) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().expect("the caller has a command");
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .env("ETCD_LOCK_KEY", String::from_utf8_lossy(&place.key).as_ref())
        .env("ETCD_LOCK_REV", place.header.revision.to_string())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ENDED_BY_SIGNAL);
            Err(Failure { text: status.to_string().replace("exit status: ", "exit status "), code })
        }
        Err(error) => Err(Failure::error(format!("command {program:?}: {error}"))),
    }
}

/// Prints the key that holds the name.
async fn print_place(context: &Context, place: &Place, otherwise: &str) -> Result<(), Failure> {
    let request = RangeRequest { key: place.key.clone(), ..RangeRequest::default() };
    let answer = context.client.range(request).await?;
    if answer.kvs.is_empty() {
        return Err(Failure::error(otherwise));
    }
    emit_bytes(&context.printer.range(&answer));
    Ok(())
}

pub async fn elect(context: &Context) -> Result<(), Failure> {
    let listens = context.args.is_on("listen");
    let (name, proposal) = match (context.args.rest.as_slice(), listens) {
        ([name], true) => (name, None),
        ([name, proposal], false) => (name, Some(proposal)),
        ([_], false) => return Err(Failure::args("no proposal argument but -l not set")),
        ([_, _], true) => return Err(Failure::args("proposal given but -l is set")),
        _ => {
            let text = "elect takes one election name argument and an optional proposal argument";
            return Err(Failure::args(text));
        }
    };
    context.printer.refuse(&[Format::Table])?;
    let mut stop = Stop::listen()?;
    let Some(proposal) = proposal else {
        return tokio::select! {
            outcome = observe(context, name) => outcome,
            () = stop.called() => Ok(()),
        };
    };
    let mut session = Session::start(&context.client, ELECT_TTL_S).await?;
    let outcome = hold_office(context, &mut session, &mut stop, name, proposal).await;
    let ended = session.end().await;
    outcome.and(ended)
}

async fn hold_office(
    context: &Context,
    session: &mut Session<'_>,
    stop: &mut Stop,
    name: &str,
    proposal: &str,
) -> Result<(), Failure> {
    let place = acquire(session, stop, name, proposal.as_bytes()).await?;
    print_place(context, &place, "elect: session expired").await?;
    tokio::select! {
        () = stop.called() => context.client.queue_leave(&place).await.map_err(Failure::from),
        () = session.ended() => Err(Failure::error("elect: session expired")),
    }
}

/// Prints whoever is elected, and again when that changes. Level-triggered:
/// an event only says that it is time to look.
async fn observe(context: &Context, name: &str) -> Result<(), Failure> {
    let (mut holder, mut header) = context.client.queue_holder(name).await?;
    let (prefix, range_end) = prefix_range(format!("{name}/").as_bytes());
    let mut watch = context.client.watch(prefix, range_end, header.revision + 1);
    let mut printed = None;
    loop {
        if let Some(kv) = holder.filter(|kv| printed != Some(kv.mod_revision)) {
            printed = Some(kv.mod_revision);
            let answer = RangeResponse { header: Some(header), kvs: vec![kv], ..RangeResponse::default() };
            emit_bytes(&context.printer.range(&answer));
        }
        match watch.next().await {
            Some(WatchItem::Begun { .. } | WatchItem::Progress { .. } | WatchItem::Events { .. }) => {}
            Some(WatchItem::Refused(error)) => return Err(error.into()),
            Some(WatchItem::Compacted { .. }) | None => {
                return Err(Failure::error("elect: observer lost"));
            }
        }
        (holder, header) = context.client.queue_holder(name).await?;
    }
}
