//! Points in time as people read them.

/// `2026-11-28 06:50:04`, in UTC, of seconds since 1970.
///
/// Source: the calendar by eras of 400 years that begin in March.
pub fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let day = day - (153 * march + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_those_of_the_calendar() {
        #[rustfmt::skip]
        let rows = [
            (0,             "1970-01-01 00:00:00"),
            (951_782_399,   "2000-02-28 23:59:59"),
            (951_782_400,   "2000-02-29 00:00:00"),
            (1_795_435_199, "2026-11-23 11:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ];
        for (unix_s, want) in rows {
            assert_eq!(utc(unix_s), want, "{unix_s}");
        }
    }
}
