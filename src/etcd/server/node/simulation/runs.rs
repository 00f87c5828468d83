//! Runs of the simulation: fresh seeds, one seed again, planted bugs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Plan, SECOND};
use super::world::World;
use super::{Counts, Planted, history, watching};
use crate::node::shared::{ToCore, lock};
use crate::node::types::MemberChange;

const PLANTED: [Planted; 5] = [
    Planted::AckBeforeFsync,
    Planted::IndexApartFromData,
    Planted::ReadContextReused,
    Planted::TornTailCutTooFar,
    Planted::ConfChangeTwice,
];
/// Seeds within which each planted bug must be found.
const PLANTED_SEEDS: u64 = 2_000;
/// Runs that a failure may take to be made smaller.
const SHRINK_RUNS: usize = 120;

/// A run that broke a law.
struct Failure {
    law: String,
    trace: Vec<String>,
}

/// What the code under test panicked with last.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn last_panic() -> String {
    lock(&PANIC).clone()
}

/// A panic is a failure like others: what it says is kept and not printed.
fn keep_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_ours = std::thread::current().name().is_some_and(|name| name.contains("simulation"));
        if is_ours {
            let mut said = panic.to_string();
            if std::env::var_os("RUST_BACKTRACE").is_some() {
                said += &std::backtrace::Backtrace::force_capture().to_string();
            }
            *lock(&PANIC) = said;
        } else {
            before(panic);
        }
    }));
}

/// Runs a plan to its end.
fn run(plan: &Plan, planted: Option<Planted>, traced: bool) -> Result<Counts, Failure> {
    let mut world = World::new(plan.clone(), planted, traced);
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let outcome = outcome.unwrap_or_else(|_| Err(format!("panicked: {}", last_panic())));
    let mut counts = world.counts;
    counts.virtual_us = world.now;
    let trace = world.trace.take().unwrap_or_default();
    // A broken world may panic once more when it is taken apart.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
    outcome.map(|()| counts).map_err(|law| Failure { law, trace })
}

fn live(world: &mut World) -> Result<(), String> {
    world.run_until(world.plan.end_us)?;
    world.make_peace()?;
    for watcher in 0..world.plan.watchers {
        let Some(at) = world.leader() else { return Err("nobody leads in peace".into()) };
        for _ in 0..10_000 {
            let before = world.counts.watched;
            world.look(watcher, at)?;
            if world.counts.watched == before {
                break;
            }
        }
    }
    for at in 0..world.machines.len() {
        world.keep_announced(at);
    }
    let read_at = history::revisions_read(&world.operations);
    let replayed = history::replay(world.chosen.values(), &read_at)?;
    history::check(&world.operations, &replayed)?;
    for watched in world.clients.watchers.iter().flatten() {
        if watched.next <= replayed.head.revision {
            return Err(format!("a watcher stays at {} of {:?}", watched.next, replayed.head));
        }
        watching::check(watched, &replayed.events)?;
    }
    for (began, announced) in &world.clients.announced {
        watching::check_announced(*began, announced, &replayed.events)?;
    }
    Ok(())
}

/// Leaves out what a failure does not need: faults, clients, time.
fn shrink(plan: &Plan, planted: Option<Planted>) -> (Plan, Failure) {
    let mut best = plan.clone();
    let mut failure = run(&best, planted, true).expect_err("it failed before");
    let mut runs = 0;
    let mut size = best.faults.len().div_ceil(2).max(1);
    let mut at = 0;
    while runs < SHRINK_RUNS && size > 0 {
        if at >= best.faults.len() {
            (at, size) = (0, size / 2);
            continue;
        }
        let mut less = best.clone();
        less.faults.drain(at..(at + size).min(less.faults.len()));
        runs += 1;
        match run(&less, planted, true) {
            Err(found) => (best, failure) = (less, found),
            Ok(_) => at += size,
        }
    }
    while best.clients > 1 && runs < SHRINK_RUNS {
        let less = Plan { clients: best.clients - 1, ..best.clone() };
        runs += 1;
        match run(&less, planted, true) {
            Err(found) => (best, failure) = (less, found),
            Ok(_) => break,
        }
    }
    (best, failure)
}

/// Prints a failure so that it can be understood and had again, and fails.
fn report(seed: u64, planted: Option<Planted>) -> ! {
    let plan = Plan::new(seed);
    let law = run(&plan, planted, false).expect_err("a seed fails every time").law;
    let (least, failure) = shrink(&plan, planted);
    eprintln!("seed {seed} breaks a law: {law}");
    eprintln!(
        "made smaller: {} of {} faults, {} of {} clients: {}",
        least.faults.len(),
        plan.faults.len(),
        least.clients,
        plan.clients,
        failure.law
    );
    let skipped = failure.trace.len().saturating_sub(60);
    failure.trace.iter().skip(skipped).for_each(|line| eprintln!("  {line}"));
    eprintln!(
        "again: PROA_SEED={seed} cargo test -p proa-etcd-server --lib simulation::runs::one_seed -- --nocapture"
    );
    panic!("seed {seed}: {law}");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: it must be a number")))
}

