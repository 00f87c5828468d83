//! What users and API clients see.

use proa_fleet_model::api::{self, ApiError, Machine, PageToken, Put, Unit, UnitPage, UnitState, judge_put};
use proa_fleet_model::registry::{DesiredState, LeaseId, Millis, StateRecord};
use proa_fleet_model::txn::report_states;
use proa_fleet_model::unit_file::UnitOption;
use proa_fleet_model::view::{Style, list_machines, list_unit_files, list_units};

use crate::store::{Store, machine, name, unit_file};

const SHORT: Style = Style { is_full: false, has_no_legend: false };
const BARE_FULL: Style = Style { is_full: true, has_no_legend: true };

fn machines() -> Vec<Machine> {
    let metadata = [("region", "eu"), ("disk", "ssd")];
    let machine = |id: &str, ip: &str| Machine {
        id: id.to_owned(),
        primary_ip: ip.to_owned(),
        metadata: Default::default(),
        state: String::new(),
    };
    let mut first = machine("0123456789abcdef0123456789abcdef", "10.0.0.1");
    first.metadata = metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    vec![first, machine("fedcba9876543210fedcba9876543210", "")]
}

#[test]
fn machines_are_listed_as_fleet_lists_them() {
    let text = list_machines(&machines(), "machine,ip,metadata", SHORT).unwrap();
    assert_eq!(
        text,
        "MACHINE\t\tIP\t\tMETADATA\n\
         01234567...\t10.0.0.1\tdisk=ssd,region=eu\n\
         fedcba98...\t-\t\t-\n"
    );
    let mut cordoned = machines();
    cordoned[0].state = "draining".to_owned();
    let text = list_machines(&cordoned, "ip,state", SHORT).unwrap();
    assert_eq!(text, "IP\t\tSTATE\n10.0.0.1\tdraining\n-\t\tready\n");
    let text = list_machines(&machines(), "machine", BARE_FULL).unwrap();
    assert_eq!(text, "0123456789abcdef0123456789abcdef\nfedcba9876543210fedcba9876543210\n");
}

#[test]
fn units_are_listed_as_fleet_lists_them() {
    let state = |unit: &str, active: &str| UnitState {
        name: unit.to_owned(),
        hash: "1c6fb6f3684bafb0c173d8b8b957ceff031180c1".to_owned(),
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        systemd_load_state: "loaded".to_owned(),
        systemd_active_state: active.to_owned(),
        systemd_sub_state: "running".to_owned(),
    };
    let states = [state("hello.service", "active"), state("a.service", "")];
    let text = list_units(&states, &machines(), "unit,machine,active,sub", SHORT).unwrap();
    assert_eq!(
        text,
        "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB\n\
         hello.service\t01234567.../10.0.0.1\tactive\trunning\n\
         a.service\t01234567.../10.0.0.1\t-\trunning\n"
    );
    let text = list_units(&states[..1], &[], "hash,machine,load", BARE_FULL).unwrap();
    assert_eq!(text, "1c6fb6f3684bafb0c173d8b8b957ceff031180c1\t0123456789abcdef0123456789abcdef\tloaded\n");
    assert_eq!(
        list_units(&states, &[], "unit,nonsense", SHORT).unwrap_err().to_string(),
        "Invalid key in output format: \"nonsense\"; valid fields are active,hash,load,machine,sub,unit"
    );
    assert!(list_units(&states, &[], "", SHORT).is_err());
}

