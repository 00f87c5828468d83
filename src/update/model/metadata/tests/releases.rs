//! What is accepted, and every reason not to.

use super::{public, release, set, sign};
use crate::{
    error_code::ErrorCode,
    hash::Sha256,
    metadata::{Downgrade, ENVELOPE_BYTES_MAX, Envelope, KeySet, Machine, Refusal, Release, verify},
    version::Version,
};

const APP: &str = "6b6d3a2e-0f5c-4c7e-9b1d-70726f610001";

fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

fn machine(running: &Version) -> Machine<'_> {
    Machine { app: APP, running, now_unix_s: 1999, downgrade: Downgrade::Refused }
}

fn json(envelope: &Envelope) -> String {
    envelope.render().expect("within the limits")
}

fn signed(release: &Release, keys: &[u8]) -> String {
    json(&sign(release.render().expect("a release"), keys))
}

/// Accepted version, or why not, on a machine that runs 0.1.5.
fn outcome(bytes: &str, trusted: &KeySet) -> Result<String, Refusal> {
    let running = version("0.1.5");
    verify(bytes.as_bytes(), trusted, &machine(&running)).map(|accepted| accepted.release.version.to_string())
}

#[test]
fn signed_release_is_accepted_as_it_is() {
    let running = version("0.1.5");
    let accepted = verify(signed(&release(), &[1]).as_bytes(), &set(1, 1, &[1]), &machine(&running));
    let accepted = accepted.expect("accepted");
    assert_eq!(accepted.release, release());
    assert_eq!(accepted.keys, set(1, 1, &[1]), "no chain, no other keys");
}

#[test]
fn bytes_to_sign_by_example() {
    let text = String::from_utf8(release().render().expect("a release")).expect("JSON");
    let start = r#"{"type":"proa-release","app":"{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}","version":"0.2.0","expires":2000,"minimum":"0.1.0","root_hash":""#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(r#""from":null}"#) && text.contains(r#""from":{"version":"0.1.0","root_hash":""#));
    let keys = String::from_utf8(set(3, 1, &[1]).render()).expect("JSON");
    assert_eq!(
        keys,
        r#"{"type":"proa-keys","epoch":3,"threshold":1,"keys":["iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="]}"#
    );
    assert_eq!(KeySet::parse(keys.as_bytes()), Ok(set(3, 1, &[1])));
    let id: String = public(1).id().into();
    assert_eq!(id, Sha256::of(&public(1).0).to_string()[..16]);
}

#[test]
fn signatures_that_count() {
    let two_of_three = set(1, 2, &[1, 2, 3]);
    let not_enough = |valid| Err(Refusal::NotEnoughSignatures { valid, needed: 2 });
    #[rustfmt::skip]
    let cases = [
        ("two of three",            &[1, 3][..],    Ok("0.2.0".to_owned())),
        ("all three",               &[1, 2, 3],     Ok("0.2.0".to_owned())),
        ("a stranger beside them",  &[9, 1, 2],     Ok("0.2.0".to_owned())),
        ("nobody",                  &[],            Err(Refusal::WrongKey)),
        ("strangers",               &[8, 9],        Err(Refusal::WrongKey)),
        ("one",                     &[2],           not_enough(1)),
        ("one and a stranger",      &[2, 9],        not_enough(1)),
        ("the same one twice",      &[2, 2],        not_enough(1)),
    ];
    for (name, keys, want) in cases {
        assert_eq!(outcome(&signed(&release(), keys), &two_of_three), want, "{name}");
    }
}

#[test]
fn signature_is_of_these_bytes_by_this_key() {
    let trusted = set(1, 1, &[1]);
    let none = Err(Refusal::NotEnoughSignatures { valid: 0, needed: 1 });
    let good = sign(release().render().expect("a release"), &[1]);
    for byte in 0..good.signed.len() {
        let mut bad = good.clone();
        bad.signed[byte] ^= 1;
        assert_eq!(outcome(&json(&bad), &trusted), none, "byte {byte} of what is signed");
    }
    for byte in 0..64 {
        let mut bad = good.clone();
        bad.signatures[0].signature[byte] ^= 1;
        assert_eq!(outcome(&json(&bad), &trusted), none, "byte {byte} of the signature");
    }
    let mut renamed = sign(good.signed.clone(), &[9]);
    renamed.signatures[0].key = public(1).id();
    assert_eq!(outcome(&json(&renamed), &trusted), none, "the name of a key proves nothing");
    let mut empty = good.clone();
    empty.signatures[0].signature.clear();
    assert_eq!(outcome(&json(&empty), &trusted), none, "an empty signature");
}

