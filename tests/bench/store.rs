//! Speed and memory of the store beside its peers, in alternating rounds of one run.
//!
//! `make bench` gives the peers; a product is `NAME=PROGRAM`. Ratios within one
//! run are what counts: absolute figures are those of the machine. The load
//! comes from the same machine, so nothing else may run on it.

mod load;
#[allow(dead_code, reason = "each benchmark uses a part of what they share")]
mod server;

use std::time::Duration;

use load::{Until, Work};
use server::{MOST_LOAD, Product, Servers, load_average, ours};

/// Unique keys of the memory measurement.
const MANY_KEYS: u64 = 1_000_000;

struct Scenario {
    name: &'static str,
    members: usize,
    clients: usize,
    work: Work,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "put, 1 client, 1 member", members: 1, clients: 1, work: Work::Put },
    Scenario { name: "put, 256 clients, 1 member", members: 1, clients: 256, work: Work::Put },
    Scenario { name: "get, 256 clients, 1 member", members: 1, clients: 256, work: Work::Get },
    Scenario { name: "put, 1 client, 3 members", members: 3, clients: 1, work: Work::Put },
    Scenario { name: "put, 256 clients, 3 members", members: 3, clients: 256, work: Work::Put },
    Scenario { name: "get, 256 clients, 3 members", members: 3, clients: 256, work: Work::Get },
];

/// All history is kept here, and may grow.
const ROOM: &str = "--quota-backend-bytes=8589934592";

struct Options {
    rounds: usize,
    seconds: u64,
    only: Option<String>,
    memory: bool,
    even_if_busy: bool,
    products: Vec<Product>,
}

/// One product's figures of one scenario, a row a round.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_us: Vec<f64>,
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("bench: {reason}");
            eprintln!(
                "usage: bench [--rounds N] [--seconds S] [--only TEXT] [--no-memory] [--even-if-busy] NAME=PROGRAM..."
            );
            std::process::exit(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(measure(&options));
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rounds: 3,
        seconds: 8,
        only: None,
        memory: true,
        even_if_busy: false,
        products: vec![ours()],
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = |what: &str| args.next().ok_or_else(|| format!("{arg} needs {what}"));
        match arg.as_str() {
            // What cargo passes to every benchmark.
            "--bench" => {}
            "--rounds" => {
                options.rounds = value("a number")?.parse().map_err(|_| "--rounds needs a number")?
            }
            "--seconds" => {
                options.seconds = value("a number")?.parse().map_err(|_| "--seconds needs a number")?
            }
            "--only" => options.only = Some(value("a part of a name")?),
            "--no-memory" => options.memory = false,
            "--even-if-busy" => options.even_if_busy = true,
            other => {
                let (name, program) =
                    other.split_once('=').ok_or_else(|| format!("{other}: give NAME=PROGRAM"))?;
                options.products.push(Product { name: name.to_owned(), command: vec![program.to_owned()] });
            }
        }
    }
    let load = load_average();
    if load > MOST_LOAD && !options.even_if_busy {
        return Err(format!(
            "the machine is busy (load {load}, at most {MOST_LOAD}): wait, or --even-if-busy"
        ));
    }
    Ok(options)
}

async fn measure(options: &Options) {
    let root = std::env::temp_dir();
    let is_wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    println!(
        "| scenario | product | requests/s (each round) | p50 ms | p99 ms | server CPU us/request | of the fastest peer |"
    );
    println!("|---|---|---|---|---|---|---|");
    for scenario in SCENARIOS.iter().filter(|scenario| is_wanted(scenario.name)) {
        let mut figures: Vec<Figures> = options.products.iter().map(|_| Figures::default()).collect();
        for _ in 0..options.rounds {
            for (product, figures) in options.products.iter().zip(&mut figures) {
                let servers = Servers::start(product, scenario.members, &root, &[ROOM.to_owned()]).await;
                round(&servers, scenario, Duration::from_secs(options.seconds), figures).await;
            }
        }
        print(scenario, &options.products, &figures);
    }
    let name = "1 000 000 keys of 256 B, 1 member";
    if options.memory && is_wanted(name) {
        memory(name, &options.products, &root).await;
    }
}

async fn round(servers: &Servers, scenario: &Scenario, length: Duration, figures: &mut Figures) {
    // What is read must be there, and connections and caches must be warm.
    let warm = Until::Requests(20_000.min(2_000 * scenario.clients as u64));
    load::run(&servers.urls, scenario.clients.max(64), Work::Put, warm).await;
    let before = servers.usage();
    let measured = load::run(&servers.urls, scenario.clients, scenario.work, Until::Elapsed(length)).await;
    let cpu_s = servers.usage().cpu_s - before.cpu_s;
    figures.rate.push(measured.rate);
    figures.p50_ms.push(measured.quantile_ms(0.5));
    figures.p99_ms.push(measured.quantile_ms(0.99));
    figures.cpu_us.push(cpu_s * 1e6 / measured.requests.max(1) as f64);
}

fn print(scenario: &Scenario, products: &[Product], figures: &[Figures]) {
    let peers = figures.iter().skip(1).map(|figures| median(&figures.rate));
    let fastest = peers.fold(None, |most: Option<f64>, rate| Some(most.map_or(rate, |most| most.max(rate))));
    for (product, figures) in products.iter().zip(figures) {
        let rates: Vec<String> = figures.rate.iter().map(|rate| format!("{rate:.0}")).collect();
        let ratio =
            fastest.map_or("-".to_owned(), |fastest| format!("{:.2}", median(&figures.rate) / fastest));
        println!(
            "| {} | {} | {} | {:.2} | {:.2} | {:.0} | {ratio} |",
            scenario.name,
            product.name,
            rates.join(" "),
            median(&figures.p50_ms),
            median(&figures.p99_ms),
            median(&figures.cpu_us),
        );
    }
}

/// Resident memory beside that of the peer with the least.
async fn memory(name: &str, products: &[Product], root: &std::path::Path) {
    let mut rows = Vec::new();
    for product in products {
        let servers = Servers::start(product, 1, root, &[ROOM.to_owned()]).await;
        let measured = load::run(&servers.urls, 256, Work::PutNew, Until::Requests(MANY_KEYS)).await;
        rows.push((product, measured, servers.usage()));
    }
    let peers = rows.iter().skip(1).map(|(_, _, usage)| usage.resident_mib);
    let least = peers.min_by(f64::total_cmp);
    for (product, measured, usage) in rows {
        let ratio = least.map_or("-".to_owned(), |least| format!("{:.2}", usage.resident_mib / least));
        println!(
            "| {name} | {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} MiB resident, {ratio} of the leanest peer |",
            product.name,
            measured.rate,
            measured.quantile_ms(0.5),
            measured.quantile_ms(0.99),
            usage.cpu_s * 1e6 / measured.requests.max(1) as f64,
            usage.resident_mib,
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
