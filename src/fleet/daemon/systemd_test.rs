//! The D-Bus calls against a manager in the same process: the far end of the private socket.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::net::UnixListener;
use zbus::{connection::Builder, fdo, interface, object_server::SignalEmitter, zvariant::OwnedObjectPath};

use super::{Bus, Error, Systemd};

/// Units by name: load, active, sub. And every call with its argument, in order.
#[derive(Default)]
struct World {
    units: BTreeMap<String, (&'static str, &'static str, &'static str)>,
    calls: Vec<String>,
}

struct Manager(Arc<Mutex<World>>);

fn root() -> OwnedObjectPath {
    OwnedObjectPath::try_from("/").unwrap()
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn list_units_by_names(&self, names: Vec<String>) -> Vec<super::Row> {
        let world = self.0.lock().unwrap();
        let row = |name: String| {
            let state = world.units.get(&name).copied().unwrap_or(("not-found", "inactive", "dead"));
            let words = [name, String::new(), state.0.into(), state.1.into(), state.2.into(), String::new()];
            let [name, description, load, active, sub, followed] = words;
            (name, description, load, active, sub, followed, root(), 0, String::new(), root())
        };
        names.into_iter().map(row).collect()
    }

    async fn start_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        {
            let mut world = self.0.lock().unwrap();
            world.calls.push(format!("start {name} {mode}"));
            match world.units.get_mut(&name) {
                Some(state) => *state = ("loaded", "active", "running"),
                None => return Err(fdo::Error::Failed(format!("Unit {name} not found."))),
            }
        }
        Self::job_removed(&emitter, 1, root(), &name, "done").await.unwrap();
        Ok(root())
    }

    fn link_unit_files(&self, files: Vec<String>, runtime: bool, force: bool) -> super::Changes {
        self.0.lock().unwrap().calls.push(format!("link {files:?} {runtime} {force}"));
        vec![("symlink".into(), "/run/systemd/system/a.service".into(), files[0].clone())]
    }

    fn enable_unit_files(&self, files: Vec<String>, runtime: bool, force: bool) -> (bool, super::Changes) {
        self.0.lock().unwrap().calls.push(format!("enable {files:?} {runtime} {force}"));
        (true, Vec::new())
    }

    fn disable_unit_files(&self, files: Vec<String>, runtime: bool) -> super::Changes {
        self.0.lock().unwrap().calls.push(format!("disable {files:?} {runtime}"));
        Vec::new()
    }

    fn reload(&self) {
        self.0.lock().unwrap().calls.push("reload".into());
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// Serves connections, one after the other; each ends when its client goes.
async fn serve(listener: UnixListener, world: Arc<Mutex<World>>, connections: usize) {
    for _ in 0..connections {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = Builder::unix_stream(stream)
            .server(zbus::Guid::generate())
            .unwrap()
            .p2p()
            .serve_at("/org/freedesktop/systemd1", Manager(Arc::clone(&world)))
            .unwrap()
            .build()
            .await
            .unwrap();
        world.lock().unwrap().calls.push("connected".into());
        let calls = || world.lock().unwrap().calls.iter().any(|call| call == "start bye.service replace");
        while !calls() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.lock().unwrap().calls.clear();
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_manager_is_asked_told_and_found_again() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("private");
    let world = Arc::new(Mutex::new(World::default()));
    world.lock().unwrap().units.insert("a.service".into(), ("loaded", "inactive", "dead"));
    world.lock().unwrap().units.insert("bye.service".into(), ("loaded", "inactive", "dead"));
    let bus = Bus::Private(path.clone());
    let mut systemd = Systemd::new(move || bus.clone());

    let error = systemd.reload().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");

    let server = tokio::spawn(serve(UnixListener::bind(&path).unwrap(), Arc::clone(&world), 2));
    let rows = systemd.list(&["a.service", "none.service"]).await.unwrap();
    let words: Vec<_> =
        rows.iter().map(|row| format!("{} {} {} {}", row.name, row.load, row.active, row.sub)).collect();
    assert_eq!(words, ["a.service loaded inactive dead", "none.service not-found inactive dead"]);

    let changed = systemd.changed();
    systemd.link("/u/a.service").await.unwrap();
    systemd.enable("/u/a.service").await.unwrap();
    systemd.disable("a.service").await.unwrap();
    systemd.reload().await.unwrap();
    systemd.start("a.service").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), changed.notified()).await.expect("a signal is a hint");
    assert_eq!(systemd.list(&["a.service"]).await.unwrap()[0].active, "active");
    assert_eq!(
        world.lock().unwrap().calls,
        [
            "connected",
            "link [\"/u/a.service\"] true true",
            "enable [\"/u/a.service\"] true true",
            "disable [\"a.service\"] true",
            "reload",
            "start a.service replace",
        ]
    );

    let error = systemd.start("none.service").await.unwrap_err();
    assert_eq!(error.to_string(), "systemd refuses StartUnit none.service: Unit none.service not found.");

    // The manager ends this connection; the next calls find the new one.
    systemd.start("bye.service").await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.lock().unwrap().calls != ["connected"] {
        assert!(tokio::time::Instant::now() < deadline, "not connected again");
        // An error in between is what a loss looks like.
        let _ = systemd.list(&["a.service"]).await;
    }
    assert_eq!(systemd.list(&["a.service"]).await.unwrap()[0].active, "active");
    server.abort();
}
