//! Bad input to fleetd and fleetctl: one clear line, a failure, and nothing lost or half done.

#![allow(clippy::unwrap_used)]

mod fleetctl_support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    process::Command,
};

use fleetctl_support::{Machine, PROA, Store, fleetctl_at, stderr, wait_until};

fn fleetd(args: &[&str]) -> (i32, String) {
    let output = Command::new(PROA).arg("fleetd").args(args).output().unwrap();
    (output.status.code().unwrap(), stderr(&output))
}

/// One request on a new connection; the status and the body.
fn request(machine: &Machine, head: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(machine.dir.join("sock")).unwrap();
    let length = body.len();
    let text = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    // A refusal may come before all of a large body is taken.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn fleetd_names_what_is_wrong_and_what_is_right() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("fleet.conf");
    fs::write(&file, "etcd_servres=http://a:1\n").unwrap();
    let config = format!("-config={}", file.display());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let units = format!("--units-directory={}", root.path().join("units").display());
    let socket = format!("--socket={}", root.path().join("sock").display());
    let id = "--machine-id=0123456789abcdef0123456789abcdef";
    let cases: [(&[&str], &str); 6] = [
        (&["--etcd-server=x"], "fleetd: unknown flag --etcd-server; fleetd --help lists what there is"),
        (
            &["-agent-ttl", "30"],
            "fleetd: --agent-ttl: bad value \"30\": give a time from 2s to 1h, such as 30s",
        ),
        (
            &["-config=/nowhere/fleet.conf"],
            "fleetd: cannot read /nowhere/fleet.conf: No such file or directory (os error 2)",
        ),
        (&[&config], "unknown file key etcd_servres"),
        (&["--machine-id=42"], "a machine id is 32 lower-case hex digits"),
        (&[id, &listen, &units, &socket], "Address already in use"),
    ];
    for (args, want) in cases {
        let (code, text) = fleetd(args);
        assert_eq!(code, 1, "{args:?}: {text}");
        assert!(text.contains(want), "{args:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{args:?}: {text}");
    }
}

#[test]
fn fleetctl_names_what_is_wrong_and_what_is_right() {
    let root = tempfile::tempdir().unwrap();
    let nobody = format!("--endpoint=unix://{}", root.path().join("sock").display());
    let cases: [(&str, &[&str], &str); 6] = [
        (&nobody, &["list-units"], "cannot reach fleetd at unix://"),
        (
            "--endpoint=ftp://x",
            &["list-units"],
            "bad endpoint \"ftp://x\": give unix:///PATH or http://HOST:PORT",
        ),
        (&nobody, &["list-units", "--fields=unit,x"], "valid fields are active,hash,load,machine,sub,unit"),
        (&nobody, &["start"], "name at least one unit"),
        (&nobody, &["strat", "x"], "strat"),
        (&nobody, &["journal", "--output=x", "a"], "unknown journal output \"x\""),
    ];
    for (endpoint, args, want) in cases {
        let output = fleetctl_at(endpoint, args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.contains(want), "{args:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{args:?}: {text}");
    }
}

#[test]
fn a_machine_without_systemd_keeps_units_and_refuses_bad_ones() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start(root.path());
    let mut machine = Machine::without_systemd(root.path(), 1, &store);
    wait_until("the machine is listed", || {
        String::from_utf8_lossy(&machine.fleetctl(&["list-machines"]).stdout)
            .contains("00000001...\t10.77.0.1")
    });
    wait_until("fleetd says that there is no systemd", || {
        machine.log().contains("systemd does not answer at")
    });

    bad_files_are_refused(&machine, root.path());
    good_files_are_kept(&machine, root.path());
    what_cannot_be_placed_says_why(&machine, root.path());
    bad_requests_are_refused(&machine);
    assert_eq!(machine.terminate(), 0, "{}", machine.log());
    assert!(!machine.dir.join("sock").exists());
}

