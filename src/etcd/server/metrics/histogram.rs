//! Durations by size, in buckets that are fixed.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Number of bounds: from 1 ms to 8.192 s, each twice the one before.
/// Source: etcd's `prometheus.ExponentialBuckets(0.001, 2, 14)`.
const BOUNDS: usize = 14;
const FIRST_BOUND_US: u64 = 1_000;

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// By bucket; the last is for what is longer than all bounds.
    counts: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Nothing was measured yet.
    pub const fn empty() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BOUNDS + 1], sum_us: AtomicU64::new(0) }
    }

    /// Takes one measurement.
    pub fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(took_us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took_us, Relaxed);
    }

    /// For each bound in seconds how often it was not exceeded; the last bound
    /// is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut sum = 0;
        self.counts.iter().enumerate().map(move |(number, count)| {
            sum += count.load(Relaxed);
            (bound_s(number), sum)
        })
    }

    /// All measurements together, in seconds.
    pub fn sum_s(&self) -> f64 {
        Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64()
    }
}

fn bound_s(number: usize) -> f64 {
    if number == BOUNDS {
        return f64::INFINITY;
    }
    Duration::from_micros(FIRST_BOUND_US << number).as_secs_f64()
}

/// A bound belongs to the bucket below it.
fn bucket(took_us: u64) -> usize {
    (0..BOUNDS).find(|number| took_us <= FIRST_BOUND_US << number).unwrap_or(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_its_bucket() {
        let rows =
            [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (8_192_000, 13), (8_192_001, 14), (u64::MAX, 14)];
        for (took_us, want) in rows {
            assert_eq!(bucket(took_us), want, "{took_us} us");
        }
    }

    #[test]
    fn counts_add_up() {
        let histogram = Histogram::empty();
        for took_ms in [0, 1, 3, 3, 60_000] {
            histogram.observe(Duration::from_millis(took_ms));
        }
        let all: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!(all[..3], [(0.001, 2), (0.002, 2), (0.004, 4)]);
        assert_eq!(all[14], (f64::INFINITY, 5));
        assert!((histogram.sum_s() - 60.007).abs() < 1e-9);
    }
}
