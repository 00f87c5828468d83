//! One fleetd: opens what can fail, starts the tasks, and ends on a signal.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use proa_etcd_client::Timeouts;
use proa_fleet_model::registry::LeaseId;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    agent::Agent,
    api::Api,
    config::Config,
    engine,
    http::{self, CannotListen, Listener},
    membership, reporter, schedule,
    store::Store,
    systemd::{Bus, Systemd},
    units_dir::{self, UnitsDir},
};

/// For one connection to one member of the store.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What may be spent on handing the engine's office over when the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why fleetd cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The API has no place to listen at.
    #[error(transparent)]
    Listen(#[from] CannotListen),
    /// The units directory is not usable.
    #[error(transparent)]
    Units(#[from] units_dir::Error),
    /// The store's address is none.
    #[error(transparent)]
    Store(#[from] proa_etcd_client::Error),
    /// No signals, no runtime.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A task ended, which none does: a mistake of ours. Starting anew is safe, going on with a
    /// part missing is not.
    #[error("a part of fleetd has ended: {0}")]
    Part(String),
}

/// Runs fleetd until SIGTERM or SIGINT. Units run on after it.
///
/// # Errors
/// [`Failed`], before anything was changed.
pub async fn run(config: Config) -> Result<(), Failed> {
    let config = Arc::new(config);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let timeouts = Timeouts { connect: CONNECT_TIMEOUT, request: config.request_timeout };
    let store = Store::new(&config.etcd_servers, config.etcd_tls.clone(), &config.key_prefix, timeouts)?;
    let dir = UnitsDir::open(&config.units_directory)?;
    let (listeners, own_socket) = listen(&config).await?;

    let mut tasks = JoinSet::new();
    let api = Arc::new(Api::new(store.clone(), Arc::clone(&config)));
    for listener in listeners {
        let api = Arc::clone(&api);
        tasks.spawn(http::serve(listener, move |request| Arc::clone(&api).answer(request)));
    }
    let (lease, lease_seen) = watch::channel(None);
    let (wanted, wanted_seen) = watch::channel(None);
    let (states, states_seen) = watch::channel(None);
    let (term, mut term_seen) = watch::channel(None);
    tasks.spawn(membership::run(store.clone(), Arc::clone(&config), lease));
    tasks.spawn(schedule::run(store.clone(), config.machine_id, config.watches, wanted));
    tasks.spawn(reporter::run(store.clone(), config.machine_id, lease_seen, states_seen));
    let systemd = Systemd::new(if config.systemd_user { Bus::of_user } else { Bus::of_system });
    tasks.spawn(Agent::new(systemd, dir, wanted_seen, states).run());
    if config.engine {
        tasks.spawn(engine::run(store.clone(), Arc::clone(&config), term));
    }
    // Whoever started this may not listen; that changes nothing.
    let _ = proa_base::notify::notify("READY=1");
    tracing::info!("machine {} at {} serves", config.machine_id, config.public_ip);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(ended) = tasks.join_next() => {
            return Err(Failed::Part(ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string())));
        }
    }
    tracing::info!("ends; units run on");
    hand_over(&store, *term_seen.borrow_and_update()).await;
    if let Some(socket) = own_socket {
        // What is left behind is replaced by the next fleetd.
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

/// Lets another machine decide at once, rather than when the term runs out.
async fn hand_over(store: &Store, term: Option<LeaseId>) {
    if let Some(lease) = term {
        let _ = tokio::time::timeout(FAREWELL, store.revoke(lease)).await;
    }
}

/// All listeners, and the socket that is this process's own to remove.
async fn listen(config: &Config) -> Result<(Vec<Listener>, Option<PathBuf>), Failed> {
    let mut listeners = http::inherited()?;
    let own_socket = config.socket.clone().filter(|_| listeners.is_empty());
    if let Some(path) = &own_socket {
        listeners.push(http::listen_unix(path)?);
    }
    if let Some(address) = &config.listen {
        listeners.push(http::listen_tcp(address).await?);
    }
    Ok((listeners, own_socket))
}
