//! Places that have the payload and do not give it as they should: the next one is
//! asked, from where the disk is known to have it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod update_support;

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use update_support::{
    Got, Machine, Publisher, Release, Server, WHOLE, Wish, offer, payload_part, respond, system,
};

const MIB: u64 = 1 << 20;
const SYSTEM_BYTES: u64 = 40 * MIB;

struct World {
    _folder: tempfile::TempDir,
    machine: Machine,
    release: Release,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let release = publisher.release(&system(SYSTEM_BYTES, 2), None, &Wish::default());
    let slot_mib = SYSTEM_BYTES / MIB + 2;
    let machine = Machine::new(&folder.path().join("machine"), slot_mib, &publisher, &system(MIB, 1));
    World { _folder: folder, machine, release }
}

/// A server whose offers name the places `first` and `second` of it.
fn two_places(
    release: &Release,
    answer: impl Fn(&Got, &Release, &mut TcpStream) + Send + Sync + 'static,
) -> Server {
    let release = release.clone();
    Server::start(move |got, stream| match got.method.as_str() {
        "POST" => {
            let offer = offer(got, &release);
            let one = format!("<url codebase=\"http://{}/\"/>", got.path.trim_matches('/'));
            let both = one.replace("/\"/>", "/first/\"/>") + &one.replace("/\"/>", "/second/\"/>");
            respond(stream, "200 OK", "", offer.replace(&one, &both).as_bytes());
        }
        _ => answer(got, &release, stream),
    })
}

#[test]
fn a_place_with_another_payload_gives_way_to_the_next() {
    let World { _folder, machine, release } = world();
    let server = two_places(&release, |got, release, stream| {
        let mut payload = release.payload.clone();
        if got.path.contains("/first/") {
            // Behind many operations that are as they should be.
            let place = payload.len() - payload.len() / 4;
            payload[place] ^= 1;
        }
        payload_part(stream, got, &payload);
    });
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the update", |_| machine.is_updated());
    assert!(engine.log().contains("the data of operation "), "{}", engine.log());
    engine.kill();
    machine.assert_updated(&release);
    assert!(server.events.lock().unwrap().iter().all(|event| event.error_code.is_none()));
    // What the first gave and was right was not fetched again, but for what was under way.
    let (asked, whole) = (server.fetched(WHOLE), release.payload.len() as u64);
    assert!(asked < whole + whole / 2, "{asked} bytes of {whole}");
}

#[test]
fn a_server_that_knows_no_ranges_is_gone_on_with() {
    let World { _folder, machine, release } = world();
    let cut_at = release.payload.len() / 2;
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let server = two_places(&release, move |_, release, stream| {
        let length = release.payload.len();
        // All of it each time; the first time it is cut off.
        let sent = if count.fetch_add(1, Ordering::Relaxed) == 0 { cut_at } else { length };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&release.payload[..sent]));
        if sent < length {
            // The rest never comes: whoever asked is killed.
            std::thread::park();
        }
    });
    let mut engine = machine.start(&server, &[]);
    let kept = machine.folder.join("state/state.json");
    engine.wait_for("a place that is kept", |_| {
        std::fs::read_to_string(&kept).is_ok_and(|kept| kept.contains("next_operation"))
    });
    engine.kill();
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the update", |_| machine.is_updated());
    engine.kill();
    machine.assert_updated(&release);
    // Once for what was cut off, once for the head again, once for the rest.
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}
