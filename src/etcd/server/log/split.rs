//! How an append is laid over segments. Pure.

/// One batch of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Start a new segment before it.
    pub rotate: bool,
    /// How many of the remaining entries it takes.
    pub count: usize,
}

/// Lays records of `sizes` bytes over segments: what fits into the live
/// segment goes there, what fits into one segment is not torn apart, and only
/// what is larger than a segment takes several batches.
///
/// `room` is what the live segment can take, `fresh_room` a new one, both
/// without what every batch carries besides (hard state, commit).
///
/// # Errors
/// The place of the first record that fits no segment, with its size.
pub fn split(sizes: &[usize], room: Option<usize>, fresh_room: usize) -> Result<Vec<Part>, (usize, usize)> {
    if let Some(found) = sizes.iter().copied().enumerate().find(|(_, size)| *size > fresh_room) {
        return Err(found);
    }
    let total: usize = sizes.iter().sum();
    if room.is_some_and(|room| total <= room) {
        return Ok(vec![Part { rotate: false, count: sizes.len() }]);
    }
    let mut parts = vec![Part { rotate: true, count: 0 }];
    let mut left = fresh_room;
    for size in sizes {
        if *size > left {
            parts.push(Part { rotate: true, count: 0 });
            left = fresh_room;
        }
        left -= size;
        let part = parts.last_mut().expect("starts with one part and only grows");
        part.count += 1;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_torn_apart_only_when_no_segment_holds_it() {
        let part = |rotate, count| Part { rotate, count };
        #[rustfmt::skip]
        let cases = [
            ("nothing",                 vec![],             Some(10), Ok(vec![part(false, 0)])),
            ("nothing, segment full",   vec![],             None,     Ok(vec![part(true, 0)])),
            ("fits",                    vec![4, 6],         Some(10), Ok(vec![part(false, 2)])),
            ("fits a fresh one",        vec![4, 7],         Some(10), Ok(vec![part(true, 2)])),
            ("exactly a fresh one",     vec![10, 10],       Some(19), Ok(vec![part(true, 2)])),
            ("needs two",               vec![10, 10, 1],    Some(19), Ok(vec![part(true, 2), part(true, 1)])),
            ("each its own",            vec![20, 20],       None,     Ok(vec![part(true, 1), part(true, 1)])),
            ("too large",               vec![1, 21],        Some(99), Err((1, 21))),
        ];
        for (name, sizes, room, want) in cases {
            assert_eq!(split(&sizes, room, 20), want, "{name}");
        }
    }
}
