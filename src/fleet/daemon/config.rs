//! fleetd's settings: every name, default and check, and what they mean together.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use proa_base::{
    duration,
    ids::MachineId,
    machine,
    settings::{BadSetting, Program, Settings, checks, read_file, setting, switch},
};
use proa_etcd_client::tls::TlsFiles;

/// Where fleetd looks for its file when `-config` is not given.
pub const CONFIG_FILE: &str = "/etc/fleet/fleet.conf";

/// All that fleetd can be told. A key of the file is the same name with `_`.
///
/// Source: fleet 1.0, "Deploying and configuring fleet"; `listen`, `advertise`,
/// `machine-id` and `socket` are this program's own. The registry is not the
/// original's, so neither is the default of its prefix.
pub const PROGRAM: Program = Program {
    name: "fleetd",
    cmdline: "fleet",
    env: "FLEET",
    settings: &[
        setting("etcd-servers", "http://127.0.0.1:2379", "members of the store, parted by commas", servers),
        setting("etcd-cafile", "", "members must have a certificate of these CAs", checks::any),
        setting("etcd-certfile", "", "our certificate for the store, with its chain", checks::any),
        setting("etcd-keyfile", "", "the key of etcd-certfile", checks::any),
        setting("etcd-key-prefix", "/proa/fleet/", "where the registry lives in the store", prefix),
        setting("etcd-request-timeout", "5", "seconds to wait for the store", seconds),
        setting("engine-reconcile-interval", "2.0", "seconds between two looks of the engine", seconds),
        setting("agent-ttl", "30s", "how long a machine that does not answer counts as alive", ttl),
        setting("public-ip", "", "address to tell others (default: found out)", ip),
        setting("metadata", "", "what units can ask for: key=value,key=value", metadata),
        setting("units-directory", "/run/fleet/units/", "where unit files are written", absolute),
        setting("listen", "", "also serve the API on this TCP address, HOST:PORT", listen),
        setting("advertise", "", "API address to tell the other machines (default: from listen)", listen),
        setting("socket", "/run/fleet.sock", "path of the API's socket; empty for none", socket),
        setting("machine-id", "", "this machine's id (default: /etc/machine-id)", machine_id),
        setting("token-limit", "100", "entries of one page of the API", token_limit),
        setting("verbosity", "0", "0: what happens; 1 and more: every step", checks::number),
        switch("systemd-user", "false", "run units in the user's systemd", checks::boolean),
        switch("disable-engine", "false", "never decide for the cluster", checks::boolean),
        switch("disable-watches", "false", "look at intervals only, do not watch the store", checks::boolean),
        // No meaning here; files of the original's users have them.
        switch("verify-units", "false", "accepted and not used", checks::any),
        setting("authorized-keys-file", "", "accepted and not used", checks::any),
        switch("enable-grpc", "false", "accepted and not used", checks::any),
    ],
};

/// fleetd's settings as values.
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of the store: `http://HOST:PORT` or `https://HOST:PORT`.
    pub etcd_servers: Vec<String>,
    /// Whom to trust and what to show where TLS is spoken with them.
    pub etcd_tls: Option<TlsFiles>,
    /// Prefix of every key in the store.
    pub key_prefix: String,
    /// How long one request to the store may take.
    pub request_timeout: Duration,
    /// How often the engine looks without being told.
    pub reconcile_interval: Duration,
    /// Time to live of this machine's lease.
    pub agent_ttl: Duration,
    /// The address that others reach this machine by.
    pub public_ip: IpAddr,
    /// What units can ask for.
    pub metadata: BTreeMap<String, String>,
    /// Where unit files are written.
    pub units_directory: PathBuf,
    /// The TCP address of the API, if any: `HOST:PORT`.
    pub listen: Option<String>,
    /// Where other machines reach the API, if they can: `HOST:PORT`.
    pub advertise: Option<String>,
    /// The API's socket, if any.
    pub socket: Option<PathBuf>,
    /// Who this machine is.
    pub machine_id: MachineId,
    /// Entries of one page of the API.
    pub token_limit: u16,
    /// The level of the log: `info` or `debug`.
    pub log_level: &'static str,
    /// Whether units run in the user's systemd.
    pub systemd_user: bool,
    /// Whether this machine may decide for the cluster.
    pub engine: bool,
    /// Whether the store is watched, rather than read at intervals alone.
    pub watches: bool,
}

