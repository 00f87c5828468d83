//! The bus of a machine, with a real bus daemon and somebody on it who answers as
//! update_engine and systemd do.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};

use super::*;

/// A message bus of its own; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(socket: &Path) -> Daemon {
    let address = format!("--address=unix:path={}", socket.display());
    let mut command = Command::new("dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", &address]).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().expect("dbus-daemon is installed"));
    for _ in 0..500 {
        if UnixStream::connect(socket).await.is_ok() {
            return daemon;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("dbus-daemon does not listen");
}

async fn connect(socket: &Path) -> Connection {
    Builder::unix_stream(UnixStream::connect(socket).await.unwrap()).build().await.unwrap()
}

fn status(operation: &str) -> Status {
    (0, 1.0, operation.to_owned(), "9.1.0".to_owned(), 0)
}

/// Answers calls under both names: `GetStatus` with `operation`, `Reboot` with nothing.
async fn answer(connection: Connection, operation: &'static str) {
    let mut calls = MessageStream::from(&connection);
    while let Some(Ok(call)) = calls.next().await {
        let header = call.header();
        match header.member().map(|member| member.to_string()).as_deref() {
            Some("GetStatus") => connection.reply(&header, &status(operation)).await.unwrap(),
            Some("Reboot") => connection.reply(&header, &()).await.unwrap(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn update_engine_is_asked_and_heard_and_systemd_gets_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bus");
    let _daemon = start(&socket).await;
    let mut bus = Bus::new(Some(socket.clone()));
    assert!(matches!(bus.pending().await, Err(Error::Bus(_))), "nobody is there yet");

    let engine = connect(&socket).await;
    engine.request_name(SERVICE).await.unwrap();
    engine.request_name("org.freedesktop.systemd1").await.unwrap();
    let idle = tokio::spawn(answer(engine.clone(), "UPDATE_STATUS_IDLE"));
    assert_eq!(bus.pending().await.unwrap(), None);
    idle.abort();
    tokio::spawn(answer(engine.clone(), NEED_REBOOT));
    assert_eq!(bus.pending().await.unwrap().as_deref(), Some("9.1.0"));
    bus.reboot().await.unwrap();

    let ready = bus.ready();
    let emit = |operation: &'static str| {
        let engine = engine.clone();
        async move {
            let body = status(operation);
            engine.emit_signal(None::<&str>, PATH, INTERFACE, "StatusUpdate", &body).await.unwrap();
        }
    };
    emit("UPDATE_STATUS_DOWNLOADING").await;
    let is_told = tokio::time::timeout(Duration::from_millis(300), ready.notified()).await;
    assert!(is_told.is_err(), "progress is no reason to look");
    emit(NEED_REBOOT).await;
    tokio::time::timeout(Duration::from_secs(20), ready.notified()).await.expect("the signal is heard");
}

#[test]
fn a_machine_that_our_init_has_not_started_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boot.json");
    assert_eq!(is_good(&path), Ok(()));
    fs::write(&path, r#"{"disk":"/nowhere/disk","slot":3,"proven":true}"#).unwrap();
    assert_eq!(is_good(&path), Ok(()));
    fs::write(&path, r#"{"disk":"/nowhere/disk","slot":3,"proven":false}"#).unwrap();
    assert!(is_good(&path).unwrap_err().contains("/nowhere/disk"));
    fs::write(&path, "{").unwrap();
    assert!(is_good(&path).is_err());
}
