//! When updates may begin.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: i64 = 24 * 60;
/// Where clocks are at most: UTC-12 to UTC+14.
const OFFSET_MINUTES: std::ops::RangeInclusive<i64> = -12 * 60..=14 * 60;

/// Days and hours, as `Mon-Fri 09:00-17:00 +01:00`.
///
/// The days may be left out (every day), and so may the offset (UTC); it is
/// fixed, since rules of daylight saving would need a database of them. Hours
/// that end before they begin end on the next day: `Fri 22:00-04:00` begins on
/// Friday and ends on Saturday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OfficeHours {
    /// Monday is 0; a range that ends before it begins goes over the weekend.
    first_day: i64,
    last_day: i64,
    begin_minute: i64,
    end_minute: i64,
    offset_minutes: i64,
}

/// A text that is no [`OfficeHours`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give days, hours and a UTC offset, such as \"Mon-Fri 09:00-17:00 +01:00\"")]
pub struct BadOfficeHours;

impl OfficeHours {
    /// Whether updates may begin at this time.
    pub fn contain(&self, now_unix_s: u64) -> bool {
        let minutes = now_unix_s.cast_signed() / 60 + self.offset_minutes;
        // 1970-01-01 was a Thursday.
        let day = (minutes.div_euclid(DAY_MINUTES) + 3).rem_euclid(7);
        let minute = minutes.rem_euclid(DAY_MINUTES);
        if self.begin_minute < self.end_minute {
            return self.has_day(day) && (self.begin_minute..self.end_minute).contains(&minute);
        }
        let yesterday = (day + 6) % 7;
        self.has_day(day) && minute >= self.begin_minute
            || self.has_day(yesterday) && minute < self.end_minute
    }

    fn has_day(&self, day: i64) -> bool {
        if self.first_day <= self.last_day {
            (self.first_day..=self.last_day).contains(&day)
        } else {
            day >= self.first_day || day <= self.last_day
        }
    }
}

impl FromStr for OfficeHours {
    type Err = BadOfficeHours;

    fn from_str(text: &str) -> Result<Self, BadOfficeHours> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let is_offset = |word: &str| word.starts_with(['+', '-']);
        let (days, hours, offset) = match words.as_slice() {
            [hours] => (None, *hours, None),
            [hours, offset] if is_offset(offset) => (None, *hours, Some(*offset)),
            [days, hours] => (Some(*days), *hours, None),
            [days, hours, offset] if is_offset(offset) => (Some(*days), *hours, Some(*offset)),
            _ => return Err(BadOfficeHours),
        };
        let (first_day, last_day) = match days {
            None => (0, 6),
            Some(days) => match days.split_once('-') {
                Some((first, last)) => (day(first)?, day(last)?),
                None => (day(days)?, day(days)?),
            },
        };
        let (begin, end) = hours.split_once('-').ok_or(BadOfficeHours)?;
        let (begin_minute, end_minute) = (minutes(begin)?, minutes(end)?);
        if begin_minute == end_minute || begin_minute == DAY_MINUTES {
            return Err(BadOfficeHours);
        }
        let offset_minutes = offset.map_or(Ok(0), offset_minutes)?;
        Ok(Self { first_day, last_day, begin_minute, end_minute, offset_minutes })
    }
}

fn day(text: &str) -> Result<i64, BadOfficeHours> {
    let place = DAYS.iter().position(|day| day.eq_ignore_ascii_case(text));
    place.map(|place| place as i64).ok_or(BadOfficeHours)
}

fn offset_minutes(text: &str) -> Result<i64, BadOfficeHours> {
    let minutes = minutes(&text[1..])?;
    let signed = if text.starts_with('-') { -minutes } else { minutes };
    if OFFSET_MINUTES.contains(&signed) { Ok(signed) } else { Err(BadOfficeHours) }
}

/// `HH:MM`, up to `24:00`.
fn minutes(text: &str) -> Result<i64, BadOfficeHours> {
    let (hour, minute) = text.split_once(':').ok_or(BadOfficeHours)?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse::<i64>().ok(),
        _ => None,
    };
    match (number(hour), number(minute)) {
        (Some(hour), Some(minute)) if minute < 60 && hour * 60 + minute <= DAY_MINUTES => {
            Ok(hour * 60 + minute)
        }
        _ => Err(BadOfficeHours),
    }
}

