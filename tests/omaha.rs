//! The update server as its users meet it: omahactl, machines of CoreOS that
//! ask by hand-written requests, and several servers on one store.
#![allow(clippy::unwrap_used)]

mod etcd;
mod omahad;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etcd::{Cluster, proa};
use omahad::{Omahad, PROA_APP};

const COREOS_APP: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";

/// What omahactl says when its server goes away in the middle of an upload.
fn lost_upload(words: &[&str]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Closed with unread bytes: the client's next write fails.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
    });
    let output =
        Command::new(proa()).args(["omahactl", "--endpoint", &endpoint]).args(words).output().unwrap();
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "no signal ends it");
    String::from_utf8(output.stderr).unwrap()
}

/// One HTTP request without any library: status, header lines and body.
fn http(url: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let authority = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a large body need not read it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a header");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
}

/// A request as CoreOS's updater writes it, with what is inside the application.
fn request(app: &str, machine: &str, version: &str, more: &str, inside: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<request protocol="3.0" version="update_engine-0.4.10" updaterversion="update_engine-0.4.10" installsource="scheduler" ismachine="1">
    <os version="Chateau" platform="CoreOS" sp="{version}_x86_64"></os>
    <app appid="{app}" version="{version}" track="stable" bootid="{{b}}" oem="" oemversion="" alephversion="{version}" machineid="{machine}" machinealias="" lang="en-US" board="amd64-usr" hardware_class="" {more}>
        {inside}
    </app>
</request>"#
    )
}

