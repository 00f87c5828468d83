//! Debian's etcdctl and ours, the same command lines in the same order, each
//! at a fresh member of ours: standard output and exit status are equal but for
//! ids, ports and times.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use etcd::{Cluster, proa};

/// A program that speaks etcdctl's language.
#[derive(Clone, Debug)]
struct Tool {
    program: PathBuf,
    first: &'static [&'static str],
    api: &'static str,
}

fn ours(api: &'static str) -> Tool {
    Tool { program: proa(), first: &["etcdctl"], api }
}

/// Debian's etcdctl of this version, unpacked by `buildroot/peers.sh`.
fn debian(version: &str, api: &'static str) -> Tool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/buildroot/peers.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{script} failed");
    let listed = String::from_utf8(output.stdout).unwrap();
    let folder = listed.lines().find_map(|line| line.strip_prefix(version)).map(str::trim);
    let folder = folder.unwrap_or_else(|| panic!("{script} has no {version}: {listed}"));
    Tool { program: PathBuf::from(folder).join("usr/bin/etcdctl"), first: &[], api }
}

/// What one command line did.
#[derive(Debug, PartialEq, Eq)]
struct Did {
    stdout: String,
    code: Option<i32>,
}

impl Tool {
    fn run(&self, url: &str, words: &[&str], input: &str) -> Did {
        let mut command = Command::new(&self.program);
        // etcd's refuses a flag that the environment has as well.
        if !words.iter().any(|word| word.starts_with("--endpoints")) {
            command.env("ETCDCTL_ENDPOINTS", url);
        }
        let mut child = command
            .args(self.first)
            .args(words)
            .env("ETCDCTL_API", self.api)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        // A command that reads nothing may have ended before this arrives.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).replace(url, "URL");
        Did { stdout: plain(&stdout), code: output.status.code() }
    }
}

/// The text without what differs from cluster to cluster and from run to run:
/// ids, terms, times, and the widths of cells that hold them.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | 'µ') {
            word.push(c);
            continue;
        }
        out += &plain_word(&word, &out);
        word.clear();
        let is_filler = matches!(c, ' ' | '-') && out.ends_with(c);
        if !is_filler && c != '\0' {
            out.push(c);
        }
    }
    out
}

fn plain_word(word: &str, before: &str) -> String {
    let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    let is_id = word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    let is_time = ["ms", "µs", "s"]
        .iter()
        .any(|unit| word.strip_suffix(unit).is_some_and(|n| n.contains('.') && n.parse::<f64>().is_ok()));
    let names = ["raft_term\":", "RaftTerm\" : ", "remaining(", "127.0.0.1:"];
    let varies = names.iter().any(|name| before.ends_with(name));
    if is_id || is_time || varies || (is_number && word.len() > 9) { "#".to_owned() } else { word.to_owned() }
}

/// For answers about the member itself, every number varies.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' | '.' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