impl TryFrom<String> for OfficeHours {
    type Error = BadOfficeHours;

    fn try_from(text: String) -> Result<Self, BadOfficeHours> {
        text.parse()
    }
}

impl From<OfficeHours> for String {
    fn from(hours: OfficeHours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for OfficeHours {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |day: i64| DAYS[day as usize];
        let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        match (self.first_day, self.last_day) {
            (0, 6) => {}
            (first, last) if first == last => write!(out, "{} ", day(first))?,
            (first, last) => write!(out, "{}-{} ", day(first), day(last))?,
        }
        write!(out, "{}-{}", clock(self.begin_minute), clock(self.end_minute))?;
        match self.offset_minutes {
            0 => Ok(()),
            offset if offset < 0 => write!(out, " -{}", clock(-offset)),
            offset => write!(out, " +{}", clock(offset)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 2026-11-23, a Monday, 00:00 UTC.
    const MONDAY: u64 = 1_795_392_000;

    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        MONDAY + day * 86_400 + hour * 3600 + minute * 60
    }

    #[test]
    fn hours_hold_on_their_days() {
        #[rustfmt::skip]
        let rows = [
            ("Mon-Fri 09:00-17:00",        at(0, 8, 59),  false),
            ("Mon-Fri 09:00-17:00",        at(0, 9, 0),   true),
            ("Mon-Fri 09:00-17:00",        at(4, 16, 59), true),
            ("Mon-Fri 09:00-17:00",        at(4, 17, 0),  false),
            ("Mon-Fri 09:00-17:00",        at(5, 12, 0),  false),
            ("09:00-17:00",                at(6, 12, 0),  true),
            ("00:00-24:00",                at(3, 23, 59), true),
            ("Mon 09:00-17:00 +01:00",     at(0, 8, 0),   true),
            ("Mon 09:00-17:00 +01:00",     at(0, 16, 0),  false),
            ("Mon 09:00-17:00 -05:30",     at(0, 14, 29), false),
            ("Mon 09:00-17:00 -05:30",     at(0, 14, 30), true),
            // Sunday evening in UTC is Monday there.
            ("Mon 00:00-02:00 +02:00",     at(6, 22, 30), true),
            ("Fri 22:00-04:00",            at(4, 23, 0),  true),
            ("Fri 22:00-04:00",            at(5, 3, 59),  true),
            ("Fri 22:00-04:00",            at(5, 4, 0),   false),
            ("Fri 22:00-04:00",            at(4, 3, 0),   false),
            ("Sun 22:00-04:00",            at(0, 3, 0),   true),
            ("Sat-Mon 10:00-11:00",        at(6, 10, 0),  true),
            ("Sat-Mon 10:00-11:00",        at(1, 10, 0),  false),
        ];
        for (text, now, want) in rows {
            let hours: OfficeHours = text.parse().unwrap();
            assert_eq!(hours.contain(now), want, "{text} at {now}");
            assert_eq!(hours.to_string(), text);
        }
        assert!("Mon 00:00-01:00 -12:00".parse::<OfficeHours>().unwrap().contain(12 * 3600 + 4 * 86_400));
    }

    #[test]
    fn other_texts_are_refused() {
        #[rustfmt::skip]
        let bad = [
            "", "Mon", "09:00", "9:00-17:00", "09:00-17:60", "09:00-24:01", "09:00-09:00", "24:00-09:00",
            "Mon-Xyz 09:00-17:00", "Mon 09:00-17:00 01:00", "Mon 09:00-17:00 +15:00", "Mon 09:00-17:00 -12:01",
            "Mon 09:00-17:00 +01:00 x", "+9:00-17:00", "09:00-17:00 +",
        ];
        for text in bad {
            assert_eq!(text.parse::<OfficeHours>(), Err(BadOfficeHours), "{text}");
        }
    }
}
