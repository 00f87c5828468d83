//! Which root file system boots, and how an update changes that.

use std::fmt;

const PRIORITY_SHIFT: u32 = 48;
const TRIES_SHIFT: u32 = 52;
const SUCCESSFUL_SHIFT: u32 = 56;
const NIBBLE: u64 = 0xf;

/// Highest value of [`SlotFlags::priority`] and of [`SlotFlags::tries`].
pub const NIBBLE_MAX: u8 = NIBBLE as u8;

/// Boot attributes of one slot: bits 48..=56 of its GPT entry.
///
/// Bits 48-51 priority (0 = never boot), 52-55 tries left, 56 successful.
/// The rest of the word belongs to others and is carried through untouched.
/// Worked example: `0x0021_0000_0000_0000` is priority 1, 2 tries, unproven.
///
/// Source: cgpt's kernel attributes, which CoreOS kept for its root file
/// systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotFlags(pub u64);

impl SlotFlags {
    /// The flags of a slot with `priority` and `tries` (0..=15 each).
    pub fn new(priority: u8, tries: u8, successful: bool) -> Self {
        Self(0).with(priority, tries, successful)
    }

    /// Rank among the slots, 0..=15; 0 never boots.
    pub fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT & NIBBLE) as u8
    }

    /// How often an unproven slot may still be started, 0..=15.
    pub fn tries(self) -> u8 {
        (self.0 >> TRIES_SHIFT & NIBBLE) as u8
    }

    /// Whether this slot's system once came up and said so.
    pub fn successful(self) -> bool {
        self.0 >> SUCCESSFUL_SHIFT & 1 == 1
    }

    /// Whether [`choose`] may ever answer with this slot.
    pub fn bootable(self) -> bool {
        self.priority() > 0 && (self.successful() || self.tries() > 0)
    }

    /// These flags after the system in the slot came up and was found healthy.
    ///
    /// Priority stays: an update that was staged meanwhile must still boot
    /// next, and a slot that is being overwritten must stay unbootable.
    pub fn mark_good(self) -> Self {
        self.with(self.priority(), 0, true)
    }

    /// These flags before the first byte of the slot is overwritten.
    pub fn retire(self) -> Self {
        self.with(0, 0, false)
    }

    /// These flags as `change` wants them.
    pub fn changed(self, change: Change) -> Self {
        let priority = change.priority.unwrap_or(self.priority());
        let tries = change.tries.unwrap_or(self.tries());
        self.with(priority, tries, change.successful.unwrap_or(self.successful()))
    }

    /// These flags with one try fewer; none are left of none.
    fn spend_try(self) -> Self {
        self.with(self.priority(), self.tries().saturating_sub(1), self.successful())
    }

    fn with(self, priority: u8, tries: u8, successful: bool) -> Self {
        let mask = NIBBLE << PRIORITY_SHIFT | NIBBLE << TRIES_SHIFT | 1 << SUCCESSFUL_SHIFT;
        let bits = u64::from(priority.min(NIBBLE_MAX)) << PRIORITY_SHIFT
            | u64::from(tries.min(NIBBLE_MAX)) << TRIES_SHIFT
            | u64::from(successful) << SUCCESSFUL_SHIFT;
        Self(self.0 & !mask | bits)
    }
}

/// What somebody wants of a slot's flags; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new rank, 0..=[`NIBBLE_MAX`].
    pub priority: Option<u8>,
    /// The new number of tries, 0..=[`NIBBLE_MAX`].
    pub tries: Option<u8>,
    /// Whether it counts as proven.
    pub successful: Option<bool>,
}

impl fmt::Display for SlotFlags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = if self.successful() { "successful" } else { "unproven" };
        write!(out, "priority {}, tries {}, {proof}", self.priority(), self.tries())
    }
}

/// One slot to start, and what must be on disk before it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Position among the slots that were handed in.
    pub index: usize,
    /// The flags to write first, `None` when they stay as they are.
    pub write: Option<SlotFlags>,
}

/// The slots worth starting, best first; the second is the fall-back when the
/// first turns out to be unreadable.
///
/// Highest priority wins; on a tie the lower index wins. An unproven slot pays
/// one try in advance, so a crash at any later point still counts against it.
/// A proven slot pays nothing, however many tries it has.
pub fn order(slots: &[SlotFlags]) -> Vec<Boot> {
    let mut boots: Vec<Boot> = (0..slots.len())
        .filter(|index| slots[*index].bootable())
        .map(|index| {
            let flags = slots[index];
            let write = (!flags.successful()).then(|| flags.spend_try());
            Boot { index, write }
        })
        .collect();
    boots.sort_by_key(|boot| (u8::MAX - slots[boot.index].priority(), boot.index));
    boots
}

/// Picks the slot to boot, or `None` when none is bootable.
pub fn choose(slots: &[SlotFlags]) -> Option<Boot> {
    order(slots).into_iter().next()
}

/// The flags of all slots once `target` holds a verified new system: it boots
/// next and has `tries` starts (1..=15) to prove itself.
///
/// The others keep their order and their proof, so the system that runs now is
/// what a failed update falls back to. They move down only when the top rank
/// is taken: the best of them to 14, the next to 13, and so on, never to 0.
///
/// # Panics
/// When `target` is not an index of `slots`, or `tries` is 0.
pub fn stage(slots: &[SlotFlags], target: usize, tries: u8) -> Vec<SlotFlags> {
    assert!(target < slots.len(), "slot {target} is not one of {}", slots.len());
    assert!(tries > 0, "a staged slot without tries could never boot");
    let others = || (0..slots.len()).filter(|index| *index != target);
    let mut ranks: Vec<u8> = others().map(|index| slots[index].priority()).filter(|rank| *rank > 0).collect();
    ranks.sort_unstable_by(|a, b| b.cmp(a));
    ranks.dedup();
    let highest = ranks.first().copied().unwrap_or(0);

    let mut staged = slots.to_vec();
    if highest == NIBBLE_MAX {
        for index in others() {
            let flags = slots[index];
            if let Some(below_top) = ranks.iter().position(|rank| *rank == flags.priority()) {
                // `ranks` has at most 15 members, so the cast cannot cut.
                let rank = (NIBBLE_MAX - 1).saturating_sub(below_top as u8).max(1);
                staged[index] = flags.with(rank, flags.tries(), flags.successful());
            }
        }
    }
    staged[target] = slots[target].with(highest.min(NIBBLE_MAX - 1) + 1, tries, false);
    staged
}

#[cfg(test)]
#[path = "slots_test.rs"]
mod tests;
