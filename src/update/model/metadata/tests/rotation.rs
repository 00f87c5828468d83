//! How one key set hands over to the next.

use super::{release, set, sign};
use crate::{
    metadata::{CHAIN_MAX, Downgrade, Envelope, KeySet, Machine, Refusal, verify},
    version::Version,
};
use proptest::prelude::*;

/// A link: the set, and whose signatures it has.
fn link(set: &KeySet, keys: &[u8]) -> Envelope {
    sign(set.render(), keys)
}

/// The epoch that is trusted after reading a release signed by `signers`.
fn trusted_after(start: &KeySet, chain: Vec<Envelope>, signers: &[u8]) -> Result<u64, Refusal> {
    let mut envelope = sign(release().render().expect("a release"), signers);
    envelope.keys = chain;
    let json = envelope.render()?;
    let running: Version = "0.1.0".parse().expect("a version");
    let machine = Machine {
        app: "6b6d3a2e-0f5c-4c7e-9b1d-70726f610001",
        running: &running,
        now_unix_s: 0,
        downgrade: Downgrade::Refused,
    };
    verify(json.as_bytes(), start, &machine).map(|accepted| accepted.keys.epoch)
}

#[test]
fn rotation_by_example() {
    // Two of 1, 2, 3; then two of 3, 4, 5; then 6 alone.
    let (first, second, third) = (set(1, 2, &[1, 2, 3]), set(2, 2, &[3, 4, 5]), set(3, 1, &[6]));
    let to_second = link(&second, &[1, 2, 4, 5]);
    let to_third = link(&third, &[4, 5, 6]);
    let both = vec![to_second.clone(), to_third.clone()];
    let not_enough = |valid, needed| Err(Refusal::NotEnoughSignatures { valid, needed });
    #[rustfmt::skip]
    let cases = [
        ("one step",                       &first,  vec![to_second.clone()],           &[3, 4][..], Ok(2)),
        ("two steps",                      &first,  both.clone(),                      &[6],        Ok(3)),
        ("the first step is behind us",    &second, both.clone(),                      &[6],        Ok(3)),
        ("all steps are behind us",        &third,  both.clone(),                      &[6],        Ok(3)),
        ("the common key signs for both",  &first,  vec![link(&second, &[2, 3, 4])],   &[3, 4],     Ok(2)),
        ("old keys sign a release",        &first,  vec![to_second.clone()],           &[1, 2],     Err(Refusal::WrongKey)),
        ("an old and a common key sign",   &first,  vec![to_second.clone()],           &[2, 3],     not_enough(1, 2)),
        ("retired keys after the step",    &second, vec![],                            &[1, 2],     Err(Refusal::WrongKey)),
        ("retired keys and the old chain", &third,  both.clone(),                      &[4, 5],     Err(Refusal::WrongKey)),
        ("a step is missing",              &first,  vec![to_third.clone()],            &[6],        Err(Refusal::KeyGap { epoch: 3, trusted: 1 })),
        ("steps in the wrong order",       &first,  vec![to_third.clone(), to_second], &[6],        Err(Refusal::KeyGap { epoch: 3, trusted: 1 })),
        ("too few of the old",             &first,  vec![link(&second, &[1, 4, 5])],   &[4, 5],     not_enough(1, 2)),
        ("none of the old",                &first,  vec![link(&set(2, 1, &[9]), &[9])], &[9],       Err(Refusal::WrongKey)),
        ("too few of the new",             &first,  vec![link(&second, &[1, 2, 4])],   &[4, 5],     not_enough(1, 2)),
        ("none of the new",                &first,  vec![link(&set(2, 1, &[9]), &[1, 2])], &[9],    Err(Refusal::WrongKey)),
    ];
    for (name, start, chain, signers, want) in cases {
        assert_eq!(trusted_after(start, chain, signers), want, "{name}");
    }
}

#[test]
fn a_release_is_no_key_set() {
    let body = release().render().expect("a release");
    let refusal = trusted_after(&set(1, 1, &[1]), vec![sign(body, &[1])], &[1]).expect_err("refused");
    assert_eq!(refusal.to_string(), "bad key set: its type is not \"proa-keys\"");
}

#[test]
fn chains_have_limits() {
    let first = set(1, 1, &[1]);
    let chain =
        |length: u64| (2..2 + length).map(|epoch| link(&set(epoch, 1, &[1]), &[1])).collect::<Vec<_>>();
    assert_eq!(trusted_after(&first, chain(CHAIN_MAX as u64), &[1]), Ok(17));
    let want = Refusal::TooLarge { what: "key sets", count: 17, most: 16 };
    assert_eq!(trusted_after(&first, chain(17), &[1]), Err(want));
    let mut nested = link(&set(2, 1, &[1]), &[1]);
    nested.keys = chain(1);
    let refusal = trusted_after(&first, vec![nested], &[1]).expect_err("refused");
    assert!(matches!(refusal, Refusal::BadForm { .. }), "{refusal}");
}

#[test]
fn key_sets_that_cannot_be_are_refused() {
    let key = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=";
    let body = |threshold: &str, keys: &str| {
        format!(r#"{{"type":"proa-keys","epoch":1,"threshold":{threshold},"keys":[{keys}]}}"#)
    };
    let one = format!("\"{key}\"");
    assert_eq!(KeySet::parse(body("1", &one).as_bytes()), Ok(set(1, 1, &[1])));
    let many: Vec<u8> = (1..=17).collect();
    #[rustfmt::skip]
    let cases = [
        ("threshold 0",    body("0", &one)),
        ("threshold 2",    body("2", &one)),
        ("threshold -1",   body("-1", &one)),
        ("no keys",        body("1", "")),
        ("no keys needed", body("0", "")),
        ("a key twice",    body("1", &format!("{one},{one}"))),
        ("a short key",    body("1", "\"AAAA\"")),
        ("17 keys",        String::from_utf8(set(1, 1, &many).render()).expect("JSON")),
        ("another type",   body("1", &one).replace("proa-keys", "proa-release")),
        ("no JSON",        one.clone()),
        ("huge",           " ".repeat(40_000)),
    ];
    for (name, text) in cases {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever signs, a step is taken exactly when enough of both sets did.
    #[test]
    fn a_step_needs_enough_of_both(old in prop::collection::btree_set(1u8..8, 1..4),
                                   new in prop::collection::btree_set(1u8..8, 1..4),
                                   signers in prop::collection::btree_set(1u8..8, 0..8),
                                   thresholds in (1usize..4, 1usize..4)) {
        let numbers = |keys: &std::collections::BTreeSet<u8>| keys.iter().copied().collect::<Vec<u8>>();
        let old_needs = thresholds.0.min(old.len());
        let new_needs = thresholds.1.min(new.len());
        let first = set(1, old_needs, &numbers(&old));
        let second = set(2, new_needs, &numbers(&new));
        let want = old.intersection(&signers).count() >= old_needs
            && new.intersection(&signers).count() >= new_needs;
        let got = first.advance(&[link(&second, &numbers(&signers))]);
        prop_assert_eq!(got.is_ok(), want);
    }
}
