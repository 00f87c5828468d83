//! The mounts of the initramfs, and leaving it for the real root.

use crate::sys;
use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Where the chosen slot is mounted before it becomes the root.
pub const SYSROOT: &str = "/sysroot";

/// The init of a root file system, by the name its package gives it.
///
/// `/sbin/init` is a link to it; an absolute link could not be followed from
/// outside the root.
pub const INIT: &str = "/usr/lib/systemd/systemd";

/// What could not be mounted, made or moved.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct MountError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Turns an io result into one that says what was done to which path.
pub fn told<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<T, MountError> {
    result.map_err(|source| MountError { action, path: path.to_owned(), source })
}

/// Mounts `/proc`, `/sys`, `/dev` and `/run`.
pub fn early() -> Result<(), MountError> {
    let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let mounts = [
        ("proc", "/proc", plain, ""),
        ("sysfs", "/sys", plain, ""),
        ("devtmpfs", "/dev", libc::MS_NOSUID, "mode=0755"),
        ("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755"),
    ];
    for (kind, target, flags, options) in mounts {
        let target = Path::new(target);
        told(fs::create_dir_all(target), "create", target)?;
        match sys::mount(Path::new(kind), target, kind, flags, options) {
            // The kernel may have mounted /dev by itself.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            result => told(result, "mount", target)?,
        }
    }
    Ok(())
}

/// Mounts a slot's file system read-only and checks that it can be started.
pub fn slot(device: &Path, file_system: &str) -> Result<(), MountError> {
    let root = Path::new(SYSROOT);
    told(fs::create_dir_all(root), "create", root)?;
    told(sys::mount(device, root, file_system, libc::MS_RDONLY, ""), "mount", device)?;
    let init = PathBuf::from(format!("{SYSROOT}{INIT}"));
    let found = fs::metadata(&init).and_then(|metadata| match metadata.permissions().mode() & 0o111 {
        0 => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        _ => Ok(()),
    });
    if found.is_err() {
        told(sys::unmount(root), "unmount", root)?;
    }
    told(found, "start", &init)
}

/// Mounts the state partition on the new root's `/var` and makes the folders
/// that a fresh one lacks.
pub fn state(device: &Path, file_system: &str) -> Result<(), MountError> {
    let var = PathBuf::from(format!("{SYSROOT}/var"));
    told(sys::mount(device, &var, file_system, libc::MS_NOATIME, ""), "mount", device)?;
    folders(&var)
}

/// The folders of an empty `/var`, as file-hierarchy(7) and Proa want them.
fn folders(var: &Path) -> Result<(), MountError> {
    for (name, mode) in [
        ("cache", 0o755),
        ("lib", 0o755),
        ("lib/proa", 0o755),
        ("log", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
    ] {
        let path = var.join(name);
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The umask must not take the sticky folder's bits.
            result => {
                told(result, "create", &path)?;
                told(fs::set_permissions(&path, fs::Permissions::from_mode(mode)), "create", &path)?;
            }
        }
    }
    for (name, target) in [("run", "/run"), ("lock", "/run/lock")] {
        let path = var.join(name);
        match symlink(target, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => told(result, "create", &path)?,
        }
    }
    Ok(())
}

/// Puts `file` in place of `target`, read-only.
pub fn cover(file: &Path, target: &Path) -> Result<(), MountError> {
    let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
    let covered = sys::mount(file, target, "", libc::MS_BIND, "")
        .and_then(|()| sys::mount(Path::new(""), target, "", read_only, ""));
    told(covered, "mount a file over", target)
}

/// Makes the new root the root and becomes its init; returns only on failure.
///
/// Source: the kernel's "ramfs, rootfs and initramfs": rootfs can be neither
/// unmounted nor pivoted away, so its files are removed to free their memory
/// and the new root is mounted over it.
pub fn switch_root() -> Result<std::convert::Infallible, MountError> {
    let root = Path::new(SYSROOT);
    for name in ["dev", "proc", "sys", "run"] {
        let target = root.join(name);
        let moved = sys::mount(&Path::new("/").join(name), &target, "", libc::MS_MOVE, "");
        told(moved, "move a mount to", &target)?;
    }
    told(std::env::set_current_dir(root), "enter", root)?;
    empty_initramfs()?;
    told(sys::mount(Path::new("."), Path::new("/"), "", libc::MS_MOVE, ""), "move to /", root)?;
    told(std::os::unix::fs::chroot("."), "make the root", root)?;
    told(std::env::set_current_dir("/"), "enter", Path::new("/"))?;
    let path = CString::new(INIT).expect("a constant without a zero byte");
    let name = CString::new("/sbin/init").expect("a constant without a zero byte");
    let arguments = [name.as_ptr(), std::ptr::null()];
    // SAFETY: two zero-terminated strings and a null-terminated array that
    // live until the call replaces this program.
    unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
    told(Err(io::Error::last_os_error()), "start", Path::new(INIT))
}

/// Removes the files of the initramfs: this program alone is some megabytes.
fn empty_initramfs() -> Result<(), MountError> {
    /// Source: linux/magic.h.
    const RAMFS: i64 = 0x8584_58f6;
    const TMPFS: i64 = 0x0102_1994;
    let root = Path::new("/");
    let magic = told(sys::file_system_magic(root), "look at", root)?;
    // Anything but memory may be somebody's disk.
    if magic == RAMFS || magic == TMPFS {
        let device = told(fs::symlink_metadata(root), "look at", root)?.dev();
        remove_below(root, device);
    }
    Ok(())
}

/// Removes what is on `device` below `folder`. What cannot be removed stays in
/// memory, which costs some and breaks nothing.
fn remove_below(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            remove_below(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_once_and_then_left_alone() {
        let var = tempfile::tempdir().unwrap();
        folders(var.path()).unwrap();
        let mode = |name: &str| fs::metadata(var.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("lib/proa"), mode("tmp")), (0o755, 0o1777));
        assert_eq!(fs::read_link(var.path().join("run")).unwrap(), Path::new("/run"));
        fs::set_permissions(var.path().join("log"), fs::Permissions::from_mode(0o700)).unwrap();
        folders(var.path()).unwrap();
        assert_eq!(mode("log"), 0o700, "what is there is the owner's");
    }

    #[test]
    fn emptying_stays_on_its_device() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "x").unwrap();
        symlink("/etc", folder.path().join("a/link")).unwrap();
        let device = fs::metadata(folder.path()).unwrap().dev();
        remove_below(folder.path(), device + 1);
        assert!(folder.path().join("a/b/c").exists(), "another device's files stay");
        remove_below(folder.path(), device);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Path::new("/etc").exists(), "links are removed, not followed");
    }
}
