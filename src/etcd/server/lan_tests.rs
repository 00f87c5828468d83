//! Beacons on loopback.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

fn machine(number: u64) -> MachineId {
    format!("{:032x}", number + 1).parse().unwrap()
}

/// A group of its own for each test, so that tests do not hear each other.
fn config(test: u8, number: u64, size: usize, folder: &TempDir) -> LanConfig {
    let port = 20_000 + (std::process::id() % 20_000) as u16;
    LanConfig {
        cluster: format!("test-{}", std::process::id()),
        size,
        machine: machine(number),
        interface: Ipv4Addr::LOCALHOST,
        group: SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, test), port),
        data_dir: folder.path().join(format!("m{number}")),
        peer_url: format!("http://127.0.0.1:{}", 1_000 + number),
        client_urls: vec![format!("http://127.0.0.1:{}", 2_000 + number)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_four_machines_found_one_cluster_and_the_fourth_stands_by() {
    let folder = tempfile::tempdir().unwrap();
    let look = |number| {
        let config = config(1, number, 3, &folder);
        tokio::spawn(async move {
            let discovered = discover(&config).await.unwrap();
            // Members go on sending, as one that runs does.
            if let Discovered::Founded(founded) = &discovered {
                let beacon = Beacon::of_member(&config.myself(), founded.cluster());
                let socket = open(&config).unwrap();
                tokio::spawn(async move {
                    loop {
                        send(&socket, &config, &beacon).await;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                });
            }
            discovered
        })
    };
    let tasks: Vec<_> = (0..4).map(look).collect();
    let mut founded = Vec::new();
    let mut standby = Vec::new();
    for task in tasks {
        match timeout(Duration::from_secs(60), task).await.unwrap().unwrap() {
            Discovered::Founded(one) => founded.push(one),
            Discovered::Standby { cluster_id, client_urls, .. } => standby.push((cluster_id, client_urls)),
        }
    }
    assert_eq!(founded.len(), 3);
    assert!(founded.iter().all(|one| one.cluster() == founded[0].cluster()));
    let (cluster_id, mut client_urls) = standby.pop().unwrap();
    assert_eq!(cluster_id, founded[0].cluster_id);
    let all = timeout(Duration::from_secs(60), client_urls.wait_for(|urls| urls.len() == 3)).await;
    assert_eq!(all.unwrap().unwrap()[0], "http://127.0.0.1:2000");
    // The promise outlives the process.
    let promise = read_promise(&config(1, 0, 3, &folder).promise_path()).unwrap();
    assert_eq!(promise.committed, Some(founded[0].cluster().founders));
}

#[test]
fn a_beacon_that_names_a_socket_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let heard = |config: &LanConfig| {
        let founded = Founded::by("demo", &[machine(0)].into(), |_| None);
        decode(&encode(&Beacon::of_member(&config.myself(), founded.cluster()))).is_some()
    };
    let good = config(2, 0, 1, &folder);
    let socket = "unix:///run/docker.sock".to_owned();
    assert!(heard(&good));
    assert!(!heard(&LanConfig { peer_url: socket.clone(), ..good.clone() }));
    assert!(!heard(&LanConfig { client_urls: vec![socket], ..good }));
}

fn set() -> impl Strategy<Value = Option<Machines>> {
    proptest::option::of(proptest::collection::btree_set((0..20_u64).prop_map(machine), 0..=MAX_SIZE))
}

proptest! {
    #[test]
    fn beacons_survive_the_round_trip(
        size in 1..=9_usize, number: u32, round: u64, view in set(), committed in set(), founders in set(), id: u64,
    ) {
        let beacon = Beacon {
            token: "demo".into(), size, machine: machine(u64::from(number)),
            peer_url: "http://10.77.0.1:2380".into(), client_urls: vec!["http://10.77.0.1:2379".into()],
            round, view, committed, member: founders.map(|founders| Cluster { id, founders }),
        };
        let bytes = encode(&beacon);
        prop_assert!(bytes.len() <= MAX_BEACON_BYTES);
        prop_assert_eq!(decode(&bytes), Some(beacon));
    }

    #[test]
    fn promises_survive_the_round_trip(round: u64, committed in set(), founders in set(), id: u64) {
        let promise = Promise { round, committed, outside: founders.map(|founders| Cluster { id, founders }) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("founding");
        write_durably(&path, &encode_promise(&promise)).unwrap();
        prop_assert_eq!(read_promise(&path).unwrap(), promise);
    }

    #[test]
    fn garbage_is_no_beacon_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }
}
