//! `backup`: a member's data dir, copied for a new cluster of one.

use std::path::Path;

use proa_etcd_server::snapshot::{Carried, SnapshotError, backup as copy};

use super::super::args::{Flag, switch, value};
use super::super::emit;
use super::{Context, End};

pub const BACKUP: &[Flag] = &[
    value("data-dir", "the member's data dir; it may run, and all that it has answered is copied"),
    value(
        "backup-dir",
        "the data dir to make; start it once with etcd --force-new-cluster --data-dir=BACKUP",
    ),
    switch("with-v3", "copy v3 keys, leases, users and roles too; the member must not run"),
    value("wal-dir", "not supported: the log is in the data dir"),
    value("backup-wal-dir", "not supported: the log is in the backup dir"),
];

pub async fn backup(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    let args = &context.args;
    for (flag, place) in [("wal-dir", "data dir"), ("backup-wal-dir", "backup dir")] {
        if args.get(flag).is_some() {
            return Err(End::plain(format!(
                "--{flag} is not supported, leave it out: the log is in the {place}"
            )));
        }
    }
    let folder = |flag: &str| match args.get(flag) {
        Some(path) if !path.is_empty() => Ok(Path::new(path)),
        Some(_) | None => Err(End::plain(format!("backup: needs --{flag}=FOLDER"))),
    };
    let (data_dir, backup_dir) = (folder("data-dir")?, folder("backup-dir")?);
    let what = if args.is_on("with-v3") { Carried::All } else { Carried::V2 };
    copy(data_dir, backup_dir, what).map_err(|error| {
        End::plain(match error {
            SnapshotError::NotEmpty { path } => {
                format!("backup: --backup-dir {} is not empty or cannot be read; give a new folder", path.display())
            }
            SnapshotError::Runs { .. } => {
                format!("backup: {error}, or leave --with-v3 out and save v3 data by ETCDCTL_API=3 etcdctl snapshot save")
            }
            other => format!("backup: {other}"),
        })
    })?;
    emit(&format!(
        "Backup of {} is in {}; start it once with etcd --force-new-cluster\n",
        data_dir.display(),
        backup_dir.display()
    ));
    Ok(())
}
