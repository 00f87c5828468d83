//! Which part of a package a request wants.

/// What to send of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it, with status 200.
    Whole,
    /// From the first to the last byte, both included, with status 206.
    Bytes(u64, u64),
    /// Nothing: status 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size_bytes`.
///
/// What is no single range of bytes is as if it were not there, which the
/// protocol allows.
///
/// Source: RFC 9110, 14.1.2 and 14.2.
pub fn part(header: Option<&str>, size_bytes: u64) -> Part {
    let Some(range) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = range.split_once('-') else { return Part::Whole };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What does not fit is beyond the end of any file.
        is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (number(first.trim()), number(last.trim())) {
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), _) if first >= size_bytes => Part::Unsatisfiable,
        (Some(first), Some(last)) => Part::Bytes(first, last.min(size_bytes - 1)),
        (Some(first), None) if last.trim().is_empty() => Part::Bytes(first, size_bytes - 1),
        (None, Some(count)) if first.trim().is_empty() => match count.min(size_bytes) {
            0 => Part::Unsatisfiable,
            count => Part::Bytes(size_bytes - count, size_bytes - 1),
        },
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, part};

    #[test]
    fn ranges_are_read_as_the_protocol_has_them() {
        #[rustfmt::skip]
        let rows = [
            (None,                    10, Part::Whole),
            (Some("bytes=0-"),        10, Part::Bytes(0, 9)),
            (Some("bytes=4-"),        10, Part::Bytes(4, 9)),
            (Some("bytes=4-6"),       10, Part::Bytes(4, 6)),
            (Some("bytes=9-9"),       10, Part::Bytes(9, 9)),
            (Some("bytes=4-100"),     10, Part::Bytes(4, 9)),
            (Some("bytes=-3"),        10, Part::Bytes(7, 9)),
            (Some("bytes=-30"),       10, Part::Bytes(0, 9)),
            (Some("bytes=10-"),       10, Part::Unsatisfiable),
            (Some("bytes=10-20"),     10, Part::Unsatisfiable),
            (Some("bytes=99999999999999999999-"), 10, Part::Unsatisfiable),
            (Some("bytes=-0"),        10, Part::Unsatisfiable),
            (Some("bytes=0-"),        0,  Part::Unsatisfiable),
            (Some("bytes=-1"),        0,  Part::Unsatisfiable),
            (Some("bytes=6-4"),       10, Part::Whole),
            (Some("bytes=0-1,4-5"),   10, Part::Whole),
            (Some("bytes="),          10, Part::Whole),
            (Some("bytes=-"),         10, Part::Whole),
            (Some("bytes=a-b"),       10, Part::Whole),
            (Some("lines=1-2"),       10, Part::Whole),
        ];
        for (header, size, want) in rows {
            assert_eq!(part(header, size), want, "{header:?} of {size}");
        }
    }
}
