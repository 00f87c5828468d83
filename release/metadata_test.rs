use super::*;
use crate::{
    keys::{KEY_SET, PAYLOAD_KEY, PayloadKey, RELEASE_KEY, generate, generate_release_key, release_key},
    payload::{LEVEL, make},
    seal,
};
use proa_update_model::metadata::{Downgrade, Machine, verify};
use tempfile::TempDir;

const APP: &str = "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}";

/// A folder with keys and the slots and whole payloads of 1.0.0 and 1.1.0.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    generate(dir.path()).expect("openssl");
    let key = PayloadKey::read(&at(PAYLOAD_KEY)).expect("just made");
    for (version, bytes) in [("1.0.0", 90_000), ("1.1.0", 120_000)] {
        fs::write(at(version), seal::tests::squashfs(bytes)).expect("a file");
        seal::seal(&at(version), &version.parse().expect("a version")).expect("a squashfs");
        let slot = Slot::read(&at(version)).expect("sealed");
        fs::write(at(&format!("{version}-full")), make(&slot, None, &key, LEVEL).expect("made"))
            .expect("a file");
    }
    let (old, new) = (Slot::read(&at("1.0.0")).expect("one"), Slot::read(&at("1.1.0")).expect("other"));
    fs::write(at("1.1.0-from-1.0.0"), make(&new, Some(&old), &key, LEVEL).expect("made")).expect("a file");
    dir
}

fn wanted<'a>(slot: &'a Path, version: &str, payloads: Vec<PathBuf>, origins: Vec<PathBuf>) -> Wanted<'a> {
    Wanted {
        app: APP.to_owned(),
        version: version.parse().expect("a version"),
        expires_unix_s: 2_000_000_000,
        minimum: "0.9".parse().expect("a version"),
        slot,
        payloads,
        origins,
    }
}

#[test]
fn machines_take_what_is_signed_and_follow_new_keys() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let trusted = read_key_set(&at(KEY_SET)).expect("just made");
    let key = release_key(&at(RELEASE_KEY)).expect("just made");
    let running: Version = "1.0.0".parse().expect("a version");
    let machine =
        Machine { app: APP, running: &running, now_unix_s: 1_900_000_000, downgrade: Downgrade::Refused };

    let first = release(wanted(&at("1.0.0"), "1.0.0", vec![at("1.0.0-full")], vec![])).expect("fits");
    let json = sign(&first, std::slice::from_ref(&key), vec![], &trusted).expect("trusted");
    fs::write(at("1.0.0.json"), json).expect("a file");
    let payloads = vec![at("1.1.0-full"), at("1.1.0-from-1.0.0")];
    let second = release(wanted(&at("1.1.0"), "1.1.0", payloads, vec![at("1.0.0.json")])).expect("fits");
    let json = sign(&second, std::slice::from_ref(&key), vec![], &trusted).expect("trusted");
    let accepted = verify(json.as_bytes(), &trusted, &machine).expect("good");
    assert_eq!(accepted.release, second);
    assert!(accepted.release.difference_from(&first.root_hash).is_some());

    // Two new keys of which both must sign; the old one retires.
    let new = [generate_release_key(&at("b")).expect("made"), generate_release_key(&at("c")).expect("made")];
    let (next, chain) = rotate(&trusted, std::slice::from_ref(&key), &new, 2).expect("follows");
    fs::write(at("chain"), &chain).expect("a file");
    assert_eq!((next.epoch, read_key_set(&at("chain")).expect("a set")), (2, next.clone()));
    let link = || vec![read_envelope(&at("chain")).expect("an envelope")];
    let json = sign(&second, &new, link(), &trusted).expect("the chain leads there");
    assert_eq!(verify(json.as_bytes(), &trusted, &machine).expect("good").keys, next);
    assert!(sign(&second, std::slice::from_ref(&key), link(), &trusted).is_err(), "the old key is retired");
    assert!(sign(&second, &new[..1], link(), &trusted).is_err(), "both must sign");
    assert!(rotate(&trusted, &new, &new, 2).is_err(), "the old key must sign");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let slot = at("1.1.0");
    #[rustfmt::skip]
    let cases = [
        ("1.0.0", at("1.1.0-full"),       vec![],            "not sealed as version 1.0.0"),
        ("1.1.0", at("1.0.0-full"),       vec![],            "makes another system than that of the slot"),
        ("1.1.0", at("1.1.0-from-1.0.0"), vec![],            "give --from"),
        ("1.1.0", at("1.1.0-full"),       vec![at("1.0.0")], "more of --from"),
        ("1.1.0", at("1.1.0-from-1.0.0"), vec![at(KEY_SET)], "bad envelope"),
        ("1.1.0", slot.clone(),           vec![],            "no payload"),
    ];
    for (version, payload, origins, want) in cases {
        let refused = release(wanted(&slot, version, vec![payload], origins)).expect_err(want).to_string();
        assert!(refused.contains(want), "{want}: {refused}");
    }
    assert!(generate(dir.path()).expect_err("keys are there").to_string().contains("never overwritten"));
}
