#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{AppRequest, BadMessage, Event, EventResult, EventType, Os, Request, UpdateCheck, bare_id};
use crate::error_code::ErrorCode;

/// A check as a CoreOS machine sends it after a boot.
const COREOS_CHECK: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<request protocol="3.0" version="update_engine-0.4.10" updaterversion="update_engine-0.4.10" installsource="scheduler" ismachine="1">
    <os version="Chateau" platform="CoreOS" sp="2605.12.0_x86_64"></os>
    <app appid="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}" version="2605.12.0" track="stable" bootid="{11a4cbc4-6d3f-4d3a-8b2b-0a7c11fbd2a5}" oem="" oemversion="" alephversion="2303.3.0" machineid="8c9ff0d0ab2b4d0fa5b6a4a19fdd3bfe" machinealias="" lang="en-US" board="amd64-usr" hardware_class="" delta_okay="false" >
        <ping active="1"></ping>
        <updatecheck></updatecheck>
        <event eventtype="3" eventresult="2" previousversion="2512.3.0"></event>
    </app>
</request>
"#;

/// An event alone, of a client that asks for nothing.
const COREOS_EVENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<request protocol="3.0" version="update_engine-0.4.10" updaterversion="update_engine-0.4.10" installsource="ondemandupdate" ismachine="1" requestid="x" sessionid="y" testsource="">
    <os version="Chateau" platform="CoreOS" sp="2605.12.0_aarch64" arch="arm64"/>
    <app appid="e96281a6-d1af-4bde-9a0a-97b76e56dc57" version="2605.12.0" track="5b810680-e36a-4879-b98a-4f989e80b899" machineid="8c9f" board="arm64-usr" delta_okay="true" multi_manifest_ok="true" installage="3" unheard="of">
        <event eventtype="3" eventresult="0" errorcode="-2147483604"/>
        <invention><deeper/></invention>
    </app>
</request>"#;

#[test]
fn coreos_checks_are_read() {
    let request = Request::parse(COREOS_CHECK.as_bytes()).unwrap();
    assert_eq!(request.updater, "update_engine-0.4.10");
    assert_eq!(request.install_source, "scheduler");
    assert_eq!(request.os.platform, "CoreOS");
    assert_eq!(request.os.service_pack, "2605.12.0_x86_64");
    let [app] = request.apps.as_slice() else { panic!("one app") };
    assert_eq!(app.app_id, "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}");
    assert_eq!(bare_id(&app.app_id), super::COREOS_APP);
    assert_eq!((app.version.as_str(), app.track.as_str()), ("2605.12.0", "stable"));
    assert_eq!(app.machine_id, "8c9ff0d0ab2b4d0fa5b6a4a19fdd3bfe");
    assert_eq!(app.aleph_version, "2303.3.0");
    assert!(!app.delta_okay);
    assert_eq!(app.ping, Some(true));
    assert_eq!(app.update_check, Some(UpdateCheck::default()));
    let [event] = app.events.as_slice() else { panic!("one event") };
    assert_eq!((event.kind, event.result), (EventType::UPDATE_COMPLETE, EventResult::SUCCESS_REBOOT));
    assert_eq!((event.previous_version.as_str(), event.error_code), ("2512.3.0", None));
}

#[test]
fn events_alone_are_read_with_what_is_unknown() {
    let request = Request::parse(COREOS_EVENT.as_bytes()).unwrap();
    let [app] = request.apps.as_slice() else { panic!("one app") };
    assert!(app.delta_okay);
    assert_eq!((app.ping, &app.update_check), (None, &None));
    // The sign is the flag for developer mode; below it stands 44.
    assert_eq!(app.events[0].error(), Some(ErrorCode::Rollback));
}

#[test]
fn ids_are_compared_bare() {
    for id in ["{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}", "e96281a6-d1af-4bde-9a0a-97b76e56dc57"] {
        assert_eq!(bare_id(id), super::COREOS_APP);
    }
    assert_eq!(bare_id("{half"), "{half");
}

#[test]
fn what_is_no_request_is_refused() {
    let bad_event =
        |attribute| BadMessage::Attribute { element: "event", attribute, problem: "give a whole number" };
    let app = |inner: &str| format!("<request protocol='3.0'><app appid='a'>{inner}</app></request>");
    #[rustfmt::skip]
    let rows = [
        ("<response protocol='3.0'/>".into(), BadMessage::OtherRoot { found: "response".into(), wanted: "request" }),
        ("<request protocol='2.0'/>".into(),  BadMessage::OtherProtocol("2.0".into())),
        ("<request/>".into(),                 BadMessage::OtherProtocol(String::new())),
        (app("<event eventtype='x'/>"),       bad_event("eventtype")),
        (app("<event eventtype='3' eventresult='0' errorcode=''/>"), bad_event("errorcode")),
    ];
    for (document, want) in rows {
        assert_eq!(Request::parse(document.as_bytes()), Err(want), "{document}");
    }
    assert!(Request::parse(b"<request protocol='3.0'><app/></request>").is_err());
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 .{}<>&'\"é_-]{0,20}"
}

fn event() -> impl Strategy<Value = Event> {
    (any::<[u32; 2]>(), proptest::option::of(any::<u32>()), [text(), text(), text(), text()]).prop_map(
        |([kind, result], error_code, [previous_version, next_version, failed_version, reason])| Event {
            kind: EventType(kind),
            result: EventResult(result),
            error_code,
            previous_version,
            next_version,
            failed_version,
            reason,
        },
    )
}

fn app() -> impl Strategy<Value = AppRequest> {
    let texts = proptest::collection::vec(text(), 12);
    let check = text().prop_map(|target_version_prefix| UpdateCheck { target_version_prefix });
    let check = proptest::option::of(check);
    let events = proptest::collection::vec(event(), 0..5);
    ("[a-z{}]{1,9}", texts, any::<bool>(), any::<Option<bool>>(), check, events).prop_map(
        |(app_id, texts, delta_okay, ping, update_check, events)| {
            let mut texts = texts.into_iter();
            let mut next = || texts.next().unwrap();
            AppRequest {
                app_id,
                version: next(),
                track: next(),
                from_track: next(),
                boot_id: next(),
                oem: next(),
                oem_version: next(),
                aleph_version: next(),
                machine_id: next(),
                machine_alias: next(),
                lang: next(),
                board: next(),
                hardware_class: next(),
                delta_okay,
                ping,
                update_check,
                events,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_request_comes_back(
        updater in "[a-z0-9.-]{1,20}",
        install_source in text(),
        os in [text(), text(), text()],
        apps in proptest::collection::vec(app(), 0..4),
    ) {
        let [version, platform, service_pack] = os;
        let os = Os { version, platform, service_pack };
        let request = Request { updater, install_source, os, apps };
        prop_assert_eq!(Request::parse(request.render().as_bytes()), Ok(request));
    }
}