#[test]
fn what_suits_a_machine() {
    type Change = fn(&mut Machine<'_>);
    #[rustfmt::skip]
    let cases: &[(&str, &str, Change, Result<(), u32>)] = &[
        ("older machine",               "0.1.0",    |_| {},                                 Ok(())),
        ("braces or not",               "0.1.0",    |m| m.app = "{6B6D3A2E-0f5c-4c7e-9b1d-70726f610001}", Ok(())),
        ("the same version",            "0.2.0",    |_| {},                                 Err(35)),
        ("replayed: older than ours",   "0.3.0",    |_| {},                                 Err(35)),
        ("asked to go back",            "0.3.0",    |m| m.downgrade = Downgrade::Asked,     Ok(())),
        ("asked to install again",      "0.2.0",    |m| m.downgrade = Downgrade::Asked,     Ok(())),
        ("its own candidate",           "0.2.0-rc", |_| {},                                 Ok(())),
        ("below the minimum",           "0.0.9",    |_| {},                                 Err(35)),
        ("asked, below the minimum",    "0.0.9",    |m| m.downgrade = Downgrade::Asked,     Err(35)),
        ("last second",                 "0.1.0",    |m| m.now_unix_s = 1999,                Ok(())),
        ("expired",                     "0.1.0",    |m| m.now_unix_s = 2000,                Err(34)),
        ("asked, expired",              "0.3.0",    |m| (m.downgrade, m.now_unix_s) = (Downgrade::Asked, 3000), Err(34)),
        ("wrong app",                   "0.1.0",    |m| m.app = "e96281a6-d1af-4bde-9a0a-97b76e56dc57", Err(34)),
        ("no app",                      "0.1.0",    |m| m.app = "",                         Err(34)),
    ];
    let bytes = signed(&release(), &[1]);
    for (name, running, change, want) in cases {
        let running = version(running);
        let mut machine = machine(&running);
        change(&mut machine);
        let got = verify(bytes.as_bytes(), &set(1, 1, &[1]), &machine);
        let got = got.map(|_| ()).map_err(|refusal| refusal.error_code());
        assert_eq!(got, want.map_err(ErrorCode::from_number), "{name}");
    }
}

#[test]
fn refusals_say_what_and_why() {
    let bytes = signed(&release(), &[1]);
    let refused = |running: &str, now_unix_s, app| {
        let running = version(running);
        let machine = Machine { now_unix_s, app, ..machine(&running) };
        verify(bytes.as_bytes(), &set(1, 1, &[1]), &machine).expect_err("refused").to_string()
    };
    assert_eq!(refused("0.3", 0, APP), "version 0.2.0 is not newer than 0.3, which runs");
    assert_eq!(refused("0.0.9", 0, APP), "version 0.0.9 runs; the release can be installed from 0.1.0 on");
    let expired = "the release expired on 1970-01-01 00:33:20 and it is 1970-01-01 00:33:21, UTC";
    assert_eq!(refused("0.1.0", 2001, APP), expired);
    let app = "the release is for the application {6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}; this is x";
    assert_eq!(refused("0.1.0", 0, "x"), app);
}

#[test]
fn other_forms_are_refused() {
    let good = signed(&release(), &[1]);
    let trusted = set(1, 1, &[1]);
    let body = |text: &str| json(&sign(text.as_bytes().to_vec(), &[1]));
    #[rustfmt::skip]
    let cases = [
        ("empty",                   String::new()),
        ("no JSON",                 "<xml/>".to_owned()),
        ("truncated",               good[..good.len() - 1].to_owned()),
        ("trailing",                format!("{good}x")),
        ("unknown field",           good.replacen('{', r#"{"more":1,"#, 1)),
        ("field twice",             good.replacen('{', r#"{"signed":"","#, 1)),
        ("no signatures",           r#"{"signed":""}"#.to_owned()),
        ("no base64",               r#"{"signed":"?","signatures":[]}"#.to_owned()),
        ("bad name of a key",       r#"{"signed":"","signatures":[{"key":"1","signature":""}]}"#.to_owned()),
        ("nothing signed",          body("")),
        ("signed: no JSON",         body("release")),
        ("signed: no release",      body("{}")),
        ("signed: a key set",       body(&String::from_utf8(trusted.render()).expect("JSON"))),
        ("signed: only a type",     body(r#"{"type":"proa-release"}"#)),
    ];
    for (name, bytes) in cases {
        let refusal = outcome(&bytes, &trusted).expect_err(name);
        assert!(matches!(refusal, Refusal::BadForm { .. }), "{name}: {refusal}");
        assert_eq!(refusal.error_code(), ErrorCode::MetadataSignatureForm, "{name}");
    }
}

#[test]
fn releases_that_cannot_be_are_refused() {
    type Change = fn(&mut Release);
    #[rustfmt::skip]
    let cases: &[(&str, Change)] = &[
        ("no payload",           |r| r.payloads.clear()),
        ("name with a slash",    |r| r.payloads[0].name = "../etc/passwd".into()),
        ("name with a dot",      |r| r.payloads[0].name = ".hidden".into()),
        ("no name",              |r| r.payloads[0].name = String::new()),
        ("long name",            |r| r.payloads[0].name = "x".repeat(129)),
        ("a name twice",         |r| r.payloads[1].name = r.payloads[0].name.clone()),
        ("huge payload",         |r| r.payloads[0].size_bytes = 1 << 40),
        ("huge slot",            |r| r.slot_bytes = u64::MAX),
        ("huge manifest",        |r| r.payloads[0].manifest_bytes = 4 << 30),
        ("manifest of nothing",  |r| r.payloads[0].manifest_bytes = 0),
        ("17 payloads",          |r| r.payloads = vec![r.payloads[0].clone(); 17]),
    ];
    for (name, change) in cases {
        let mut release = release();
        change(&mut release);
        let rendered = release.render().expect_err(name);
        // Who signs such a release anyway finds no machine that takes it.
        let bytes = serde_json::to_vec(&release).expect("JSON");
        let got = outcome(&json(&sign(bytes, &[1])), &set(1, 1, &[1])).expect_err(name);
        assert_eq!(got, rendered, "{name}");
    }
}

#[test]
fn more_than_any_honest_envelope_is_refused() {
    let huge = " ".repeat(ENVELOPE_BYTES_MAX) + &signed(&release(), &[1]);
    assert!(matches!(outcome(&huge, &set(1, 1, &[1])), Err(Refusal::TooLarge { .. })));
    let many: Vec<u8> = (1..=17).collect();
    let envelope = sign(release().render().expect("a release"), &many);
    let want = Refusal::TooLarge { what: "signatures", count: 17, most: 16 };
    assert_eq!(envelope.render(), Err(want));
    let deep = "[".repeat(20_000);
    assert!(matches!(outcome(&deep, &set(1, 1, &[1])), Err(Refusal::BadForm { .. })));
}

#[test]
fn unknown_fields_of_a_release_are_for_later_versions() {
    let text = String::from_utf8(release().render().expect("a release")).expect("JSON");
    let later = text.replacen('{', r#"{"colour":"blue","#, 1);
    let bytes = json(&sign(later.into_bytes(), &[1]));
    assert_eq!(outcome(&bytes, &set(1, 1, &[1])), Ok("0.2.0".to_owned()));
}

#[test]
fn payload_is_chosen_by_what_runs() {
    let release = release();
    let name = |payload: Option<&crate::metadata::Payload>| payload.map(|payload| payload.name.clone());
    let difference = Some("proa-0.1.0-0.2.0.delta".to_owned());
    assert_eq!(name(release.difference_from(&Sha256::of(b"0.1.0"))), difference);
    assert_eq!(name(release.difference_from(&Sha256::of(b"0.1.1"))), None);
    assert_eq!(name(release.whole()), Some("proa-0.2.0.gz".to_owned()));
    let delta = release.payload("proa-0.1.0-0.2.0.delta").expect("it is there");
    assert_eq!(release.expected(delta, 8192).source_bytes, Some(8192));
    let whole = release.whole().expect("it is there");
    let expected = release.expected(whole, 8192);
    assert_eq!((expected.source_bytes, expected.root_hash), (None, release.root_hash));
    assert_eq!((expected.size_bytes, expected.head_bytes, expected.slot_bytes), (5000, 300, 45056));
}