/// Why fleetd cannot start with what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// A certificate without its key, or the other way round.
    #[error("{given} needs {missing} too")]
    NoPair {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A setting of the configuration file is wrong.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: BadSetting,
    },
    /// The configuration file that was asked for cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nobody said who this machine is.
    #[error("{path} holds no machine id ({reason}); give --machine-id")]
    NoMachineId {
        /// Where it was looked for.
        path: &'static str,
        /// What is wrong there.
        reason: String,
    },
}

impl Config {
    /// Settles fleetd's settings from `args`, its surroundings and its file.
    ///
    /// `-config FILE` names the file; [`CONFIG_FILE`] may be absent, a named one may not.
    ///
    /// # Errors
    /// [`BadConfig`], with the spelling that the user wrote.
    pub fn load(args: &[String]) -> Result<Self, BadConfig> {
        let (named, args) = take_config_flag(args)?;
        let path = named.as_deref().unwrap_or(Path::new(CONFIG_FILE));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => String::new(),
            Err(source) => return Err(BadConfig::File { path: path.to_owned(), source }),
        };
        let pairs = read_file(&text);
        // The file alone first, so that a complaint about it names it.
        PROGRAM
            .settle(&[], &|_| None, &[], &pairs)
            .map_err(|source| BadConfig::InFile { path: path.to_owned(), source })?;
        Self::from_settings(&PROGRAM.settle_here(&args, &pairs)?)
    }

    fn from_settings(settings: &Settings) -> Result<Self, BadConfig> {
        let public_ip = match settings.get("public-ip") {
            "" => own_address(),
            _ => settings.parsed("public-ip"),
        };
        let given = |name: &str| settings.given(name).map(str::to_owned);
        let listen = given("listen");
        let advertise =
            given("advertise").or_else(|| listen.as_deref().and_then(|listen| reachable(listen, public_ip)));
        Ok(Self {
            etcd_servers: list(settings.get("etcd-servers")),
            etcd_tls: tls(settings)?,
            key_prefix: settings.get("etcd-key-prefix").to_owned(),
            request_timeout: Duration::from_secs_f64(settings.parsed("etcd-request-timeout")),
            reconcile_interval: Duration::from_secs_f64(settings.parsed("engine-reconcile-interval")),
            agent_ttl: settings.duration("agent-ttl"),
            public_ip,
            metadata: pairs(settings.get("metadata")).expect("checked by metadata"),
            units_directory: PathBuf::from(settings.get("units-directory")),
            listen,
            advertise,
            socket: settings.given("socket").map(PathBuf::from),
            machine_id: who(settings.get("machine-id"))?,
            token_limit: settings.parsed("token-limit"),
            log_level: if settings.parsed::<u64>("verbosity") == 0 { "info" } else { "debug" },
            systemd_user: settings.is_on("systemd-user"),
            engine: !settings.is_on("disable-engine"),
            watches: !settings.is_on("disable-watches"),
        })
    }
}

/// Source: fleet 1.0, `etcd_cafile`, `etcd_certfile`, `etcd_keyfile`.
fn tls(settings: &Settings) -> Result<Option<TlsFiles>, BadConfig> {
    let path = |name: &str| settings.given(name).map(PathBuf::from);
    let identity = match (path("etcd-certfile"), path("etcd-keyfile")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(BadConfig::NoPair { given: "etcd-certfile", missing: "etcd-keyfile" }),
        (None, Some(_)) => return Err(BadConfig::NoPair { given: "etcd-keyfile", missing: "etcd-certfile" }),
    };
    let trusted_ca = path("etcd-cafile");
    let is_wanted = identity.is_some() || trusted_ca.is_some();
    Ok(is_wanted.then(|| TlsFiles { trusted_ca, identity, ..TlsFiles::default() }))
}

/// Parts `-config FILE` from the flags that the settings table knows.
fn take_config_flag(args: &[String]) -> Result<(Option<PathBuf>, Vec<String>), BadConfig> {
    let mut path = None;
    let mut rest = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        match name {
            Some("config") => {
                let no_value = || BadSetting::NoValue { spelling: word.clone() };
                path = Some(PathBuf::from(words.next().ok_or_else(no_value)?));
            }
            Some(name) if name.starts_with("config=") => path = Some(PathBuf::from(&name["config=".len()..])),
            Some(_) | None => rest.push(word.clone()),
        }
    }
    Ok((path, rest))
}

