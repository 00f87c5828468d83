//! Durations as Go programs write them, since units files and scripts hold them.

use std::time::Duration;

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration is numbers with units, such as 500ms, 30s or 1h30m")]
pub struct BadDuration;

/// Reads `300ms`, `1.5h`, `2h45m`; a bare `0` is zero.
///
/// Units are `ns us ms s m h`. Signs are refused: no setting means a negative time.
///
/// Source: Go's `time.ParseDuration`.
///
/// # Errors
/// [`BadDuration`] for anything else, and for what does not fit [`Duration`].
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(BadDuration)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let unit_seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(BadDuration),
        };
        seconds += number.parse::<f64>().map_err(|_| BadDuration)? * unit_seconds;
        rest = next;
    }
    if text.is_empty() {
        return Err(BadDuration);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| BadDuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        #[rustfmt::skip]
        let cases = [
            ("0",      Ok(Duration::ZERO)),
            ("500ms",  Ok(Duration::from_millis(500))),
            ("30s",    Ok(Duration::from_secs(30))),
            ("1h30m",  Ok(Duration::from_secs(5400))),
            ("1.5s",   Ok(Duration::from_millis(1500))),
            ("",       Err(BadDuration)),
            ("5",      Err(BadDuration)),
            ("s",      Err(BadDuration)),
            ("-1s",    Err(BadDuration)),
            ("1 s",    Err(BadDuration)),
            ("1.2.3s", Err(BadDuration)),
            ("9999999999999999999999h", Err(BadDuration)),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
