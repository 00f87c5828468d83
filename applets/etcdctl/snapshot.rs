//! `snapshot save|status|restore`: the store in a file of etcd's format.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use proa_etcd_server::config::Cluster;
use proa_etcd_server::node::NewMember;
use proa_etcd_server::snapshot::{Hash, Past, Restore, Snapshot, restore as make};
use serde_json::json;

use super::args::{Args, Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, human_bytes, line, table};
use super::{Context, emit};

pub const RESTORE: &[Flag] = &[
    value("data-dir", "where the member is to live (default NAME.etcd)"),
    value("name", "the member's name (default default)"),
    value("initial-cluster", "all first members, NAME=PEER-URL,... (default default=http://localhost:2380)"),
    value("initial-cluster-token", "keeps clusters apart (default etcd-cluster)"),
    value("initial-advertise-peer-urls", "where others reach it (default http://localhost:2380)"),
    switch("skip-hash-check", "take a copied database, which has no checksum"),
    value("bump-revision", "go on so much later than the snapshot (default 1000000000; 0: exactly there)"),
    switch("mark-compacted", "give up all before (default: yes, unless --bump-revision is given)"),
    value("initial-memory-map-size", "accepted, without effect"),
    value("wal-dir", "not supported: the log is in the data dir"),
];

/// Revisions that are left out by default: at 10 000 writes a second it takes
/// more than a day to write so many, so that no watcher can have seen a
/// revision behind it. Source: the figure in etcd's guide to recovery.
const BUMP: i64 = 1_000_000_000;

fn only_file(context: &Context) -> Result<&Path, Failure> {
    match context.args.rest.as_slice() {
        [file] => Ok(Path::new(file)),
        [] => Err(Failure::args("snapshot expects one argument: FILE")),
        _ => Err(Failure::args("snapshot expects one argument: FILE, and nothing behind it")),
    }
}

pub async fn save(context: &Context) -> Result<(), Failure> {
    let path = only_file(context)?;
    // One member's state and no mixture.
    let [_] = context.endpoints.as_slice() else {
        return Err(Failure::args("snapshot must be requested to one selected node, not multiple"));
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let saved = receive(context, part).await;
    if saved.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(part);
    }
    saved?;
    std::fs::rename(part, path).map_err(|error| could_not("rename", part, &error))?;
    emit(&format!("Snapshot saved at {}\n", path.display()));
    Ok(())
}

fn could_not(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!("cannot {action} {}: {error}", path.display()))
}

async fn receive(context: &Context, part: &Path) -> Result<(), Failure> {
    // It holds everybody's values and the hashes of passwords.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(part);
    let mut file = BufWriter::new(file.map_err(|error| could_not("make", part, &error))?);
    let mut pieces = context.client.snapshot().await?;
    let mut is_whole = false;
    while let Some(piece) = pieces.next().await? {
        file.write_all(&piece.blob).map_err(|error| could_not("write", part, &error))?;
        is_whole = piece.remaining_bytes == 0;
    }
    if !is_whole {
        return Err(Failure::error("the snapshot ended too early"));
    }
    let file = file.into_inner().map_err(|error| could_not("write", part, error.error()))?;
    file.sync_all().map_err(|error| could_not("sync", part, &error))?;
    let saved = Snapshot::open(part).and_then(|snapshot| snapshot.check(Hash::Checked));
    saved.map_err(|error| Failure::error(error.to_string()))
}

pub async fn status(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Protobuf])?;
    let path = only_file(context)?;
    let found = Snapshot::open(path).and_then(|snapshot| snapshot.summary());
    let found = found.map_err(|error| Failure::error(error.to_string()))?;
    let size = i64::try_from(found.total_bytes).unwrap_or(i64::MAX);
    let row = vec![
        format!("{:x}", found.hash),
        found.revision.to_string(),
        found.total_keys.to_string(),
        human_bytes(size),
    ];
    emit(&match context.printer.format {
        Format::Json => line(&json!({
            "hash": found.hash, "revision": found.revision, "totalKey": found.total_keys, "totalSize": size,
        })),
        Format::Fields => format!(
            "\"Hash\" : {}\n\"Revision\" : {}\n\"Keys\" : {}\n\"Size\" : {size}\n",
            found.hash, found.revision, found.total_keys
        ),
        Format::Table => table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], &[row]),
        Format::Simple | Format::Protobuf => row.join(", ") + "\n",
    });
    Ok(())
}

fn past(args: &Args) -> Result<Past, Failure> {
    let is_marked = args.is_on("mark-compacted");
    Ok(match args.get("bump-revision") {
        // `--mark-compacted=false` alone still bumps.
        None if is_marked || args.get("mark-compacted").is_none() => Past::GivenUp(BUMP),
        None => Past::Bumped(BUMP),
        Some(_) => match args.number("bump-revision", 0)? {
            0 if is_marked => {
                return Err(Failure::args(
                    "--mark-compacted required --bump-revision to be set to a positive value",
                ));
            }
            0 => Past::Kept,
            by if by < 0 => return Err(Failure::args("--bump-revision is a number from 0 on")),
            by if is_marked => Past::GivenUp(by),
            by => Past::Bumped(by),
        },
    })
}

pub async fn restore(context: &Context) -> Result<(), Failure> {
    let file = only_file(context)?;
    let args = &context.args;
    if args.get("wal-dir").is_some() {
        return Err(Failure::flag("--wal-dir is not supported, leave it out: the log is in the data dir"));
    }
    let past = past(args)?;
    let text = |name, otherwise: &str| args.get(name).unwrap_or(otherwise).to_owned();
    let name = text("name", "default");
    let urls = text("initial-advertise-peer-urls", "http://localhost:2380");
    let cluster = text("initial-cluster", "default=http://localhost:2380");
    let Cluster(cluster) = cluster.parse().map_err(|right: String| {
        Failure::args(format!("invalid argument {cluster:?} for \"--initial-cluster\" flag: {right}"))
    })?;
    let data_dir = args.get("data-dir").map_or_else(|| format!("{name}.etcd"), str::to_owned);
    let wanted = Restore {
        file: file.to_owned(),
        data_dir: data_dir.into(),
        member: NewMember {
            name,
            peer_urls: urls.split(',').map(|url| url.trim_end_matches('/').to_owned()).collect(),
            token: text("initial-cluster-token", "etcd-cluster"),
            cluster,
        },
        hash: if args.is_on("skip-hash-check") { Hash::Skipped } else { Hash::Checked },
        past,
    };
    let found = make(&wanted).map_err(|error| Failure::error(error.to_string()))?;
    let (dir, head) = (wanted.data_dir.display(), found.head);
    let gone = match head.compact_revision {
        revision if revision > 0 => format!(", history before revision {revision} given up"),
        _ => String::new(),
    };
    emit(&format!("Snapshot restored into {dir} at revision {}{gone}\n", head.revision));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_given_up_unless_told_otherwise() {
        #[rustfmt::skip]
        let rows = [
            ("f",                                    Past::GivenUp(BUMP)),
            ("f --mark-compacted=false",             Past::Bumped(BUMP)),
            ("f --bump-revision 5",                  Past::Bumped(5)),
            ("f --bump-revision=5 --mark-compacted", Past::GivenUp(5)),
            ("f --bump-revision=0",                  Past::Kept),
        ];
        for (line, want) in rows {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(past(&Args::parse(&words, RESTORE).unwrap()).unwrap(), want, "{line}");
        }
    }
}