#[test]
fn unit_files_are_listed_as_fleet_lists_them() {
    let unit = |unit: &str, x_fleet: &str, state: &str, machine: &str| Unit {
        name: unit.to_owned(),
        options: unit_file(x_fleet).options().to_vec(),
        desired_state: "launched".to_owned(),
        current_state: state.to_owned(),
        machine_id: machine.to_owned(),
        reason: String::new(),
    };
    let units = [
        unit("all.service", "Global=true", "inactive", ""),
        unit("one.service", "", "launched", "0123456789abcdef0123456789abcdef"),
        unit("none.service", "", "inactive", ""),
    ];
    let fields = "unit,dstate,state,target,global,desc";
    assert_eq!(
        list_unit_files(&units, &machines(), fields, SHORT).unwrap(),
        "UNIT\t\tDSTATE\t\tSTATE\t\tTARGET\t\t\tGLOBAL\tDESC\n\
         all.service\tlaunched\t-\t\tglobal\t\t\ttrue\t-\n\
         one.service\tlaunched\tlaunched\t01234567.../10.0.0.1\tfalse\t-\n\
         none.service\tlaunched\tinactive\t-\t\t\tfalse\t-\n"
    );
    let hash = unit_file("").hash().to_string();
    let text = list_unit_files(&units[1..2], &[], "hash,tmachine", SHORT).unwrap();
    assert_eq!(text, format!("HASH\tTMACHINE\n{}\t01234567...\n", &hash[..7]));
}