fn post(omahad: &Omahad, document: &str) -> String {
    let kind = "Content-Type: text/xml\r\n";
    let (status, _, body) = http(&omahad.machines, "POST", "/v1/update/", kind, document.as_bytes());
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

const ASK: &str = r#"<ping active="1"></ping><updatecheck></updatecheck>"#;

/// Whether a machine of 0.1.0 is offered something, and the whole answer.
fn ask(omahad: &Omahad, machine: &str) -> (bool, String) {
    let answer = post(omahad, &request(PROA_APP, machine, "0.1.0", r#"delta_okay="false""#, ASK));
    (answer.contains(r#"<updatecheck status="ok""#), answer)
}

fn tell(omahad: &Omahad, machine: &str, version: &str, event: &str) {
    let answer = post(omahad, &request(PROA_APP, machine, version, "", event));
    assert!(answer.contains(r#"<event status="ok"/>"#), "{answer}");
}

fn attribute(document: &str, name: &str) -> String {
    let start = document.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name} in {document}"));
    document[start + name.len() + 2..].split('"').next().unwrap().to_owned()
}

/// The standard output of a tool of the system, fed with bytes.
fn tool(words: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    tool(&["sha256sum"], bytes).split(' ').next().unwrap().to_owned()
}

/// Writes a release with a full payload and a difference to 0.1.0; its files.
fn publish(folder: &Path, app: &str, version: &str) -> (PathBuf, [PathBuf; 2]) {
    let full: Vec<u8> = (0..200_000_u32).map(|n| (n * 7 + version.len() as u32) as u8).collect();
    let delta = format!("the difference to {version} ").repeat(400).into_bytes();
    let names = [format!("proa-{version}.full"), format!("proa-{version}.from-0.1.0")];
    let zeros = "00".repeat(32);
    let payload = |name: &str, bytes: &[u8], from: &str| {
        format!(
            r#"{{"name":"{name}","size":{},"sha256":"{}","manifest_bytes":64,"manifest_sha256":"{zeros}","from":{from}}}"#,
            bytes.len(),
            sha256(bytes)
        )
    };
    let from = format!(r#"{{"version":"0.1.0","root_hash":"{zeros}"}}"#);
    let signed = format!(
        r#"{{"type":"proa-release","app":"{app}","version":"{version}","expires":4102444800,"minimum":"0.0.1","root_hash":"{zeros}","slot_bytes":8192,"payloads":[{},{}]}}"#,
        payload(&names[1], &delta, &from),
        payload(&names[0], &full, "null"),
    );
    let signed = tool(&["base64", "-w0"], signed.as_bytes());
    let metadata = folder.join(format!("{version}.json"));
    fs::write(&metadata, format!(r#"{{"signed":"{signed}","signatures":[]}}"#)).unwrap();
    let files = names.map(|name| folder.join(name));
    fs::write(&files[0], &full).unwrap();
    fs::write(&files[1], &delta).unwrap();
    (metadata, files)
}

fn add(omahad: &Omahad, folder: &Path, app: &str, version: &str) -> [PathBuf; 2] {
    let (metadata, files) = publish(folder, app, version);
    let words = ["release", "add", files[0].to_str().unwrap(), files[1].to_str().unwrap()];
    let words = [&words[..], &["--metadata", metadata.to_str().unwrap()]].concat();
    let said = omahad.ctl(app, &words).unwrap();
    assert_eq!(said, format!("added release {version} with 2 payloads\n"));
    files
}

#[test]
fn a_release_reaches_machines() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let omahad = Omahad::start(folder.path(), "one", &cluster);
    for app in [PROA_APP, COREOS_APP] {
        let answer = post(&omahad, &request(app, "m1", "0.1.0", "", ASK));
        assert!(answer.contains(r#"status="error-unknownApplication""#), "{answer}");
        let source = tempfile::tempdir().unwrap();
        let [full, delta] = add(&omahad, source.path(), app, "0.2.0");
        let said = omahad.ctl(app, &["channel", "set", "stable", "0.2.0"]).unwrap();
        assert!(said.starts_with("channel stable is 0.2.0\ngroup stable follows it"), "{said}");

        // A difference only to who can apply it and runs exactly its origin.
        let bare = app.trim_matches(['{', '}']).to_uppercase();
        #[rustfmt::skip]
        let rows = [
            (app,   "0.1.0", r#"delta_okay="true""#,  &delta, "true"),
            (app,   "0.1.0", r#"delta_okay="false""#, &full,  "false"),
            (&bare, "0.1.1", r#"delta_okay="true""#,  &full,  "false"),
            (app,   "0.1.0", "",                      &full,  "false"),
        ];
        for (id, version, more, file, is_delta) in rows {
            let answer = post(&omahad, &request(id, "m1", version, more, ASK));
            let bytes = fs::read(file).unwrap();
            assert_eq!(attribute(&answer, "manifest version"), "0.2.0", "{answer}");
            assert_eq!(attribute(&answer, "package name"), file.file_name().unwrap().to_str().unwrap());
            assert_eq!(attribute(&answer, "size"), bytes.len().to_string());
            assert_eq!(attribute(&answer, "hash_sha256"), sha256(&bytes));
            assert_eq!(attribute(&answer, "IsDeltaPayload"), is_delta);
            let sha1 = tool(&["sha1sum"], &bytes);
            let want: Vec<u8> =
                (0..20).map(|at| u8::from_str_radix(&sha1[at * 2..at * 2 + 2], 16).unwrap()).collect();
            assert_eq!(attribute(&answer, "hash"), tool(&["base64", "-w0"], &want));
            // The metadata comes as it was published.
            let metadata = attribute(&answer, "ReleaseMetadata").replace('-', "+").replace('_', "/");
            let padded = format!("{metadata}{}", "=".repeat((4 - metadata.len() % 4) % 4));
            let want = fs::read_to_string(source.path().join("0.2.0.json")).unwrap();
            assert_eq!(tool(&["base64", "-d"], padded.as_bytes()), want);
            // And the payload is where the answer says.
            let place = attribute(&answer, "url codebase");
            assert_eq!(place, format!("{}/packages/", omahad.machines));
            let name = file.file_name().unwrap().to_str().unwrap();
            let (status, _, body) = http(&omahad.machines, "GET", &format!("/packages/{name}"), "", b"");
            assert_eq!((status, body == bytes), (200, true));
        }
        // Numbers of old name the group, too.
        let old = request(app, "m1", "0.1.0", "", ASK);
        let old = old.replace(r#"track="stable""#, r#"track="{9a2deb70-37be-4026-853f-bfdd6b347bbe}""#);
        assert!(post(&omahad, &old).contains(r#"<updatecheck status="ok""#));
        let strange = old.replace("9a2deb70", "00000000");
        assert!(post(&omahad, &strange).contains(r#"status="error-unknownApplicationOrGroup""#));
        fs::remove_dir_all(&omahad.packages).unwrap();
        fs::create_dir(&omahad.packages).unwrap();
        let answer = post(&omahad, &request(app, "m1", "0.1.0", "", ASK));
        assert!(answer.contains("the payload of 0.2.0 is on no server"), "{answer}");
    }
}

#[test]
fn packages_are_served_in_parts_and_in_bounded_memory() {
    const SIZE: u64 = 200 << 20;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let omahad = Omahad::start(folder.path(), "one", &cluster);
    let [full, _] = add(&omahad, folder.path(), PROA_APP, "0.2.0");
    let bytes = fs::read(&full).unwrap();
    let path = "/packages/proa-0.2.0.full";
    let get = |headers: &str| http(&omahad.machines, "GET", path, headers, b"");

    let (_, head, _) = http(&omahad.machines, "HEAD", path, "", b"");
    let tag = format!("\"{}\"", sha256(&bytes));
    assert!(head.contains(&format!("etag: {tag}")) && head.contains("accept-ranges: bytes"), "{head}");
    #[rustfmt::skip]
    let rows: [(String, u16, &[u8], &str); 8] = [
        ("Range: bytes=0-9\r\n".into(),                                  206, &bytes[..10],       "content-range: bytes 0-9/200000"),
        ("Range: bytes=199990-\r\n".into(),                              206, &bytes[199_990..],  "content-length: 10"),
        ("Range: bytes=-5\r\n".into(),                                   206, &bytes[199_995..],  "content-range: bytes 199995-199999/200000"),
        ("Range: bytes=200000-\r\n".into(),                              416, b"",                "content-range: bytes */200000"),
        ("Range: bytes=0-1,5-6\r\n".into(),                              200, &bytes,             "content-length: 200000"),
        (format!("Range: bytes=7-8\r\nIf-Range: {tag}\r\n"),             206, &bytes[7..9],       "content-length: 2"),
        ("Range: bytes=7-8\r\nIf-Range: \"other\"\r\n".into(),           200, &bytes,             "content-length: 200000"),
        (format!("If-None-Match: {tag}\r\n"),                            304, b"",                "etag"),
    ];
    for (headers, want, body, line) in rows {
        let (status, head, got) = get(&headers);
        assert_eq!((status, got.as_slice() == body), (want, true), "{headers}");
        assert!(head.contains(line), "{headers}: {head}");
    }
    for path in
        ["/packages/", "/packages/../one.log", "/packages/..%2fone.log", "/packages/.proa-0.2.0.full.sha256"]
    {
        assert_eq!(http(&omahad.machines, "GET", path, "", b"").0, 404, "{path}");
    }

    let large = fs::File::create(omahad.packages.join("large")).unwrap();
    large.set_len(SIZE).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let authority = omahad.machines.trim_start_matches("http://");
                let mut stream = TcpStream::connect(authority).unwrap();
                write!(stream, "GET /packages/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let (mut piece, mut got) = (vec![0; 1 << 20], 0);
                loop {
                    match stream.read(&mut piece).unwrap() {
                        0 => break,
                        count => got += count as u64,
                    }
                }
                assert!(got > SIZE, "{got}");
            });
        }
    });
    let peak = omahad.peak_kib();
    assert!(peak < 64 << 10, "800 MiB were sent, and the peak is {peak} KiB");
}

#[test]
fn limits_hold_across_servers_and_a_failure_stops_all() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let servers =
        [Omahad::start(folder.path(), "one", &cluster), Omahad::start(folder.path(), "two", &cluster)];
    let [one, two] = &servers;
    for server in &servers {
        let (metadata, files) = publish(folder.path(), PROA_APP, "0.2.0");
        let words = ["release", "add", files[0].to_str().unwrap(), files[1].to_str().unwrap()];
        server.done(&[&words[..], &["--metadata", metadata.to_str().unwrap()]].concat());
    }
    add(one, folder.path(), PROA_APP, "0.3.0");
    one.done(&["channel", "set", "stable", "0.2.0"]);
    two.done(&["group", "set", "stable", "max-concurrent=3"]);

    let all_ask = || -> Vec<usize> {
        let offered = |number: &usize| ask(&servers[number % 2], &format!("machine-{number}")).0;
        std::thread::scope(|scope| {
            let asking: Vec<_> =
                (0..24).map(|number| scope.spawn(move || (number, offered(&number)))).collect();
            let answers = asking.into_iter().map(|asking| asking.join().unwrap());
            answers.filter(|(_, offered)| *offered).map(|(number, _)| number).collect()
        })
    };
    // One goes first, whichever server it asks.
    let first = all_ask();
    assert_eq!(first.len(), 1, "{first:?}");
    let first = format!("machine-{}", first[0]);
    assert!(ask(two, "machine-99").1.contains(&format!("{first} goes first")));
    for event in ["13", "14", "3"] {
        tell(one, &first, "0.1.0", &format!(r#"<event eventtype="{event}" eventresult="1"></event>"#));
    }
    assert!(!ask(one, "machine-99").0);
    tell(two, &first, "0.2.0", r#"<event eventtype="3" eventresult="2" previousversion="0.1.0"></event>"#);
    // Then three at once, over both servers. The first one runs it already.
    let mut updating = all_ask();
    updating.retain(|number| format!("machine-{number}") != first);
    assert!((2..=3).contains(&updating.len()), "{updating:?}");
    let shown = one.done(&["group", "show", "stable"]);
    assert_eq!(shown.matches("updating").count(), 3, "{shown}");

    let victim = format!("machine-{}", updating[0]);
    let reason = "etcd.service is not healthy";
    let event = format!(
        r#"<event eventtype="3" eventresult="0" errorcode="44" failedversion="0.2.0" reason="{reason}"></event>"#
    );
    tell(two, &victim, "0.1.0", &event);
    assert_eq!(all_ask(), Vec::<usize>::new());
    let list = one.done(&["group", "list", "--no-legend"]);
    assert!(
        list.starts_with("stable\thalted\tstable\t0.2.0\t2\tversion 0.2.0 failed: etcd.service"),
        "{list:?}"
    );
    let list = one.done(&["failed", "list"]);
    assert!(
        list.starts_with("VERSION\tMACHINE") && list.contains(&victim) && list.contains(reason),
        "{list}"
    );
    let shown = one.done(&["instance", "show", &victim]);
    assert!(shown.contains("44 (the new version did not boot well") && shown.contains(reason), "{shown}");
    assert!(one.done(&["instance", "list", "stable"]).contains(&victim));
    assert!(one.done(&["release", "list"]).lines().any(|line| line.starts_with("0.2.0\tfailed")));

    // The failed version cannot be named again; the next one waits for a word.
    let refused = one.ctl(PROA_APP, &["channel", "set", "beta", "0.2.0"]).unwrap_err();
    assert!(refused.starts_with("omahactl: version 0.2.0 failed on machine-"), "{refused}");
    one.done(&["channel", "set", "stable", "0.3.0"]);
    assert_eq!(all_ask(), Vec::<usize>::new());
    one.done(&["group", "clear", "stable"]);
    for machine in updating.iter().map(|number| format!("machine-{number}")) {
        two.done(&["instance", "forget", &machine]);
    }
    // Only the first server has 0.3.0, so only its machines can be first.
    let first = all_ask();
    assert!(first.len() <= 1 && first.iter().all(|number| number % 2 == 0), "{first:?}");
    one.done(&["failed", "clear", "0.2.0"]);
    one.done(&["channel", "set", "beta", "0.2.0"]);
}

#[test]
fn a_machine_that_changes_its_group_lets_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let omahad = Omahad::start(folder.path(), "one", &cluster);
    add(&omahad, folder.path(), PROA_APP, "0.2.0");
    omahad.done(&["channel", "set", "stable", "0.2.0"]);
    omahad.done(&["group", "add", "second", "channel=stable"]);
    assert!(ask(&omahad, "machine-1").0);
    assert!(ask(&omahad, "machine-2").1.contains("machine-1 goes first"));
    let in_second = |machine: &str| {
        let document = request(PROA_APP, machine, "0.1.0", r#"delta_okay="false""#, ASK);
        post(&omahad, &document.replace(r#"track="stable""#, r#"track="second""#))
    };
    assert!(in_second("machine-1").contains(r#"<updatecheck status="ok""#));
    assert!(ask(&omahad, "machine-2").0, "machine-1 has left the group");
    assert!(in_second("machine-3").contains("machine-1 goes first"));
    omahad.done(&["instance", "forget", "machine-1"]);
    assert!(in_second("machine-3").contains(r#"<updatecheck status="ok""#));
}

#[test]
fn the_longest_unseen_machine_makes_room_unless_it_updates() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let omahad = Omahad::start(folder.path(), "one", &cluster);
    add(&omahad, folder.path(), PROA_APP, "0.2.0");
    omahad.done(&["channel", "set", "stable", "0.2.0"]);
    assert!(ask(&omahad, "machine-1").0);
    let client = cluster.client();
    let app = PROA_APP.trim_matches(['{', '}']);
    etcd::runtime().block_on(async {
        for number in 1..10_000 {
            etcd::put_surely(&client, &format!("/proa/omaha/instances/{app}/m{number}"), "{}").await;
        }
    });
    assert!(ask(&omahad, "new").1.contains("machine-1 goes first"));
    omahad.done(&["instance", "show", "machine-1"]);
    omahad.done(&["instance", "show", "m2"]);
    assert!(omahad.ctl(PROA_APP, &["instance", "show", "m1"]).is_err());
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(1, &[]);
    let omahad = Omahad::start(folder.path(), "one", &cluster);
    let slow = {
        let mut stream = TcpStream::connect(omahad.machines.trim_start_matches("http://")).unwrap();
        stream.write_all(b"POST /v1/update/ HTTP/1.1\r\nHost").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        (Instant::now(), stream)
    };
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><request protocol=\"3.0\"><app appid=\"&b;\"/></request>";
    let large = format!("<request protocol=\"3.0\">{}</request>", " ".repeat(64 << 10));
    #[rustfmt::skip]
    let rows = [
        ("POST", "/v1/update",  "",            400),
        ("POST", "/v1/update/", bomb,          400),
        ("POST", "/v1/update/", large.as_str(), 413),
        ("POST", "/v1/update/", "<request protocol=\"2.0\"/>", 400),
        ("GET",  "/v1/update/", "",            405),
        ("GET",  "/v2/update/", "",            404),
        ("GET",  "/api/v1/x/groups", "",       404),
    ];
    for (method, path, body, want) in rows {
        let (status, _, answer) = http(&omahad.machines, method, path, "", body.as_bytes());
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!((status, answer.lines().count()), (want, 1), "{method} {path}: {answer}");
    }

    let (metadata, files) = publish(folder.path(), PROA_APP, "0.2.0");
    let (metadata, full) = (metadata.to_str().unwrap(), files[0].to_str().unwrap());
    let delta = files[1].to_str().unwrap();
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let forged = other.join("proa-0.2.0.full");
    fs::write(&forged, b"something else").unwrap();
    #[rustfmt::skip]
    let rows: [(&[&str], &str); 14] = [
        (&["release", "add", full],                                    "usage: omahactl release add FILE..."),
        (&["release", "add", full, "--metadata", "/none"],             "cannot read /none: No such file"),
        (&["release", "add", full, "--metadata", full],                "larger than 32768 bytes"),
        (&["release", "add", full, "--metadata", metadata],            "the metadata names the payload proa-0.2.0.from-0.1.0; give that file too"),
        (&["release", "add", metadata, "--metadata", metadata],        "the metadata names no payload \"0.2.0.json\""),
        (&["release", "add", forged.to_str().unwrap(), delta, "--metadata", metadata], "is not the payload that the metadata names: it has 14 bytes"),
        (&["release", "remove", "9.9"],                                "there is no release 9.9"),
        (&["channel", "set", "stable", "0.2.0"],                       "there is no release 0.2.0"),
        (&["channel", "set", "a/b", "0.2.0"],                          "bad name \"a/b\""),
        (&["group", "show", "none"],                                   "there is no group none"),
        (&["group", "add", "g", "percentage=101"],                     "percentage: bad value \"101\": give a whole number from 0 to 100"),
        (&["group", "add", "g", "colour=red"],                         "unknown setting \"colour\" of a group; there are channel"),
        (&["instance", "show", "nobody"],                              "no machine nobody has asked here"),
        (&["failed", "clear", "0.2.0"],                                "version 0.2.0 has not failed"),
    ];
    for (words, want) in rows {
        let error = omahad.ctl(PROA_APP, words).unwrap_err();
        assert!(error.starts_with("omahactl: ") && error.contains(want), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{words:?}: {error}");
    }
    // A release of another application, and another release of the same version.
    let add = ["release", "add", full, delta, "--metadata", metadata];
    assert!(omahad.ctl(COREOS_APP, &add).unwrap_err().contains("it is of application"));
    omahad.done(&add);
    assert!(omahad.done(&add).starts_with("added release 0.2.0 again"));
    let error = lost_upload(&add);
    assert!(error.starts_with("omahactl: lost the connection to omahad at http://127.0.0.1:"), "{error:?}");
    omahad.done(&["channel", "set", "stable", "0.2.0"]);
    assert!(
        omahad
            .ctl(PROA_APP, &["release", "remove", "0.2.0"])
            .unwrap_err()
            .contains("channel stable names 0.2.0")
    );
    omahad.done(&["group", "set", "stable", "aliases=old,{AB-1}", "office-hours=Mon-Fri 09:00-17:00 +01:00"]);
    let taken = omahad.ctl(PROA_APP, &["group", "add", "second", "aliases=OLD"]).unwrap_err();
    assert!(taken.contains("OLD is a name of group stable"), "{taken}");
    // A mistyped capital would take the machines of the group that was meant.
    omahad.done(&["group", "pause", "stable"]);
    let rows: [(&[&str], &str); 4] = [
        (&["channel", "set", "Stable", "0.2.0"], "Stable is a name of group stable"),
        (&["channel", "set", "OLD", "0.2.0"], "OLD is a name of group stable"),
        (&["group", "add", "STABLE"], "STABLE is a name of group stable"),
        (&["group", "add", "Old"], "Old is a name of group stable"),
    ];
    for (words, want) in rows {
        let error = omahad.ctl(PROA_APP, words).unwrap_err();
        assert_eq!(error.trim_end(), format!("omahactl: {want}"), "{words:?}");
    }
    assert!(!omahad.done(&["channel", "list"]).contains("Stable"), "the channel went with its group");
    omahad.done(&["channel", "remove", "stable"]);
    omahad.done(&["release", "remove", "0.2.0"]);
    assert_eq!(fs::read_dir(&omahad.packages).unwrap().count(), 0, "the payloads went with their release");

    let gone =
        Command::new(proa()).args(["omahactl", "--endpoint", "http://127.0.0.1:1", "group", "list"]).output();
    let gone = String::from_utf8(gone.unwrap().stderr).unwrap();
    assert!(gone.starts_with("omahactl: cannot reach omahad at http://127.0.0.1:1: "), "{gone}");

    let (begun, mut stream) = slow;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(50), "a slow header keeps its connection");
}