/// Runs one script, a command a line, with both tools; words may be quoted.
fn same((theirs, left): (&Tool, &str), (own, right): (&Tool, &str), script: &str) {
    let mut differences = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (line, input) = line.split_once(" <<< ").unwrap_or((line, ""));
        let input = input.replace("\\n", "\n");
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let want = theirs.run(left, &words, &input);
        let got = own.run(right, &words, &input);
        let about_member = ["status", "hashkv", "health"].iter().any(|word| line.contains(word));
        let is_same = match about_member {
            true => want.code == got.code && without_numbers(&want.stdout) == without_numbers(&got.stdout),
            false => want == got,
        };
        if !is_same {
            differences.push(format!("{line}\n  theirs: {want:?}\n  ours:   {got:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(inner) => inner.split_once('\'').unwrap(),
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// Every form of what reads and writes, and of what describes.
fn every_form() -> String {
    let reads = [
        "get a",
        "get a --hex",
        "get bin",
        "get '' --prefix",
        "get a --prefix --keys-only",
        "get a --prefix --limit 1",
        "get a zz --order=DESCEND --sort-by=MODIFY",
        "get a --print-value-only",
        "get a --rev 2",
        "lease list",
        "lease timetolive 123 --keys",
        "lease timetolive 123",
        "member list",
        "endpoint status",
        "endpoint status --cluster",
        "endpoint health",
        "endpoint hashkv",
        "alarm disarm",
        "defrag",
    ];
    let writes = ["put k 1", "put k 2 --prev-kv", "put k --ignore-value", "del k --prev-kv", "del nothing"];
    let mut script = "put a 'x<&>\"é'\nput b y\nput bin '\u{1}\u{7f}\u{a0}'\n".to_owned();
    for form in ["simple", "json", "fields", "table"] {
        // A table of a write is refused here before the write, there after it.
        let writes = if form == "table" { &[][..] } else { &writes[..] };
        for line in reads.iter().chain(writes) {
            // etcdctl 3.5 dies of a nil pointer here.
            if (*line, form) == ("alarm disarm", "fields") {
                continue;
            }
            script += &format!("{line} -w {form}\n");
        }
    }
    script
}

/// Transactions, refusals, locks.
const THE_REST: &str = r#"
put a 1
txn <<< mod("a") > "0"\n\nput a 2\nget b\ndel c\n\n\n
txn -w json <<< mod("a") > "0"\n\nput a 3\nget b\ndel c\n\n\n
txn -w fields <<< mod("a") > "0"\n\nput a 4\nget b\ndel c\n\n\n
txn <<< val("a") = "nope"\n\n\nput a 5\n\n
txn -i <<< ver("a") = "7"\ncreate("a") < "9"\n\nget a\n\n\n
txn <<< mod(a) > "0"\n\n\n\n
txn <<< mod("a") > "x"\n\n\n\n
txn <<< mod("a") > "0"\n\nfoo a\n\n\n
txn <<< mod("a") > "0"
txn extra
get a --count-only -w fields
get a --count-only
get
get a --prefix b
get a --prefix --from-key
get b --from-key
get a --order foo
get a --sort-by foo
get a --consistency x
get a --consistency s
get a --rev 9999
put
put a
put a <<< from standard input
get a
put a b --lease=zz
put a b --lease=77
put a --ignore-value x
del
del a --prefix --from-key
del a b --range
watch
watch a --
watch a --rev 1 -- false
compaction
compaction x
compaction 3
compaction 3
compaction 9999
get a --rev 2
lease grant
lease grant x
lease grant 99999999999
lease grant 100
lease revoke
lease revoke zz
lease revoke 77
lease keep-alive 77 --once
lease keep-alive 77
lease keep-alive
member add
member add x
member add a http://foo
member remove
member remove zz
member remove 77
member update 77
member update 77 --peer-urls=http://a:1
member promote 77
member promote
move-leader
move-leader zz
move-leader 77
get a -w foo
lock
lock l1 -- sh -c 'test -n "$ETCD_LOCK_KEY" -a -n "$ETCD_LOCK_REV" && echo held; exit 7'
lock l1 -- true
lock l1 --ttl 5 -- sh -c 'kill -9 $$'
lock l1 nonexistent-command
elect
elect a
elect a b -l
make-mirror
get a --endpoints=127.0.0.1:1 --command-timeout=1s
endpoint health --endpoints=127.0.0.1:1 --command-timeout=1s
endpoint status --endpoints=127.0.0.1:1 --command-timeout=1s
check perf --load=foo
check datascale --load=foo
alarm list extra
alarm list
put q 1 --dial-timeout=0s
get q --dial-timeout=0
compact 1
compact 1
mem li
role gr r read x
lea time 1
m list
txn <<< mod("q") > "0"\n\nput "key \"with\" space" "value \x23\u00e9\101"\n\nput a b\n\n
get 'key "with" space'
txn <<< mod("q") > "0"\n\nput "a\d" b\n\n\n
"#;

/// Both tools at members of ours.
fn same_at_ours(script: &str) {
    let (left, right) = (Cluster::start(1, &[]), Cluster::start(1, &[]));
    let (left, right) = (&left.members[0].client_url, &right.members[0].client_url);
    same((&debian("3.5", "3"), left), (&ours("3"), right), script);
}

#[test]
fn every_form_of_every_answer_is_that_of_etcdctl() {
    same_at_ours(&every_form());
}

#[test]
fn refusals_have_the_exit_status_of_etcdctl() {
    same_at_ours(THE_REST);
}

/// Debian's etcd with the v2 API; killed when dropped.
struct Etcd {
    child: std::process::Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (url, peer) = (etcd::free_url(), etcd::free_url());
        let child = Command::new("/usr/bin/etcd")
            .arg("--enable-v2")
            .args(["--data-dir", folder.path().to_str().unwrap()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("/usr/bin/etcd: {error}; install the package etcd-server"));
        let own = Self { child, url, _folder: folder };
        let client = proa_etcd_client::Client::connect(std::slice::from_ref(&own.url)).unwrap();
        let runtime = etcd::runtime();
        etcd::wait_for("an etcd that serves", || {
            runtime.block_on(client.range(Default::default())).err().filter(|error| {
                // It refuses an empty key once it has a leader.
                error.is_refused(proa_etcd_client::Code::InvalidArgument)
            })
        });
        own
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The v2 commands. Order of names is asked for: without it etcd's is random.
const V2: &str = r#"
set /a 1
set /a 2
-o extended set /a 3
-o json set /a 4
get /a
-o extended get /a
-o json get /a
get a
get /nope
-o json get /nope
get
set
set /a
set /a <<< from standard input
mk /a 1
mk /b 1
mk --in-order /q x
-o json mk --in-order /q y
mk --ttl 100 /ttl x
mkdir /d
mkdir /d
mkdir --ttl 100 /dt
setdir /d2
setdir --ttl 50 /d2
set /d/x 1
set /d/y 2
set /d/sub/z 2
set /d 5
ls --sort
ls --sort /d
ls --sort -r /
ls --sort -p -r /
-o json ls --sort /d
-o extended ls --sort /d
ls /a
ls /nope
get /d
-o json get /d
update /a 9
update /nope 9
update --ttl 100 /a 10
updatedir --ttl 100 /d2
updatedir /nope
updatedir
set --swap-with-value 10 /a 11
set --swap-with-value zz /a 12
set --swap-with-index 1 /a 12
rm --with-value zz /a
rm --with-index 1 /a
-o json rm /a
rm /b
rm /nope
rm /d
rm --dir /d
-o json mkdir /jd
-o extended mkdir /jd3
-o json rmdir /jd
-o extended rmdir /jd3
-o extended rm -r /d
rmdir /d2
rmdir /nope
rmdir
rm
rm /
set / x
get /
set -- /dash -v
set /dash2 -v
get -q /dash
get --quorum --sort /dash
get /dash extra
set /x/ 1
set '/sp ace' 'va lue&<>'
-o json get '/sp ace'
set /_hidden 1
ls --sort -r
get /_hidden
watch --after-index 1 -r /
-o json watch --after-index 1 -r /
-o extended watch --after-index 1 -r /a
watch
exec-watch /dash
member list
member foo
member add x
member list extra
member remove 1
cluster-health
foo
get --foo /x
user list
user get nobody
user get
user add u1:pw
user get u1
role list
role add r1
role add r1
role grant r1 --path /x --read
role grant r1 --path /x
role grant r1 --read
role grant r1 --path x --rw
role grant r1 --path '/y/*' --rw
role get r1
role get nope
role revoke r1 --path '/x' --read
role revoke r1 --path '/x' --read
user grant u1
user grant u1 --roles r1
user grant u1 --roles r1
user get u1
user revoke u1 --roles r1
user remove u1
user remove u1
role remove r1
role remove r1
auth enable
auth disable
user add root:pw
auth enable
user list
-u root:pw user list
-u root:pw auth disable
auth enable x
--endpoints http://127.0.0.1:1 get /a
--endpoints http://127.0.0.1:1 --no-sync get /a
--endpoints http://127.0.0.1:1 cluster-health
--endpoints http://127.0.0.1:1 member list
"#;

#[test]
fn the_commands_of_api_version_2_are_those_of_etcdctl() {
    let (left, right) = (Etcd::start(), Etcd::start());
    let theirs = Tool { program: "/usr/bin/etcdctl".into(), first: &[], api: "2" };
    // Usage of unknown flags is etcdctl's own text; only the status is compared.
    let (with_usage, plain): (Vec<&str>, Vec<&str>) = V2.lines().partition(|line| line.contains("--foo"));
    same((&theirs, &left.url), (&ours("2"), &right.url), &plain.join("\n"));
    for line in with_usage {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let codes = (theirs.run(&left.url, &words, "").code, ours("2").run(&right.url, &words, "").code);
        assert_eq!(codes.0, codes.1, "{line}");
    }
}