#[test]
fn json_is_fleets() {
    let unit = Unit {
        name: "a.service".to_owned(),
        options: vec![UnitOption { section: "S".to_owned(), name: "n".to_owned(), value: "v".to_owned() }],
        desired_state: "launched".to_owned(),
        machine_id: "0123".to_owned(),
        ..Unit::default()
    };
    let page = UnitPage { units: vec![unit], next_page_token: String::new() };
    let text = serde_json::to_string(&page).unwrap();
    assert_eq!(
        text,
        r#"{"units":[{"name":"a.service","options":[{"section":"S","name":"n","value":"v"}],"desiredState":"launched","machineID":"0123"}]}"#
    );
    assert_eq!(serde_json::from_str::<UnitPage>(&text).unwrap(), page);
    let null = serde_json::from_str::<Unit>(r#"{"options":null,"unknown":1}"#).unwrap();
    assert_eq!(null, Unit::default());
    assert_eq!(
        serde_json::to_string(&ApiError::no_such_unit().body()).unwrap(),
        r#"{"error":{"code":404,"message":"unit does not exist"}}"#
    );
}

#[test]
fn pages_are_cut_and_asked_for() {
    let all: Vec<u16> = (0..250).collect();
    let mut token = PageToken::first(100);
    let mut seen = Vec::new();
    for want in [100, 100, 50] {
        let (items, next) = token.cut(all.clone());
        assert_eq!(items.len(), want);
        seen.extend(items);
        match next.as_str() {
            "" => break,
            next => token = PageToken::decode(next, 100).unwrap(),
        }
    }
    assert_eq!(seen, all);
    assert_eq!(PageToken::first(100).cut(vec![0; 100]).1, "", "a full page may be the last");
    // Little-endian 100 and 2.
    assert_eq!(PageToken { limit: 100, page: 2 }.encode(), "ZAACAA==");
    for bad in ["", "ZAACAA", "ZAACAA=", "Z.ACAA==", "ZAAAAA==", "ZQACAA==", "ZAACAAAA", "é==="] {
        assert_eq!(PageToken::decode(bad, 100).unwrap_err().code, 400, "{bad}");
    }
}

#[test]
fn puts_are_judged() {
    let body = |name: &str, x_fleet: Option<&str>, desired: &str| Unit {
        name: name.to_owned(),
        options: x_fleet.map(|x| unit_file(x).options().to_vec()).unwrap_or_default(),
        desired_state: desired.to_owned(),
        ..Unit::default()
    };
    let mut store = Store::default();
    store.add_unit("old", "", DesiredState::Loaded);
    let old = store.cluster.known_unit(&name("old"));
    let word = |answer: Result<Put, ApiError>| match answer {
        Ok(Put::Created(_)) => "created".to_owned(),
        Ok(Put::Changed(_)) => "changed".to_owned(),
        Ok(Put::Unchanged) => "unchanged".to_owned(),
        Err(error) => format!("{} {}", error.code, error.message),
    };
    #[rustfmt::skip]
    let cases = [
        ("new.service",   body("new.service", Some(""), "launched"), None, "created"),
        ("new.service",   body("", Some(""), ""),                    None, "created"),
        ("new.service",   body("x.service", Some(""), ""),           None, "400 name in URL \"new.service\" differs from unit name in request body \"x.service\""),
        ("new",           body("", Some(""), ""),                    None, "400 unit name must contain \".\""),
        ("new.service",   body("", None, "launched"),                None, "409 unit does not exist and options field empty"),
        ("new.service",   body("", Some("Typo=1"), ""),              None, "400 unrecognized requirement in [X-Fleet] section: \"Typo\""),
        ("new.service",   body("", Some(""), "started"),             None, "400 invalid value \"started\" for desiredState; right would be inactive, loaded or launched"),
        ("new@.service",  body("", Some(""), "launched"),            None, "400 cannot activate template \"new@.service\""),
        ("new@.service",  body("", Some(""), "inactive"),            None, "created"),
        ("old.service",   body("", None, "launched"),                old,  "changed"),
        ("old.service",   body("", Some(""), "loaded"),              old,  "unchanged"),
        ("old.service",   body("", None, ""),                        old,  "409 must provide DesiredState to update existing unit"),
        ("old.service",   body("", Some("Conflicts=x"), ""),         old,  "created"),
    ];
    for (url, body, existing, want) in cases {
        assert_eq!(word(judge_put(url, &body, existing)), want, "{url} {body:?}");
    }
}

#[test]
fn a_launch_is_counted_when_it_is_asked_for() {
    let mut store = Store::default();
    let put = |store: &mut Store, x_fleet: &str, desired| {
        store.add_unit("a", x_fleet, desired);
        store.cluster.known_unit(&name("a")).unwrap().record.launch.0
    };
    assert_eq!(put(&mut store, "", DesiredState::Loaded), 0);
    assert_eq!(put(&mut store, "", DesiredState::Launched), 1);
    assert_eq!(put(&mut store, "Conflicts=x", DesiredState::Launched), 1);
    assert_eq!(put(&mut store, "Conflicts=x", DesiredState::Loaded), 1);
    assert_eq!(put(&mut store, "Conflicts=x", DesiredState::Launched), 2);
}

#[test]
fn the_api_tells_what_the_registry_holds() {
    let mut store = Store::default();
    store.add_machine(1, &[("k", "v")]);
    store.add_unit("a", "MachineMetadata=k=w", DesiredState::Launched);
    let unit = api::unit(&store.cluster, &name("a")).unwrap();
    assert_eq!(unit.reason, "no machine has metadata k=w");
    assert_eq!((unit.current_state.as_str(), unit.machine_id.as_str()), ("inactive", ""));

    let hash = store.cluster.known_unit(&name("a")).unwrap().record.hash;
    let key = format!("/proa/fleet/schedule/{}/a.service", machine(1));
    store.put(&key, format!(r#"{{"hash":"{hash}","desired":"launched","launch":1}}"#).as_bytes());
    let state = StateRecord {
        load: "loaded".to_owned(),
        active: "active".to_owned(),
        sub: "running".to_owned(),
        hash,
        reached: DesiredState::Launched,
        since: Millis(1),
        problem: Some("systemd calls its file bad-setting".to_owned()),
    };
    let unit_name = name("a");
    for txn in report_states(machine(1), LeaseId(1), [(&unit_name, Some(&state))]) {
        assert!(store.commit(&txn));
    }
    let unit = api::unit(&store.cluster, &unit_name).unwrap();
    assert_eq!(unit.reason, "no machine has metadata k=w", "why it may not be there comes first");
    assert_eq!(unit.current_state, "launched");
    assert_eq!(unit.machine_id, machine(1).to_string());
    assert_eq!(api::unit_states(&store.cluster)[0].systemd_sub_state, "running");
    assert_eq!(api::machines(&store.cluster)[0].metadata["k"], "v");
}