fn who(given: &str) -> Result<MachineId, BadConfig> {
    const PATH: &str = "/etc/machine-id";
    if !given.is_empty() {
        return Ok(given.parse().expect("checked by machine_id"));
    }
    let missing = |reason: String| BadConfig::NoMachineId { path: PATH, reason };
    let text = fs::read_to_string(PATH).map_err(|error| missing(error.to_string()))?;
    text.trim().parse().map_err(|error: proa_base::ids::BadMachineId| missing(error.to_string()))
}

/// The address to tell others: inside the machine's `proa.network` if it has one there.
fn own_address() -> IpAddr {
    machine::advertised_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Where others reach a listener: a wildcard host stands for the public address,
/// loopback is reached by nobody.
fn reachable(listen: &str, public_ip: IpAddr) -> Option<String> {
    let (host, port) = listen.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            Some(std::net::SocketAddr::new(public_ip, port.parse().ok()?).to_string())
        }
        Ok(address) if address.is_loopback() => None,
        Ok(_) | Err(_) => Some(listen.to_owned()),
    }
}

/// `a,b` or, as files of the original have it, `["a","b"]`.
fn list(text: &str) -> Vec<String> {
    let items = text.trim().trim_start_matches('[').trim_end_matches(']').split(',');
    let bare = items.map(|item| item.trim().trim_matches('"').trim());
    bare.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
                out.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            Some(_) | None => return Err(format!("{item:?} is no pair; give key=value,key=value")),
        }
    }
    Ok(out)
}

