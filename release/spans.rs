//! What the blocks of the new image come from, cut into pieces of one operation each.

use proa_update_model::{payload::OPERATION_BLOCKS_MAX, verity::BLOCK_BYTES};
use std::{collections::HashMap, ops::Range};

/// The fewest blocks in a row that are worth an operation of their own beside what
/// has to be sent. One costs some 60 bytes of manifest and cuts in two what would
/// compress better in one piece; inside a difference, equal blocks are zeros.
const WORTH_AN_OPERATION: usize = 16;

/// Most blocks of a span: what one operation may write.
const MOST_BLOCKS: usize = OPERATION_BLOCKS_MAX as usize;

/// Where the bytes of a run of blocks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere: they are all zero.
    Zero,
    /// From the old image, starting at this block.
    Old(usize),
    /// From the payload.
    Payload,
}

/// A run of blocks of the new image, never longer than one operation may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The blocks, counted from 0.
    pub blocks: Range<usize>,
    /// Where they come from.
    pub origin: Origin,
}

impl Span {
    /// The bytes of the image that the span is about.
    pub fn bytes(&self) -> Range<usize> {
        self.blocks.start * BLOCK_BYTES..self.blocks.end * BLOCK_BYTES
    }
}

/// The spans of `new`, in order and without a gap. `old` is empty for a full payload.
///
/// # Panics
/// When `new` or `old` isn't made of whole blocks.
pub fn spans(new: &[u8], old: &[u8]) -> Vec<Span> {
    assert!(new.len().is_multiple_of(BLOCK_BYTES) && old.len().is_multiple_of(BLOCK_BYTES));
    let runs = join_small(runs(&origins(new, old)));
    runs.into_iter().flat_map(cut).collect()
}

/// Where each block comes from. Of several equal blocks of the old image it is the
/// one that goes on with a run, then the one at the same place, then the first.
fn origins(new: &[u8], old: &[u8]) -> Vec<Origin> {
    let old: Vec<&[u8]> = old.chunks_exact(BLOCK_BYTES).collect();
    let mut places = HashMap::with_capacity(old.len());
    for (place, block) in old.iter().enumerate() {
        places.entry(*block).or_insert(place);
    }
    let mut origins: Vec<Origin> = Vec::with_capacity(new.len() / BLOCK_BYTES);
    for (index, block) in new.chunks_exact(BLOCK_BYTES).enumerate() {
        let next = match origins.last() {
            Some(Origin::Old(place)) => place + 1,
            _ => index,
        };
        origins.push(if block.iter().all(|byte| *byte == 0) {
            Origin::Zero
        } else if let Some(place) = [next, index].into_iter().find(|at| old.get(*at) == Some(&block)) {
            Origin::Old(place)
        } else {
            places.get(block).map_or(Origin::Payload, |place| Origin::Old(*place))
        });
    }
    origins
}

/// Blocks in a row with one origin, as one span of any length.
fn runs(origins: &[Origin]) -> Vec<Span> {
    let mut runs: Vec<Span> = Vec::new();
    for (index, origin) in origins.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.origin.after(run.blocks.len()) == *origin => run.blocks.end += 1,
            _ => runs.push(Span { blocks: index..index + 1, origin: *origin }),
        }
    }
    runs
}

/// Leaves to the payload what is short and lies beside what the payload brings anyway.
fn join_small(runs: Vec<Span>) -> Vec<Span> {
    let is_long = |run: &Span| run.origin != Origin::Payload && run.blocks.len() >= WORTH_AN_OPERATION;
    let mut joined: Vec<Span> = Vec::new();
    for stretch in runs.chunk_by(|a, b| !is_long(a) && !is_long(b)) {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
        if stretch.iter().any(|run| run.origin == Origin::Payload) {
            joined.push(Span { blocks: first.blocks.start..last.blocks.end, origin: Origin::Payload });
        } else {
            joined.extend_from_slice(stretch);
        }
    }
    joined
}

/// Cuts a run into spans that one operation can write.
fn cut(run: Span) -> impl Iterator<Item = Span> {
    let Span { blocks, origin } = run;
    blocks.clone().step_by(MOST_BLOCKS).map(move |start| Span {
        blocks: start..blocks.end.min(start + MOST_BLOCKS),
        origin: origin.after(start - blocks.start),
    })
}

impl Origin {
    /// The origin of the block that lies `count` behind one with this origin.
    fn after(self, count: usize) -> Self {
        match self {
            Self::Old(place) => Self::Old(place + count),
            Self::Zero | Self::Payload => self,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An image of blocks that are all one letter each; `.` is zero. `a*300` is the
    /// letter a with the numbers 0 to 299, each another block.
    fn image(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in text.split_whitespace() {
            let (letter, count) = word.split_once('*').map_or((word, 1), |(l, n)| (l, n.parse().unwrap()));
            for number in 0..count as u16 {
                let mut block = [0; BLOCK_BYTES];
                if letter != "." {
                    block[0] = letter.as_bytes()[0];
                    block[1..3].copy_from_slice(&number.to_le_bytes());
                }
                bytes.extend_from_slice(&block);
            }
        }
        bytes
    }

    fn check(new: &str, old: &str, want: &str) {
        let spans = spans(&image(new), &image(old));
        let text: Vec<String> = spans
            .iter()
            .map(|span| {
                let count = span.blocks.len();
                match span.origin {
                    Origin::Zero => format!("zero*{count}"),
                    Origin::Old(place) => format!("old{place}*{count}"),
                    Origin::Payload => format!("sent*{count}"),
                }
            })
            .collect();
        assert_eq!(text.join(" "), want, "new {new}, old {old}");
        let mut at = 0;
        for span in &spans {
            assert_eq!(span.blocks.start, at);
            at = span.blocks.end;
        }
    }

    #[test]
    fn spans_say_where_blocks_come_from() {
        check("", "", "");
        check("a*3", "", "sent*3");
        check("a*300", "", "sent*256 sent*44");
        check("a*20 .*40 b*20", "", "sent*20 zero*40 sent*20");
        // Short zero runs are left in what is sent.
        check("a*20 .*4 b*20", "", "sent*44");
        check(".*600", "", "zero*256 zero*256 zero*88");
        check("a*30", "a*30", "old0*30");
        check("a*300", "a*300", "old0*256 old256*44");
        // Moved.
        check("x*20 a*30", "a*30", "sent*20 old0*30");
        // Short runs beside what is sent go with it; beside copies they are copied.
        check("x*2 a*5 y*2", "a*5", "sent*9");
        check("a*20 b*2 c*20", "b*2 a*20 c*20", "old2*20 old0*2 old22*20");
        check("a*20 x*1 c*20", "a*20 b*1 c*20", "old0*20 sent*1 old21*20");
        // Equal blocks: the own place wins over the first, the run over both.
        check("p a q", "a a q", "sent*3");
        check("a*16 a*16", "a*16 a*16", "old0*32");
    }
}