/// A first seed that no run had, or the one that was asked for.
fn first_seed() -> u64 {
    let fresh = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_micros() as u64)
    };
    number("PROA_SEED").unwrap_or_else(fresh)
}

#[test]
fn fresh_seeds_break_no_law() {
    keep_panics();
    let patience = Duration::from_secs(number("PROA_SIMULATION_S").unwrap_or(5));
    let (first, began) = (first_seed(), Instant::now());
    let next = AtomicU64::new(first);
    let (sums, failed) = (Mutex::new(Counts::default()), Mutex::new(None));
    let live = || {
        while began.elapsed() < patience || next.load(Ordering::Relaxed) == first {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match run(&Plan::new(seed), None, false) {
                Ok(counts) => lock(&sums).add(&counts),
                Err(failure) => {
                    eprintln!("seed {seed} breaks a law: {}", failure.law);
                    *lock(&failed) = Some(seed);
                }
            }
            if lock(&failed).is_some() {
                return;
            }
        }
    };
    // Seeds have nothing to do with each other: one for each processor.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for number in 0..processors {
            let named = std::thread::Builder::new().name(format!("simulation {number}"));
            named.spawn_scoped(scope, live).expect("a thread can be started");
        }
    });
    if let Some(seed) = *lock(&failed) {
        report(seed, None);
    }
    let (sums, ran) = (*lock(&sums), next.load(Ordering::Relaxed) - first);
    let (seconds, real) = (sums.virtual_us / SECOND, began.elapsed().as_secs_f64());
    eprintln!("simulation: {ran} seeds from {first}, {seconds} virtual s in {real:.1} s: {sums:?}");
    assert!(ran < 20 || (sums.crashes > ran && sums.snapshots > 0 && sums.changes > 0), "{sums:?}");
    assert!(sums.answers > 10 * ran, "clients were served: {sums:?}");
}

/// The way back to a failure; without `PROA_SEED` the first seed of all.
/// `PROA_PLANTED=AckBeforeFsync` and so on puts a bug in.
#[test]
fn one_seed() {
    keep_panics();
    let seed = number("PROA_SEED").unwrap_or(1);
    let wanted = std::env::var("PROA_PLANTED").ok();
    let planted = wanted.map(|name| {
        let found = PLANTED.into_iter().find(|planted| format!("{planted:?}") == name);
        found.unwrap_or_else(|| panic!("PROA_PLANTED={name}: it must be one of {PLANTED:?}"))
    });
    match run(&Plan::new(seed), planted, false) {
        Ok(counts) => eprintln!("seed {seed} breaks no law: {counts:?}"),
        Err(_) => report(seed, planted),
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    keep_panics();
    for seed in 1..4 {
        let once = run(&Plan::new(seed), None, true).map(|counts| format!("{counts:?}"));
        let again = run(&Plan::new(seed), None, true).map(|counts| format!("{counts:?}"));
        assert_eq!(once.map_err(|it| (it.law, it.trace)), again.map_err(|it| (it.law, it.trace)), "{seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    keep_panics();
    std::thread::scope(|scope| {
        for planted in PLANTED {
            let named = std::thread::Builder::new().name(format!("simulation {planted:?}"));
            named.spawn_scoped(scope, move || find(planted)).expect("a thread can be started");
        }
    });
}

/// Runs seeds until one fails with the bug.
fn find(planted: Planted) {
    for seed in 1..=PLANTED_SEEDS {
        if let Err(Failure { law, .. }) = run(&Plan::new(seed), Some(planted), false) {
            let law: String = law.chars().take(160).collect();
            return eprintln!("{planted:?} is found at seed {seed}: {law}");
        }
    }
    panic!("{planted:?} is not found within {PLANTED_SEEDS} seeds");
}

/// A member is off while another joins and takes the lead.
#[test]
fn who_was_off_when_the_leader_joined_catches_up() {
    let mut plan = Plan::new(1);
    (plan.members, plan.machines, plan.faults) = (3, 4, Vec::new());
    plan.end_us = 20 * SECOND;
    let mut world = World::new(plan, None, false);
    let lasts =
        |world: &mut World, seconds: u64| world.run_until(world.now + seconds * SECOND).expect("lawful");
    lasts(&mut world, 4);
    world.crash(2);
    let leader = world.leader().expect("a majority");
    let url = world.machines[3].url();
    world.ask(leader, MemberChange::Add { peer_urls: vec![url], learner: false });
    lasts(&mut world, 4);
    let joined = world.machines[3].identity.expect("it was added").member_id;
    let leader = world.leader().expect("a majority");
    world.tell(leader, ToCore::Transfer { to: joined });
    world.turn(leader).expect("lawful");
    lasts(&mut world, 2);
    assert_eq!(world.leader(), Some(3), "{}", world.describe());
    world.restart(2).expect("its data is whole");
    lasts(&mut world, 5);
    let applied = |at: usize| world.machines[at].process.as_ref().map(|it| it.threads.applier.applied.index);
    assert!(applied(2) > applied(3).map(|index| index.saturating_sub(20)), "{}", world.describe());
}
