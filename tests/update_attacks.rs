//! What an attacker can try who owns the update server and the network: each is
//! refused, and nothing becomes bootable.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod update_support;

use std::{io::Write as _, sync::Arc, time::Duration};

use proa_update_model::slots::SlotFlags;
use update_support::{Got, Machine, Publisher, Release, Server, Wish, offer, payload_part, respond, system};

const MIB: u64 = 1 << 20;

struct Field {
    publisher: Publisher,
    machine: Machine,
    good: Release,
    _folder: tempfile::TempDir,
}

fn field() -> Field {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let good = publisher.release(&system(3 * MIB, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
    Field { publisher, machine, good, _folder: folder }
}

impl Field {
    /// The updater says `words` about this server, and slot A stays the only one
    /// that boots.
    fn assert_refused(&self, name: &str, server: &Server, words: &str) {
        self.machine.reset();
        let mut engine = self.machine.start(server, &["--stall-after=1s"]);
        engine.wait_for(name, |engine| engine.log().contains(words));
        // It may try again; that must not help.
        std::thread::sleep(Duration::from_millis(300));
        engine.kill();
        let flags = self.machine.flags();
        assert_eq!(flags[0], SlotFlags::new(1, 0, true), "{name}");
        assert!(!flags[1].bootable(), "{name}: {}", flags[1]);
        assert!(!self.machine.is_updated(), "{name}");
    }

    fn offering(&self, name: &str, release: Release, words: &str) {
        self.assert_refused(name, &Server::honest(release), words);
    }
}

#[test]
fn releases_that_may_not_be_installed_are_refused() {
    let field = field();
    let data = system(3 * MIB, 2);
    let of = |wish: &Wish<'_>| field.publisher.release(&data, None, wish);
    let stranger = Publisher::new(&field.publisher.folder.join("stranger"));
    let stranger = stranger.release(&data, None, &Wish::default());
    field.offering("wrong key", stranger, "not signed by any trusted key");
    let expired = of(&Wish { expires_unix_s: 1_000_000_000, ..Wish::default() });
    field.offering("expired", expired, "the release expired");
    let older = of(&Wish { version: "0.9.0", ..Wish::default() });
    field.offering("older", older, "is not newer than 1.0.0");
    let same = of(&Wish { version: "1.0.0", ..Wish::default() });
    field.offering("replayed", same, "is not newer than 1.0.0");
    let other = of(&Wish { app: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}", ..Wish::default() });
    field.offering("wrong app", other, "the release is for the application");
    let mut unsigned = field.good.clone();
    unsigned.metadata = b"{}".to_vec();
    field.offering("no metadata", unsigned, "bad envelope");
}

#[test]
fn payloads_that_are_not_the_signed_one_are_refused() {
    let field = field();
    let head = 40;
    let places =
        [("head", head), ("middle", field.good.payload.len() / 2), ("end", field.good.payload.len() - 1)];
    for (name, at) in places {
        let mut flipped = field.good.clone();
        flipped.payload[at] ^= 1;
        field.offering(&format!("bit flipped in the {name}"), flipped, "the hash");
    }
    let good = Arc::new(field.good.clone());
    let serve = |payload: fn(&Got, &Release, &mut std::net::TcpStream)| {
        let good = Arc::clone(&good);
        Server::start(move |got, stream| match got.method.as_str() {
            "POST" => respond(stream, "200 OK", "", offer(got, &good).as_bytes()),
            _ => payload(got, &good, stream),
        })
    };
    let truncated = serve(|got, good, stream| {
        let (from, to) = got.range.unwrap();
        let end = (good.payload.len() as u64 / 2).max(from);
        let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", good.payload.len());
        respond(stream, "206 Partial Content", &range, &good.payload[from as usize..end as usize]);
    });
    field.assert_refused("truncated", &truncated, " ended after ");
    let oversized = serve(|got, good, stream| {
        let (from, to) = got.range.unwrap();
        let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", good.payload.len());
        let body = [&good.payload[from as usize..], &[0; 100]].concat();
        respond(stream, "206 Partial Content", &range, &body);
    });
    field.assert_refused("oversized, announced", &oversized, " sends more than ");
    let endless = serve(|got, good, stream| {
        let (from, to) = got.range.unwrap();
        let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", good.payload.len());
        let head = format!("HTTP/1.1 206 Partial Content\r\nConnection: close\r\n{range}\r\n");
        let body = [&good.payload[from as usize..], &[0; 100_000]].concat();
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    });
    field.assert_refused("oversized, not announced", &endless, "more than");
    let elsewhere =
        serve(|_, _, stream| respond(stream, "302 Found", "Location: http://127.0.0.1:1/x\r\n", b""));
    field.assert_refused("redirected payload", &elsewhere, "redirects are refused");
    let dripping = serve(|got, good, stream| {
        let (from, to) = got.range.unwrap();
        let length = to + 1 - from;
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-{to}/{}\r\n\r\n",
            good.payload.len()
        );
        let _ = stream.write_all(head.as_bytes());
        for byte in &good.payload[from as usize..] {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    field.assert_refused("slow drip", &dripping, "sends too slowly");
    let wrong_part = serve(|got, good, stream| {
        let shifted = Got { range: got.range.map(|(from, to)| (from + 1, to)), ..clone(got) };
        payload_part(stream, &shifted, &good.payload);
    });
    field.assert_refused("another part", &wrong_part, "was asked for");
}

fn clone(got: &Got) -> Got {
    Got { method: got.method.clone(), path: got.path.clone(), range: got.range, body: got.body.clone() }
}

#[test]
fn answers_that_are_none_are_refused() {
    let field = field();
    let serve = |body: String| Server::start(move |_, stream| respond(stream, "200 OK", "", body.as_bytes()));
    let laughs = "<?xml version=\"1.0\"?><!DOCTYPE r [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;\">]>\
        <response protocol=\"3.0\"><app appid=\"x\">&b;</app></response>";
    let deep = format!("<response protocol=\"3.0\">{}</response>", "<a>".repeat(5000));
    let many = format!("<response protocol=\"3.0\">{}</response>", "<a/>".repeat(5000));
    let words = "the update server's answer: ";
    for (name, body) in [
        ("entities", laughs.to_owned()),
        ("depth", deep),
        ("elements", many),
        ("no xml", "<<<".to_owned()),
        ("empty", String::new()),
    ] {
        field.assert_refused(name, &serve(body), words);
    }
    field.assert_refused("a long answer", &serve("x".repeat(100_000)), "sends more than 65536 bytes");
    let elsewhere = Server::start(|_, stream| {
        respond(stream, "307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n", b"")
    });
    field.assert_refused("redirected question", &elsewhere, "redirects are refused");
    let failing = Server::start(|_, stream| respond(stream, "500 Internal Server Error", "", b""));
    field.assert_refused("a server in trouble", &failing, "answered 500");
}
