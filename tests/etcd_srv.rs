//! Members, clients and gateways that find a cluster by the SRV records of a domain.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod dns;
mod etcd;
mod pki;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use dns::{Dns, alone};
use etcd::{proa, wait_for};
use pki::{Ca, Files};

const HOSTS: &str = "m0.demo.example A 127.0.0.11
m1.demo.example A 127.0.0.12
m2.demo.example A 127.0.0.13
m9.demo.example A 127.0.0.19
";

/// The records of three members by one service.
fn records(service: &str, port: u16) -> String {
    let record = |n: usize| format!("_{service}._tcp.demo.example SRV 0 0 {port} m{n}.demo.example\n");
    (0..3).map(record).collect()
}

/// What runs of the binary; killed when dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(folder: &Path, name: &str, words: &[String], variables: &[(&str, &str)]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let child = Command::new(proa())
            .args(words)
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The exit status and the last line of one that is to end by itself.
    fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end", || self.child.try_wait().unwrap());
        (status.code(), self.stderr().lines().last().unwrap_or_default().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.stderr());
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Where a member listens and what it tells others; its records' hosts are names.
fn member_flags(number: usize, scheme: &str) -> Vec<String> {
    let ip = format!("127.0.0.{}", 11 + number);
    words(&format!(
        "etcd --name=m{number} --data-dir=m{number} --listen-client-urls=http://{ip}:2379 \
         --advertise-client-urls=http://{ip}:2379 --listen-peer-urls={scheme}://{ip}:2380 \
         --initial-advertise-peer-urls={scheme}://{ip}:2380"
    ))
}

fn etcdctl(text: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(proa());
    command.arg("etcdctl").args(words(text)).env_clear().envs(variables.iter().copied());
    command.output().unwrap()
}