fn servers(value: &str) -> Result<(), String> {
    let right = "give http://HOST:PORT or https://HOST:PORT, parted by commas".to_owned();
    let good = |url: &String| {
        url.strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"))
            .and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'))
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    let list = list(value);
    (!list.is_empty() && list.iter().all(good)).then_some(()).ok_or(right)
}

fn prefix(value: &str) -> Result<(), String> {
    let good = value.starts_with('/') && value.len() > 1;
    good.then_some(()).ok_or_else(|| "give a path that starts with /".into())
}

fn seconds(value: &str) -> Result<(), String> {
    match value.parse::<f64>() {
        Ok(number) if (0.05..=3600.0).contains(&number) => Ok(()),
        Ok(_) | Err(_) => Err("give seconds from 0.05 to 3600, such as 2.0".into()),
    }
}

/// The store counts leases in whole seconds, and a beat every third of it must
/// survive one slow answer.
fn ttl(value: &str) -> Result<(), String> {
    match duration::parse(value) {
        Ok(ttl) if (2..=3600).contains(&ttl.as_secs()) => Ok(()),
        Ok(_) | Err(_) => Err("give a time from 2s to 1h, such as 30s".into()),
    }
}

fn ip(value: &str) -> Result<(), String> {
    let good = value.is_empty() || value.parse::<IpAddr>().is_ok();
    good.then_some(()).ok_or_else(|| "give an IP address".into())
}

fn metadata(value: &str) -> Result<(), String> {
    pairs(value).map(drop)
}

fn absolute(value: &str) -> Result<(), String> {
    value.starts_with('/').then_some(()).ok_or_else(|| "give a path that starts with /".into())
}

fn socket(value: &str) -> Result<(), String> {
    // Source: unix(7), sun_path.
    let good = value.is_empty() || (value.starts_with('/') && value.len() < 108);
    good.then_some(()).ok_or_else(|| "give a path that starts with /, of at most 107 bytes".into())
}

fn listen(value: &str) -> Result<(), String> {
    let good = value.is_empty()
        || value
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    good.then_some(()).ok_or_else(|| "give HOST:PORT, such as 0.0.0.0:49153".into())
}

fn machine_id(value: &str) -> Result<(), String> {
    match value {
        "" => Ok(()),
        value => value.parse::<MachineId>().map(drop).map_err(|error| error.to_string()),
    }
}

fn token_limit(value: &str) -> Result<(), String> {
    match value.parse::<u16>() {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err("give a whole number from 1 to 65535".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settle(args: &str) -> Result<Config, String> {
        let mut args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        args.push("--machine-id=0123456789abcdef0123456789abcdef".into());
        let settings = PROGRAM.settle(&args, &|_| None, &[], &[]).map_err(|error| error.to_string())?;
        Config::from_settings(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let config = settle("").unwrap();
        assert_eq!(config.etcd_servers, ["http://127.0.0.1:2379"]);
        assert_eq!(config.key_prefix, "/proa/fleet/");
        assert_eq!(config.agent_ttl, Duration::from_secs(30));
        assert_eq!(config.reconcile_interval, Duration::from_secs(2));
        assert_eq!(config.units_directory, Path::new("/run/fleet/units/"));
        assert_eq!((config.engine, config.watches, config.token_limit), (true, true, 100));
        assert_eq!((config.listen, config.advertise), (None, None));
    }

    #[test]
    fn bad_values_are_named_with_what_is_right() {
        #[rustfmt::skip]
        let cases = [
            ("--etcd-servers=localhost",  "--etcd-servers: bad value \"localhost\": give http://HOST:PORT or https://HOST:PORT, parted by commas"),
            ("--etcd-servers=http://a:0", "--etcd-servers: bad value \"http://a:0\": give http://HOST:PORT or https://HOST:PORT, parted by commas"),
            ("--agent-ttl=30",            "--agent-ttl: bad value \"30\": give a time from 2s to 1h, such as 30s"),
            ("--agent-ttl=1s",            "--agent-ttl: bad value \"1s\": give a time from 2s to 1h, such as 30s"),
            ("--public-ip=me",            "--public-ip: bad value \"me\": give an IP address"),
            ("--metadata=a",              "--metadata: bad value \"a\": \"a\" is no pair; give key=value,key=value"),
            ("--listen=49153",            "--listen: bad value \"49153\": give HOST:PORT, such as 0.0.0.0:49153"),
            ("--machine-id=x",            "--machine-id: bad value \"x\": a machine id is 32 lower-case hex digits, not all zero"),
            ("--etcd-request-timeout=0",  "--etcd-request-timeout: bad value \"0\": give seconds from 0.05 to 3600, such as 2.0"),
            ("--token-limit=0",           "--token-limit: bad value \"0\": give a whole number from 1 to 65535"),
            ("--verify=1",                "unknown flag --verify; fleetd --help lists what there is"),
        ];
        for (args, want) in cases {
            let mut words: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
            words.insert(0, "--disable-engine".into());
            let got = PROGRAM.settle(&words, &|_| None, &[], &[]).unwrap_err().to_string();
            assert_eq!(got, want, "{args}");
        }
    }

    #[test]
    fn files_of_the_original_are_understood() {
        let text = "etcd_servers=[\"http://a:2379\", \"http://b:4001\"]\nmetadata=\"region=eu,disk=ssd\"\nverify_units=true\nauthorized_keys_file=/x\n";
        let settings = PROGRAM.settle(&[], &|_| None, &[], &read_file(text)).unwrap();
        assert_eq!(list(settings.get("etcd-servers")), ["http://a:2379", "http://b:4001"]);
        assert_eq!(pairs(settings.get("metadata")).unwrap()["disk"], "ssd");
    }

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        let public: IpAddr = "10.77.0.5".parse().unwrap();
        #[rustfmt::skip]
        let cases = [
            ("0.0.0.0:49153",   Some("10.77.0.5:49153")),
            ("[::]:49153",      Some("10.77.0.5:49153")),
            ("127.0.0.1:49153", None),
            ("10.1.1.1:80",     Some("10.1.1.1:80")),
            ("node1:80",        Some("node1:80")),
        ];
        for (listen, want) in cases {
            assert_eq!(reachable(listen, public).as_deref(), want, "{listen}");
        }
    }

    #[test]
    fn the_config_flag_is_taken_in_both_spellings() {
        for args in ["-config /x --listen=a:1", "--config=/x --listen=a:1"] {
            let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
            let (path, rest) = take_config_flag(&args).unwrap();
            assert_eq!(path.as_deref(), Some(Path::new("/x")));
            assert_eq!(rest, ["--listen=a:1"]);
        }
    }
}