fn bad_files_are_refused(machine: &Machine, root: &std::path::Path) {
    let write = |name: &str, text: &[u8]| {
        let path = root.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write("good.service", b"[Service]\nExecStart=/bin/sleep 1000\n");
    #[rustfmt::skip]
    let cases = [
        (write("a.service", b"[Service]\nExecStart\n"),             "a.service: line 2: "),
        (write("b.service", b"ExecStart=/bin/true\n"),              "b.service: line 1: "),
        (write("c.service", b"[X-Fleet]\nMachineMeta=a\n"),         "unrecognized requirement in [X-Fleet] section"),
        (write("d.service", b"\n\n\xff"),                           "d.service: line 3: not UTF-8 text"),
        (write("e.service", b""),                                   "e.service: unit file"),
        (root.join("none.service").display().to_string(),           "is not in the cluster, and there is no such file here"),
        (root.join("a b.service").display().to_string(),            "invalid character ' ' in unit name"),
    ];
    for (path, want) in cases {
        // The good one of the same command is not submitted either.
        let output = machine.fleetctl(&["start", "--no-block", &good, &path]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {text}");
        assert!(text.contains(want), "{path}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{path}: {text}");
    }
    assert_eq!(machine.fleetctl_ok(&["list-unit-files", "--no-legend"]), "");
}

fn good_files_are_kept(machine: &Machine, root: &std::path::Path) {
    let path = root.join("good.service").display().to_string();
    assert_eq!(machine.fleetctl_ok(&["submit", &path]), "Unit good.service inactive\n");
    assert_eq!(machine.fleetctl_ok(&["cat", "good"]), "[Service]\nExecStart=/bin/sleep 1000\n");
    fs::write(&path, "[Service]\nExecStart=/bin/sleep 2000\n").unwrap();
    let output = machine.fleetctl(&["submit", &path]);
    assert!(
        stderr(&output).contains("WARNING: Unit good.service in registry differs"),
        "{}",
        stderr(&output)
    );
    assert!(machine.fleetctl_ok(&["cat", "good.service"]).contains("1000"));
    machine.fleetctl_ok(&["submit", "--replace", &path]);
    assert!(machine.fleetctl_ok(&["cat", "good.service"]).contains("2000"));
    let list = machine.fleetctl_ok(&["list-unit-files", "--no-legend", "--fields=unit,dstate,state,target"]);
    assert_eq!(list.split_whitespace().collect::<Vec<_>>(), ["good.service", "inactive", "inactive", "-"]);
    assert_eq!(machine.fleetctl_ok(&["destroy", "go*"]), "Destroyed good.service\n");
    let output = machine.fleetctl(&["cat", "good.service"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "Unit good.service is not in the cluster\n");
}

fn what_cannot_be_placed_says_why(machine: &Machine, root: &std::path::Path) {
    let path = root.join("picky.service");
    fs::write(&path, "[Service]\nExecStart=/bin/true\n[X-Fleet]\nMachineMetadata=disk=ssd\n").unwrap();
    let output = machine.fleetctl(&["start", "--block-attempts=20", &path.display().to_string()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no machine has metadata disk=ssd"), "{text}");
    assert_eq!(machine.fleetctl_ok(&["destroy", "picky"]), "Destroyed picky.service\n");
}

fn bad_requests_are_refused(machine: &Machine) {
    let json = "Content-Type: application/json";
    let large = "x".repeat(2 << 20);
    let unit = r#"{"desiredState":"launched","options":[{"section":"Service","name":"ExecStart","value":"/bin/true"}]}"#;
    #[rustfmt::skip]
    let cases = [
        ("GET /fleet/v1/units/none.service HTTP/1.1".to_owned(),         "",                            404, "unit does not exist"),
        ("GET /fleet/v1/nothing HTTP/1.1".to_owned(),                    "",                            404, "no such path"),
        ("POST /fleet/v1/units HTTP/1.1".to_owned(),                     "",                            405, "POST"),
        ("GET /fleet/v1/units?nextPageToken=x HTTP/1.1".to_owned(),      "",                            400, "token"),
        ("PUT /fleet/v1/units/a.service HTTP/1.1".to_owned(),            unit,                          415, "application/json"),
        (format!("PUT /fleet/v1/units/a.service HTTP/1.1\r\n{json}"),    "{",                           400, "unable to decode body"),
        (format!("PUT /fleet/v1/units/a.service HTTP/1.1\r\n{json}"),    "{}",                          409, "unit does not exist and options field empty"),
        (format!("PUT /fleet/v1/units/a HTTP/1.1\r\n{json}"),            unit,                          400, "unit name must contain"),
        (format!("PUT /fleet/v1/units/a@.service HTTP/1.1\r\n{json}"),   unit,                          400, "cannot activate template"),
        (format!("PUT /fleet/v1/units/a.service HTTP/1.1\r\n{json}"),    large.as_str(),                400, "larger than"),
        ("GET /fleet/v1/units/%2d%2droot=x/journal HTTP/1.1".to_owned(), "",                            400, "unit name must contain"),
        ("DELETE /fleet/v1/units/a.service HTTP/1.1".to_owned(),         "",                            404, "unit does not exist"),
    ];
    for (head, body, status, want) in cases {
        let (got, text) = request(machine, &head, body);
        assert_eq!(got, status, "{head}: {text}");
        assert!(text.contains(want), "{head}: {text}");
        assert!(text.starts_with(&format!("{{\"error\":{{\"code\":{status},")), "{head}: {text}");
    }
    assert_eq!(machine.fleetctl_ok(&["list-unit-files", "--no-legend"]), "");
}
