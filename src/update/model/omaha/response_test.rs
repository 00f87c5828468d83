#![allow(clippy::unwrap_used)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{AppResponse, BadMessage, CheckAnswer, OK, Package, PostInstall, Response, Update};

fn sample() -> Response {
    let update = Update {
        poll_interval_s: Some(60),
        codebases: vec!["http://10.0.0.1:8000/packages".into(), "https://mirror/x/".into()],
        version: "0.2.0".into(),
        packages: vec![Package {
            name: "proa-0.2.0.full".into(),
            sha1: "2jmj7l5rSw0yVb/vlWAYkK/YBwk=".into(),
            size_bytes: 1_000,
            sha256_hex: "ab".repeat(32),
        }],
        post_install: PostInstall {
            sha256: STANDARD.encode([0xab; 32]),
            is_delta: true,
            disable_back_off: true,
            failures_per_url_max: None,
            release_metadata: Some(br#"{"signed":""}"#.to_vec()),
        },
    };
    let app = AppResponse {
        app_id: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".into(),
        status: OK.into(),
        ping: true,
        update_check: Some(CheckAnswer::Update(Box::new(update))),
        events: 1,
    };
    Response { server: "omahad".into(), day_elapsed_s: 7, apps: vec![app] }
}

/// What a client of 2014 looks for, at the place where it looks.
#[test]
fn old_clients_find_what_they_look_for() {
    let want = concat!(
        r#"<?xml version="1.0" encoding="UTF-8"?>"#,
        "\n",
        r#"<response protocol="3.0" server="omahad"><daystart elapsed_seconds="7"/>"#,
        r#"<app appid="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}" status="ok"><ping status="ok"/><event status="ok"/>"#,
        r#"<updatecheck status="ok" PollInterval="60"><urls><url codebase="http://10.0.0.1:8000/packages"/>"#,
        r#"<url codebase="https://mirror/x/"/></urls><manifest version="0.2.0"><packages>"#,
        r#"<package name="proa-0.2.0.full" hash="2jmj7l5rSw0yVb/vlWAYkK/YBwk=" size="1000" required="true" "#,
        r#"hash_sha256="abababababababababababababababababababababababababababababababab"/></packages>"#,
        r#"<actions><action event="postinstall" sha256="q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=" "#,
        r#"needsadmin="false" IsDeltaPayload="true" DisablePayloadBackoff="true" ReleaseMetadata="eyJzaWduZWQiOiIifQ"/>"#,
        "</actions></manifest></updatecheck></app></response>\n",
    );
    assert_eq!(sample().render(), want);
    assert_eq!(Response::parse(want.as_bytes()), Ok(sample()));
}

#[test]
fn a_package_is_found_below_each_codebase() {
    let response = sample();
    let Some(CheckAnswer::Update(update)) = &response.apps[0].update_check else { panic!("an update") };
    let want = ["http://10.0.0.1:8000/packages/proa-0.2.0.full", "https://mirror/x/proa-0.2.0.full"];
    assert_eq!(update.urls(&update.packages[0]), want);
}

/// An answer of CoreOS's own server: an action without a word on deltas, an
/// update action that means nothing.
#[test]
fn answers_of_other_servers_are_read() {
    let document = r#"<?xml version="1.0" encoding="UTF-8"?>
<response protocol="3.0" server="go-update">
  <daystart elapsed_seconds="0"></daystart>
  <app appid="e96281a6-d1af-4bde-9a0a-97b76e56dc57" status="ok">
    <updatecheck status="ok">
      <urls><url codebase="https://update.release.core-os.net/amd64-usr/2605.12.0/"></url></urls>
      <manifest version="2605.12.0">
        <packages><package hash="2jmj7l5rSw0yVb/vlWAYkK/YBwk=" name="update.gz" size="465881871" required="false"></package></packages>
        <actions>
          <action event="update" run="update.gz"></action>
          <action event="postinstall" sha256="47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" DisablePayloadBackoff="true"></action>
        </actions>
      </manifest>
    </updatecheck>
  </app>
</response>"#;
    let response = Response::parse(document.as_bytes()).unwrap();
    let Some(CheckAnswer::Update(update)) = &response.apps[0].update_check else { panic!("an update") };
    assert_eq!(update.packages[0].size_bytes, 465_881_871);
    assert_eq!(update.post_install.release_metadata, None);
    assert!(!update.post_install.is_delta);
}

#[test]
fn answers_without_what_an_update_needs_are_refused() {
    let whole = sample().render();
    #[rustfmt::skip]
    let rows = [
        ("manifest",  "manifest",    BadMessage::NoElement("manifest")),
        ("packages",  "packages",    BadMessage::NoElement("packages")),
        ("package ",  "other ",      BadMessage::NoElement("package")),
        ("actions",   "others",      BadMessage::NoElement("actions")),
        ("postinstall", "other",     BadMessage::NoElement("action")),
        ("urls",      "others",      BadMessage::NoElement("urls")),
        ("<url ",     "<other ",     BadMessage::NoElement("url")),
        ("name=\"proa-0.2.0.full\"", "name=\"\"", BadMessage::Attribute { element: "package", attribute: "name", problem: "it is missing" }),
        ("size=\"1000\"", "size=\"-1\"",  BadMessage::Attribute { element: "package", attribute: "size", problem: "give a number of bytes" }),
        ("q6urq6u",   "q6ur",        BadMessage::Attribute { element: "action", attribute: "sha256", problem: "give the SHA-256 of the payload in base64" }),
        ("eyJzaWduZWQiOiIifQ", "eyJz!", BadMessage::Attribute { element: "action", attribute: "ReleaseMetadata", problem: "give the envelope in base64url" }),
    ];
    for (from, to, want) in rows {
        let to = if from == to { "others" } else { to };
        let document = whole.replace(from, to);
        assert_ne!(document, whole, "{from}");
        assert_eq!(Response::parse(document.as_bytes()), Err(want), "{from}");
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 .{}<>&'\"é_/-]{1,20}"
}

fn post_install() -> impl Strategy<Value = PostInstall> {
    let metadata = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..600));
    (any::<[u8; 32]>(), any::<[bool; 2]>(), any::<Option<u32>>(), metadata).prop_map(
        |(digest, [is_delta, disable_back_off], failures_per_url_max, release_metadata)| PostInstall {
            sha256: STANDARD.encode(digest),
            is_delta,
            disable_back_off,
            failures_per_url_max,
            release_metadata,
        },
    )
}