/// What it printed, if it succeeded.
fn done(text: &str, variables: &[(&str, &str)]) -> Option<String> {
    let output = etcdctl(text, variables);
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// The exit status and what it complained of.
fn refused(text: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = etcdctl(text, variables);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn three_members_find_each_other_and_are_found() {
    alone("three_members_find_each_other_and_are_found", || {
        let folder = tempfile::tempdir().unwrap();
        let client_records = "_etcd-client._tcp.demo.example SRV 1 0 2379 m1.demo.example
_etcd-client._tcp.demo.example SRV 0 0 2379 m0.demo.example
_etcd-client._tcp.demo.example SRV 1 0 2379 m2.demo.example\n";
        let dns = Dns::serve(&[HOSTS, &records("etcd-server", 2380), client_records].concat());
        fs::write(folder.path().join("etcd.yaml"), "discovery-srv: demo.example\n").unwrap();
        // By a flag, by the environment and by the file.
        let start = |number: usize| {
            let mut flags = member_flags(number, "http");
            let mut variables = Vec::new();
            match number {
                0 => flags.push("--discovery-srv=demo.example".to_owned()),
                1 => variables.push(("ETCD_DISCOVERY_SRV", "demo.example")),
                _ => {
                    flags = {
                        let keep = flags.iter().map(|flag| flag.trim_start_matches("--"));
                        let pairs = keep.skip(1).map(|flag| flag.replacen('=', ": ", 1) + "\n");
                        let file = folder.path().join("etcd.yaml");
                        fs::write(&file, pairs.collect::<String>() + "discovery-srv: demo.example\n")
                            .unwrap();
                        words("etcd --config-file=etcd.yaml")
                    }
                }
            }
            Running::start(folder.path(), &format!("m{number}"), &flags, &variables)
        };
        let mut members: Vec<Running> = (0..3).map(start).collect();
        let all = "--endpoints=http://127.0.0.11:2379,http://127.0.0.12:2379,http://127.0.0.13:2379";
        wait_for("the members to find each other", || done(&format!("{all} put k v"), &[]));
        let list = wait_for("their names", || {
            let told = |list: &String| [", 0,", ", 1,", ", ,"].iter().all(|text| !list.contains(text));
            done(&format!("{all} member list"), &[]).filter(told)
        });
        for number in 0..3 {
            let ip = 11 + number;
            let want =
                format!("m{number}, http://m{number}.demo.example:2380, http://127.0.0.{ip}:2379, false");
            assert!(list.lines().any(|line| line.ends_with(&want)), "{want} in\n{list}");
        }

        // Clients find them, v3 and v2; the record of the lowest priority is asked first.
        assert_eq!(done("--discovery-srv=demo.example get k", &[]).as_deref(), Some("k\nv\n"));
        let variables = [("ETCDCTL_DISCOVERY_SRV", "demo.example")];
        let status = done("-w simple endpoint status", &variables).unwrap();
        assert!(status.starts_with("http://m0.demo.example:2379,"), "{status}");
        let v2 = [("ETCDCTL_API", "2")];
        assert!(done("-D demo.example --insecure-discovery set k2 v", &v2).is_some());
        assert_eq!(done("-D demo.example --insecure-discovery get k2", &v2).as_deref(), Some("v\n"));
        gateway(folder.path());

        // Once a member lives, it needs no records but those of the hosts.
        drop(dns);
        let _dns = Dns::serve(HOSTS);
        members[1] = start(1);
        let one = "--endpoints=http://127.0.0.12:2379 --command-timeout=3s";
        wait_for("a member that starts again", || {
            done(&format!("{one} get k"), &[]).filter(|text| text == "k\nv\n")
        });
    });
}

fn gateway(folder: &Path) {
    let gateway = |name: &str, more: &str| {
        let flags = "gateway start --discovery-srv=demo.example --listen-addr=127.0.0.1:23790";
        Running::start(folder, name, &words(&format!("etcd {flags} {more}")), &[])
    };
    let running = gateway("gateway", "--insecure-discovery");
    let got = || done("--endpoints=http://127.0.0.1:23790 get k", &[]).filter(|text| text == "k\nv\n");
    wait_for("the gateway", got);
    drop(running);
    // Members that show no certificate are not passed on to.
    let running = gateway("careful", "--endpoints=127.0.0.1:1");
    wait_for("a gateway that trusts nobody", || {
        running
            .stderr()
            .contains("ready to proxy client requests at 127.0.0.1:23790 to http://127.0.0.1:1")
            .then_some(())
    });
    assert!(running.stderr().contains("\"http://m0.demo.example:2379\" is insecure"), "{}", running.stderr());
    let flags =
        words("etcd --proxy=on --discovery-srv=demo.example --listen-client-urls=http://127.0.0.1:2379");
    let _proxy = Running::start(folder, "proxy", &flags, &[]);
    wait_for("the proxy", || done("get k", &[]).filter(|text| text == "k\nv\n"));
}

#[test]
fn records_of_a_name_and_more_than_a_datagram() {
    alone("records_of_a_name_and_more_than_a_datagram", || {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}.{}", "a".repeat(63), "b".repeat(63));
        let host = |n: usize| format!("m{n}.{long}.{}.demo.example", "c".repeat(63));
        let line = |n: usize| {
            let (host, ip) = (host(n), 11 + n);
            format!("{host} A 127.0.0.{ip}\n_etcd-server-blue._tcp.demo.example SRV 0 5 2380 {host}\n")
        };
        let zone: String = (0..3).map(line).collect();
        let _dns = Dns::serve(&(zone + &records("etcd-server", 9)));
        let start = |number: usize| {
            let flags = words("--discovery-srv=demo.example --discovery-srv-name=blue");
            let flags = [member_flags(number, "http"), flags].concat();
            Running::start(folder.path(), &format!("m{number}"), &flags, &[])
        };
        let _members: Vec<Running> = (0..3).map(start).collect();
        wait_for("the members to find each other", || {
            done("--endpoints=http://127.0.0.12:2379 --command-timeout=3s put k v", &[])
        });
        let list = done("--endpoints=http://127.0.0.12:2379 member list", &[]).unwrap();
        assert!((0..3).all(|n| list.contains(&format!("http://{}:2380", host(n)))), "{list}");
    });
}

#[test]
fn what_the_records_lack_is_told_in_a_line() {
    alone("what_the_records_lack_is_told_in_a_line", || {
        let folder = tempfile::tempdir().unwrap();
        let end = |flags: &str| {
            let flags = [member_flags(8, "http"), words(flags)].concat();
            Running::start(folder.path(), "m", &flags, &[]).end()
        };
        let lookup = |service: &str, domain: &str, why: &str| {
            format!("lookup _{service}._tcp.{domain} on 127.0.0.1:53: {why}")
        };
        let both = |domain: &str, why: &str| {
            let service = |service: &str| {
                let why = lookup(service, domain, why);
                format!("error querying DNS SRV records for _{service} {why}")
            };
            let (encrypted, plain) = (service("etcd-server-ssl"), service("etcd-server"));
            (Some(1), format!("etcd: error setting up initial cluster: {encrypted}; {plain}"))
        };
        let none = "--discovery-srv=none.example";
        assert_eq!(end(none), both("none.example", "connection refused"));

        let _dns = Dns::serve(&[HOSTS, &records("etcd-server", 2380)].concat());
        assert_eq!(end(none), both("none.example", "no such host"));
        let cannot =
            "etcd: error setting up initial cluster: cannot find local etcd member \"m8\" in SRV records";
        assert_eq!(end("--discovery-srv=demo.example"), (Some(1), cannot.to_owned()));
        let conflict = "etcd: multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\"";
        let given = "--discovery-srv=demo.example --initial-cluster=m8=http://127.0.0.19:2380";
        assert_eq!(end(given), (Some(1), conflict.to_owned()));
        assert!(!folder.path().join("m8").exists(), "nobody has lived there");

        let (encrypted, plain) = (
            lookup("etcd-client-ssl", "none.example", "no such host"),
            lookup("etcd-client", "none.example", "no such host"),
        );
        let nobody = format!("dns lookup errors: {encrypted} and {plain}");
        let v3 = refused("--discovery-srv none.example get k", &[]);
        assert_eq!(v3, (Some(1), format!("Error: {nobody}\n")));
        let v2 = refused("--discovery-srv none.example get k", &[("ETCDCTL_API", "2")]);
        assert_eq!(v2, (Some(1), format!("{nobody}\n")));
        let flags = words("etcd gateway start --discovery-srv=none.example");
        let gateway = Running::start(folder.path(), "gateway", &flags, &[]).end();
        assert_eq!(gateway, (Some(1), format!("etcd gateway: {nobody}")));
    });
}

fn tls_flags(Files { certificate, key }: &Files) -> Vec<String> {
    words(&format!("--peer-cert-file={} --peer-key-file={}", certificate.display(), key.display()))
}

#[test]
fn certificates_are_checked_for_the_host_or_the_domain() {
    alone("certificates_are_checked_for_the_host_or_the_domain", || {
        let folder = tempfile::tempdir().unwrap();
        let _dns = Dns::serve(&[HOSTS, &records("etcd-server-ssl", 2380)].concat());
        let ca = Ca::new(folder.path(), "ca");
        let (path, of_domain) = (ca.path().display().to_string(), ["demo.example"]);
        // With CAs of their own, members are who their records' hosts say; without,
        // they are whom the system trusts to be of the domain.
        let form = |name: &str, hosts: &dyn Fn(usize) -> String, has_ca: bool| {
            let place = folder.path().join(name);
            fs::create_dir(&place).unwrap();
            let start = |number: usize| {
                let files = ca.sign_hosts(&[&hosts(number)], &format!("{name}{number}"), number as u64 + 1);
                let mut flags = [member_flags(number, "https"), tls_flags(&files)].concat();
                flags.push("--discovery-srv=demo.example".to_owned());
                if has_ca {
                    flags.push(format!("--peer-trusted-ca-file={path}"));
                }
                Running::start(&place, &format!("m{number}"), &flags, &[("SSL_CERT_FILE", &path)])
            };
            (0..3).map(start).collect::<Vec<_>>()
        };
        let host = |number: usize| format!("m{number}.demo.example");
        let domain = |_| of_domain[0].to_owned();
        let put = || done("--endpoints=http://127.0.0.12:2379 --command-timeout=3s put k v", &[]);
        for (name, hosts, has_ca) in
            [("hosts", &host as &dyn Fn(usize) -> String, true), ("domain", &domain, false)]
        {
            let members = form(name, hosts, has_ca);
            wait_for(name, put);
            drop(members);
        }
        // A certificate for the host alone is none of the domain.
        let members = form("strangers", &host, false);
        wait_for("a refusal", || members[1].stderr().to_lowercase().contains("certificate").then_some(()));
        assert_eq!(put(), None);
    });
}
