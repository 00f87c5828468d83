//! The maintenance window: when in a day or a week a machine may reboot.
//!
//! Source: locksmith, `LOCKSMITHD_REBOOT_WINDOW_START` and `_LENGTH`. Times are
//! UTC: a cluster need not agree about a time zone.

use std::time::Duration;

const DAY_S: u64 = 24 * 60 * 60;
const WEEK_S: u64 = 7 * DAY_S;
/// 1970-01-01 was a Thursday: the first Sunday began three days later.
const FIRST_SUNDAY_S: u64 = 3 * DAY_S;
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A window that comes back every day or every week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it opens, counted from the beginning of its period.
    start_s: u64,
    length_s: u64,
    /// [`DAY_S`] or [`WEEK_S`].
    period_s: u64,
}

/// Whether a machine may reboot by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may.
    Open,
    /// It may again in this many seconds.
    OpensIn(u64),
}

/// Why a text is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWindow {
    /// Only one of the two settings.
    #[error("a reboot window needs both its start and its length")]
    Half,
    /// No time of a day.
    #[error("bad start of the reboot window {0:?}: give HH:MM or DAY HH:MM, such as \"Thu 23:00\"")]
    Start(String),
    /// No duration, or one of nothing.
    #[error("bad length of the reboot window {0:?}: give a duration such as 1h30m")]
    Length(String),
}

impl Window {
    /// Reads both settings; `None` when both are empty: then the window is always open.
    ///
    /// # Errors
    /// [`BadWindow`].
    pub fn parse(start: &str, length: &str) -> Result<Option<Self>, BadWindow> {
        match (start.trim(), length.trim()) {
            ("", "") => return Ok(None),
            ("", _) | (_, "") => return Err(BadWindow::Half),
            _ => {}
        }
        let (start_s, period_s) = parse_start(start).ok_or_else(|| BadWindow::Start(start.to_owned()))?;
        let length_s = proa_base::duration::parse(length.trim()).ok().as_ref().map(Duration::as_secs);
        match length_s {
            Some(length_s @ 1..) => Ok(Some(Self { start_s, length_s, period_s })),
            Some(0) | None => Err(BadWindow::Length(length.to_owned())),
        }
    }

    /// Whether it is open at a time, in seconds since 1970.
    pub fn state(&self, now_unix_s: u64) -> State {
        let origin = if self.period_s == WEEK_S { FIRST_SUNDAY_S } else { 0 };
        // Far enough in the past that nothing below is negative.
        let since_origin = now_unix_s + WEEK_S - origin;
        let in_period = (since_origin + self.period_s - self.start_s) % self.period_s;
        match in_period < self.length_s {
            true => State::Open,
            false => State::OpensIn(self.period_s - in_period),
        }
    }
}

/// Seconds into the period, and the period.
fn parse_start(text: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (day, time) = match words.as_slice() {
        [time] => (None, time),
        [day, time] => {
            let day = day.to_lowercase();
            (Some(DAYS.iter().position(|known| *known == day)?), time)
        }
        _ => return None,
    };
    let (hours, minutes) = time.split_once(':')?;
    let number = |text: &str, end: u64| match text.len() {
        1 | 2 if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse::<u64>().ok().filter(|n| *n < end)
        }
        _ => None,
    };
    let in_day = number(hours, 24)? * 3600 + number(minutes, 60)? * 60;
    Some(match day {
        None => (in_day, DAY_S),
        Some(day) => (u64::try_from(day).ok()? * DAY_S + in_day, WEEK_S),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Thursday, 2026-01-01 00:00 UTC.
    const THURSDAY: u64 = 1_767_225_600;
    const HOUR: u64 = 3600;

    #[test]
    fn windows_open_and_close_on_the_second() {
        use State::{Open, OpensIn};
        #[rustfmt::skip]
        let cases = [
            ("14:00",     "1h",    THURSDAY,                    OpensIn(14 * HOUR)),
            ("14:00",     "1h",    THURSDAY + 14 * HOUR - 1,    OpensIn(1)),
            ("14:00",     "1h",    THURSDAY + 14 * HOUR,        Open),
            ("14:00",     "1h",    THURSDAY + 15 * HOUR - 1,    Open),
            ("14:00",     "1h",    THURSDAY + 15 * HOUR,        OpensIn(23 * HOUR)),
            ("23:00",     "2h",    THURSDAY + HOUR - 1,         Open),
            ("23:00",     "2h",    THURSDAY + HOUR,             OpensIn(22 * HOUR)),
            ("Thu 23:00", "1h30m", THURSDAY + 23 * HOUR,        Open),
            ("Thu 23:00", "1h30m", THURSDAY + 24 * HOUR + 1799, Open),
            ("Thu 23:00", "1h30m", THURSDAY + 24 * HOUR + 1800, OpensIn(7 * 24 * HOUR - 5400)),
            ("thu 0:05",  "1m",    THURSDAY,                    OpensIn(300)),
            ("SUN 00:00", "1h",    THURSDAY,                    OpensIn(3 * 24 * HOUR)),
            ("Sat 23:30", "1h",    THURSDAY + 3 * 24 * HOUR,    Open),
            ("00:00",     "24h",   THURSDAY + 5,                Open),
            ("00:00",     "1h",    0,                           Open),
            ("Wed 00:00", "1h",    0,                           OpensIn(6 * 24 * HOUR)),
        ];
        for (start, length, now, want) in cases {
            let window = Window::parse(start, length).unwrap().unwrap();
            assert_eq!(window.state(now), want, "{start} {length} at {now}");
        }
    }

    #[test]
    fn every_minute_of_a_week_is_counted_right() {
        // Against the definition: open in the length after each start.
        let window = Window::parse("Mon 22:30", "3h").unwrap().unwrap();
        let monday = THURSDAY + 4 * 24 * HOUR;
        for minute in 0..7 * 24 * 60 {
            let now = THURSDAY + minute * 60;
            let starts = [monday + 22 * HOUR + 1800, monday + 22 * HOUR + 1800 + WEEK_S];
            let is_open = starts.iter().any(|start| (*start..*start + 3 * HOUR).contains(&now));
            let want = match is_open {
                true => State::Open,
                false => State::OpensIn(starts.iter().find(|start| **start > now).unwrap() - now),
            };
            assert_eq!(window.state(now), want, "minute {minute}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_is() {
        assert_eq!(Window::parse("", " ").unwrap(), None);
        for (start, length, want) in [
            ("14:00", "", "needs both"),
            ("", "1h", "needs both"),
            ("24:00", "1h", "HH:MM"),
            ("14:60", "1h", "HH:MM"),
            ("1400", "1h", "HH:MM"),
            ("+1:00", "1h", "HH:MM"),
            ("Foo 14:00", "1h", "HH:MM"),
            ("Thu Fri 14:00", "1h", "HH:MM"),
            ("14:00", "0s", "1h30m"),
            ("14:00", "soon", "1h30m"),
        ] {
            let text = Window::parse(start, length).unwrap_err().to_string();
            assert!(text.contains(want), "{start} {length}: {text}");
        }
    }
}