fn update() -> impl Strategy<Value = Update> {
    let package = (text(), text(), any::<u64>(), text())
        .prop_map(|(name, sha1, size_bytes, sha256_hex)| Package { name, sha1, size_bytes, sha256_hex });
    let packages = proptest::collection::vec(package, 1..4);
    let codebases = proptest::collection::vec(text(), 1..4);
    (any::<Option<u32>>(), codebases, text(), packages, post_install()).prop_map(
        |(poll_interval_s, codebases, version, packages, post_install)| Update {
            poll_interval_s,
            codebases,
            version,
            packages,
            post_install,
        },
    )
}

fn answer() -> impl Strategy<Value = CheckAnswer> {
    prop_oneof![
        (any::<Option<u32>>(), text())
            .prop_map(|(poll_interval_s, reason)| CheckAnswer::NoUpdate { poll_interval_s, reason }),
        update().prop_map(|update| CheckAnswer::Update(Box::new(update))),
        "error-[a-zA-Z]{1,20}".prop_map(CheckAnswer::Error),
    ]
}

proptest! {
    #[test]
    fn a_response_comes_back(
        server in text(),
        day_elapsed_s in any::<u32>(),
        apps in proptest::collection::vec(
            (text(), text(), any::<bool>(), proptest::option::of(answer()), 0..5_usize).prop_map(
                |(app_id, status, ping, update_check, events)| AppResponse { app_id, status, ping, update_check, events },
            ),
            0..4,
        ),
    ) {
        let response = Response { server, day_elapsed_s, apps };
        prop_assert_eq!(Response::parse(response.render().as_bytes()), Ok(response));
    }
}
