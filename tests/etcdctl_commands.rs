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
