//! What happens in a run, drawn from its seed before it begins: so that parts
//! of it can be left out to find what a failure needs.

use super::random::Random;
use crate::log::LogOptions;

pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;

/// Sizes that are far smaller than in production, so that segments, snapshots
/// and compactions come often.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub(super) log: LogOptions,
    pub(super) snapshot_count: u64,
}

/// What befalls the cluster.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Power is cut; it comes back after a while.
    Crash { machines: Vec<usize>, down_us: u64 },
    /// Nothing gets from one machine to the other, and back if `both`.
    Cut { from: usize, to: usize, both: bool, us: u64 },
    /// A machine is cut off from all others.
    Isolate { machine: usize, us: u64 },
    /// A connection is reset.
    Reset { from: usize, to: usize },
    /// Frames take up to this long.
    Delay { from: usize, to: usize, delay_us: u64, us: u64 },
    /// A disk is slow.
    SlowDisk { machine: usize, disk_us: u64, us: u64 },
    /// Applying is slow.
    SlowApply { machine: usize, apply_us: u64, us: u64 },
    /// The whole machine stands still.
    Pause { machine: usize, us: u64 },
    /// Leadership is handed over.
    Transfer,
    /// Somebody changes the membership.
    Member,
    /// History is given up.
    Compact,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// The first members.
    pub(super) members: usize,
    /// Machines there are; those beyond the members are spares.
    pub(super) machines: usize,
    pub(super) clients: usize,
    pub(super) watchers: usize,
    pub(super) scale: Scale,
    /// When clients and faults stop.
    pub(super) end_us: u64,
    pub(super) faults: Vec<(u64, Fault)>,
}

impl Plan {
    /// The run of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let members = if random.chance(600) { 3 } else { 5 };
        let machines = members + 2;
        let scale = Scale {
            log: LogOptions {
                segment_bytes: *random.pick(&[8 << 10, 16 << 10, 64 << 10]).expect("not empty"),
                spares: random.below(3) as usize,
                kept_files: random.below(6) as usize,
                keep_free_bytes: 0,
            },
            snapshot_count: random.between(10, 200),
        };
        let end_us = random.between(10, 40) * SECOND;
        // Some runs are calm and some are not.
        let gap_us = random.between(200, 4_000) * MS;
        let mut faults = Vec::new();
        // What a run has much of differs as well: bugs hide where two rare
        // things meet.
        let favourites = *random.pick(&FAVOURITES).expect("not empty");
        // The first seconds are for the first election.
        let mut at = SECOND;
        while at < end_us {
            faults.push((at, fault(&mut random, machines, favourites)));
            at += random.below(2 * gap_us);
        }
        let (clients, watchers) = (random.between(2, 9) as usize, random.between(1, 5) as usize);
        Self { seed, members, machines, clients, watchers, scale, end_us, faults }
    }
}

/// Kinds of faults, by their place among a hundred, that a run may favour:
/// none, crashes with membership changes, cuts, crashes.
const FAVOURITES: [&[u64]; 4] = [&[], &[0, 90, 90], &[20], &[0]];

fn fault(random: &mut Random, machines: usize, favourites: &[u64]) -> Fault {
    let mut some = || random.below(machines as u64) as usize;
    let (machine, from, to) = (some(), some(), some());
    let us = random.between(50, 3_000) * MS;
    let kind = match random.pick(favourites) {
        Some(kind) if random.chance(600) => *kind,
        Some(_) | None => random.below(100),
    };
    match kind {
        0..20 => {
            let all: Vec<usize> = (0..machines).collect();
            let mut crashed: Vec<usize> = vec![machine];
            let share = *random.pick(&[0, 0, 300, 1000]).expect("not empty");
            crashed.extend(all.into_iter().filter(|at| *at != machine && random.chance(share)));
            Fault::Crash { machines: crashed, down_us: random.between(10, 4_000) * MS }
        }
        20..36 => Fault::Cut { from, to, both: random.chance(300), us },
        36..46 => Fault::Isolate { machine, us },
        46..54 => Fault::Reset { from, to },
        54..62 => Fault::Delay { from, to, delay_us: random.between(20, 800) * MS, us },
        62..68 => Fault::SlowDisk { machine, disk_us: random.between(10, 400) * MS, us },
        68..72 => Fault::SlowApply { machine, apply_us: random.between(10, 400) * MS, us },
        72..78 => Fault::Pause { machine, us },
        78..82 => Fault::Transfer,
        82..95 => Fault::Member,
        _ => Fault::Compact,
    }
}
