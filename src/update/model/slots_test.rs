//! The laws of [`super`], by tables and by enumeration of every flag pair.

use super::{Boot, Change, SlotFlags, choose, order, stage};

fn flags(priority: u8, tries: u8, successful: bool) -> SlotFlags {
    SlotFlags::new(priority, tries, successful)
}

fn boot(index: usize, write: Option<SlotFlags>) -> Option<Boot> {
    Some(Boot { index, write })
}

/// Every flag word of one slot, with foreign bits that alternate.
fn every_flags() -> impl Iterator<Item = SlotFlags> + Clone {
    (0..512u64).map(|bits| SlotFlags(bits << 48 | foreign(bits)))
}

/// Bits that are not ours: 0-47 and 57-63.
fn foreign(seed: u64) -> u64 {
    let ours = 0x1ff << 48;
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !ours
}

const OURS: u64 = 0x1ff << 48;

#[test]
fn choice_by_example() {
    let old = flags(1, 0, true);
    #[rustfmt::skip]
    let cases = [
        ("fresh install",           old,               flags(0, 0, false), boot(0, None)),
        ("update staged",           old,               flags(2, 1, false), boot(1, Some(flags(2, 0, false)))),
        ("update failed to boot",   old,               flags(2, 0, false), boot(0, None)),
        ("update marked good",      old,               flags(2, 0, true),  boot(1, None)),
        ("priority 0 is never",     flags(0, 9, true), flags(0, 9, true),  None),
        ("tie goes to the first",   flags(3, 0, true), flags(3, 0, true),  boot(0, None)),
        ("proof is not spent",      flags(3, 5, true), old,                boot(0, None)),
        ("tries of both used up",   flags(2, 0, false), flags(1, 0, false), None),
    ];
    for (name, a, b, want) in cases {
        assert_eq!(choose(&[a, b]), want, "{name}");
    }
}

#[test]
fn any_number_of_slots() {
    assert_eq!(choose(&[]), None);
    assert_eq!(choose(&[flags(1, 0, true)]), boot(0, None));
    let three = [flags(1, 0, true), flags(3, 0, false), flags(2, 2, false)];
    assert_eq!(choose(&three), boot(2, Some(flags(2, 1, false))));
    let indexes: Vec<usize> = order(&three).iter().map(|boot| boot.index).collect();
    assert_eq!(indexes, [2, 0], "the exhausted slot is not even a fall-back");
}

#[test]
fn choice_keeps_its_laws_for_every_pair() {
    for a in every_flags() {
        for b in every_flags() {
            let pair = [a, b];
            let boots = order(&pair);
            let bootable = pair.iter().filter(|flags| flags.bootable()).count();
            assert_eq!(boots.len(), bootable, "every bootable slot can boot: {pair:?}");
            for Boot { index, write } in &boots {
                let flags = pair[*index];
                assert!(flags.priority() > 0, "priority 0 never boots: {pair:?}");
                match write {
                    None => assert!(flags.successful(), "an unproven slot pays: {pair:?}"),
                    Some(after) => {
                        assert!(!flags.successful(), "a proven slot does not pay: {pair:?}");
                        assert_eq!(after.tries() + 1, flags.tries(), "exactly one try: {pair:?}");
                        let others = !(0xf << 52);
                        assert_eq!(after.0 & others, flags.0 & others, "only the tries change");
                    }
                }
            }
            if let [first, second] = boots[..] {
                let (first, second) = (pair[first.index], pair[second.index]);
                assert!(first.priority() >= second.priority(), "best first: {pair:?}");
            }
        }
    }
}

#[test]
fn an_unproven_slot_is_given_up_after_its_tries() {
    for tries in 0..=15 {
        let mut slots = [flags(1, 0, true), flags(2, tries, false)];
        let mut starts = 0;
        while let Some(Boot { index: 1, write: Some(after) }) = choose(&slots) {
            slots[1] = after;
            starts += 1;
            assert!(starts <= 15, "it ends");
        }
        assert_eq!(starts, tries);
        assert_eq!(choose(&slots), boot(0, None), "then the old system boots");
    }
}

#[test]
fn single_changes_keep_foreign_bits() {
    for flags in every_flags() {
        let good = flags.mark_good();
        assert_eq!((good.priority(), good.tries(), good.successful()), (flags.priority(), 0, true));
        let retired = flags.retire();
        assert!(!retired.bootable() && !retired.mark_good().bootable());
        assert_eq!(good.0 & !OURS, flags.0 & !OURS);
        assert_eq!(retired.0 & !OURS, flags.0 & !OURS);
    }
}

#[test]
fn staging_puts_the_target_first_for_every_pair() {
    for a in every_flags() {
        for b in every_flags() {
            let staged = stage(&[a, b], 1, 2);
            assert_eq!(choose(&staged).map(|boot| boot.index), Some(1), "{a:?} {b:?}");
            assert!(staged[1].priority() > staged[0].priority());
            assert_eq!((staged[1].tries(), staged[1].successful()), (2, false));
            assert_eq!(staged[0].bootable(), a.bootable(), "the fall-back stays one");
            assert_eq!(staged[0].tries(), a.tries());
            assert_eq!(staged[0].0 & !OURS, a.0 & !OURS);
            assert_eq!(staged[1].0 & !OURS, b.0 & !OURS);
        }
    }
}

#[test]
fn staging_keeps_the_order_of_the_others() {
    for bits in 0..16u32.pow(3) {
        let ranks = [bits & 15, bits >> 4 & 15, bits >> 8].map(|rank| rank as u8);
        let mut slots: Vec<SlotFlags> = ranks.iter().map(|rank| flags(*rank, 0, true)).collect();
        slots.push(flags(0, 0, false));
        let before: Vec<usize> = order(&slots).iter().map(|boot| boot.index).collect();
        let after: Vec<usize> = order(&stage(&slots, 3, 1)).iter().map(|boot| boot.index).collect();
        assert_eq!(after[0], 3, "{ranks:?}");
        assert_eq!(after[1..], before, "{ranks:?}");
    }
}

#[test]
fn a_change_touches_only_what_it_names() {
    let flags = SlotFlags(SlotFlags::new(3, 2, false).0 | 1 << 60 | 1);
    #[rustfmt::skip]
    let cases = [
        ("nothing",    Change::default(),                                    (3, 2, false)),
        ("priority",   Change { priority: Some(0), ..Change::default() },    (0, 2, false)),
        ("tries",      Change { tries: Some(15), ..Change::default() },      (3, 15, false)),
        ("successful", Change { successful: Some(true), ..Change::default() }, (3, 2, true)),
    ];
    for (name, change, want) in cases {
        let changed = flags.changed(change);
        assert_eq!((changed.priority(), changed.tries(), changed.successful()), want, "{name}");
        assert_eq!(changed.0 & (1 << 60 | 1), 1 << 60 | 1, "{name}: others' bits stay");
    }
}
