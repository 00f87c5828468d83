//! When the update server is asked next.
//!
//! Machines that were started together must not ask together for ever, and a
//! server that is in trouble must not be asked more often than one that is well.

use std::time::Duration;

/// The usual time between two questions.
///
/// Source: CoreOS update_engine, `update_check_scheduler.h`.
pub const USUAL: Duration = Duration::from_secs(45 * 60);
/// The longest wait for the first question, before the fuzz.
const FIRST_MAX: Duration = Duration::from_secs(7 * 60);
/// How far a wait may be off its mean, to either side.
const FUZZ_MAX: Duration = Duration::from_secs(5 * 60);
/// The wait after one failure; it doubles with each further one.
const RETRY: Duration = Duration::from_secs(60);
/// The longest wait after failures.
const RETRY_MAX: Duration = Duration::from_secs(4 * 3600);
/// What a server may wish for. A minute keeps a mistake there from becoming a
/// flood; a day keeps machines from being forgotten.
const WISH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// The wait between the updater's start and its first question: 7 minutes, or
/// `interval` when that is shorter, give or take 5 minutes or a third.
///
/// `random` is any number; equal numbers give equal waits.
pub fn first(interval: Duration, random: u64) -> Duration {
    fuzzed(interval.min(FIRST_MAX), random)
}

/// The wait after a question that was answered: `wish` if the server has one,
/// else `interval`, give or take 5 minutes or a third.
pub fn next(interval: Duration, wish: Option<Duration>, random: u64) -> Duration {
    fuzzed(wish.map_or(interval, |wish| wish.clamp(WISH.0, WISH.1)), random)
}

/// The wait after `failures` questions in a row without an answer (1 and up):
/// a minute, two, four, up to 4 hours, never longer than that or, where
/// `interval` is shorter than a minute, than the interval times the same factor.
pub fn after_failure(interval: Duration, failures: u32, random: u64) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    fuzzed(interval.min(RETRY).saturating_mul(factor).min(RETRY_MAX), random)
}

/// `mean` less or more at most 5 minutes or a third of it, evenly spread.
fn fuzzed(mean: Duration, random: u64) -> Duration {
    let reach = (mean / 3).min(FUZZ_MAX);
    let span_ms = u64::try_from(reach.as_millis() * 2 + 1).unwrap_or(u64::MAX);
    mean - reach + Duration::from_millis(random % span_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u64; 6] = [0, 1, 299_999, 600_000, u64::MAX / 2, u64::MAX];

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(count * 60)
    }

    #[test]
    fn the_originals_times_are_kept() {
        for random in RANDOM {
            let first = first(USUAL, random);
            assert!((minutes(7) * 2 / 3..=minutes(7) * 4 / 3).contains(&first), "{first:?}");
            let next = next(USUAL, None, random);
            assert!((minutes(40)..=minutes(50)).contains(&next), "{next:?}");
        }
    }

    #[test]
    fn a_wish_counts_within_bounds() {
        for (wish_s, least_s, most_s) in [(0, 40, 80), (600, 400, 800), (u64::from(u32::MAX), 86_100, 86_700)]
        {
            for random in RANDOM {
                let wait = next(USUAL, Some(Duration::from_secs(wish_s)), random).as_secs();
                assert!((least_s..=most_s).contains(&wait), "{wish_s} s: {wait}");
            }
        }
    }

    #[test]
    fn failures_back_off_up_to_four_hours() {
        for failures in 1..200 {
            let mean = minutes(1).saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
            let mean = mean.min(minutes(240));
            for random in RANDOM {
                let wait = after_failure(USUAL, failures, random);
                assert!(
                    wait >= mean * 2 / 3 - Duration::from_millis(1) && wait <= mean * 4 / 3,
                    "{failures}: {wait:?}"
                );
                assert!(wait <= minutes(245), "{wait:?}");
            }
        }
        let quick = Duration::from_secs(2);
        assert!(after_failure(quick, 1, 0) < quick, "a machine that asks often fails often");
    }
}
