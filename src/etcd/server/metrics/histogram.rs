//! Durations by size, in buckets that are fixed.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Most bounds of a histogram: etcd's longest has 17.
const MOST_BOUNDS: usize = 17;

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// By bucket; the last is for what is longer than all bounds.
    counts: [AtomicU64; MOST_BOUNDS + 1],
    sum_us: AtomicU64,
    first_us: u64,
    bounds: usize,
}

impl Histogram {
    /// Nothing was measured yet; bounds from 1 ms to 8.192 s.
    ///
    /// Source: etcd's `prometheus.ExponentialBuckets(0.001, 2, 14)`.
    pub const fn empty() -> Self {
        Self::from(1_000, 14)
    }

    /// As [`Histogram::empty`], with so many bounds, each twice the one before.
    ///
    /// # Panics
    /// With more than 17 bounds, when it is compiled.
    pub const fn from(first_us: u64, bounds: usize) -> Self {
        assert!(bounds <= MOST_BOUNDS);
        let counts = [const { AtomicU64::new(0) }; MOST_BOUNDS + 1];
        Self { counts, sum_us: AtomicU64::new(0), first_us, bounds }
    }

    /// Takes one measurement.
    pub fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[self.bucket(took_us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took_us, Relaxed);
    }

    /// For each bound in seconds how often it was not exceeded; the last bound
    /// is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut sum = 0;
        self.counts[..=self.bounds].iter().enumerate().map(move |(number, count)| {
            sum += count.load(Relaxed);
            (self.bound_s(number), sum)
        })
    }

    /// All measurements together, in seconds.
    pub fn sum_s(&self) -> f64 {
        Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64()
    }

    fn bound_s(&self, number: usize) -> f64 {
        if number == self.bounds {
            return f64::INFINITY;
        }
        Duration::from_micros(self.first_us << number).as_secs_f64()
    }

    /// A bound belongs to the bucket below it.
    fn bucket(&self, took_us: u64) -> usize {
        (0..self.bounds).find(|number| took_us <= self.first_us << number).unwrap_or(self.bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_its_bucket() {
        let rows =
            [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (8_192_000, 13), (8_192_001, 14), (u64::MAX, 14)];
        for (took_us, want) in rows {
            assert_eq!(Histogram::empty().bucket(took_us), want, "{took_us} us");
        }
        let fine = Histogram::from(100, 16);
        assert_eq!((fine.bucket(100), fine.bucket(101), fine.bucket(3_276_800)), (0, 1, 15));
        assert_eq!(fine.cumulative().count(), 17);
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
