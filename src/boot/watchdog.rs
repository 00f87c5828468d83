//! The watchdog: who restarts a machine on which nothing runs any more.
//!
//! Armed before the slot's own code runs, so that a release that hangs ends by
//! itself; systemd feeds it from then on.
//!
//! Source: the kernel's "watchdog-api".

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// Where the kernel lists them.
pub const SYS_WATCHDOG: &str = "/sys/class/watchdog";

/// The kernel's own timer: helps when programs hang, not when the kernel does.
const SOFTWARE: &str = "Software Watchdog";

/// The best watchdog of the machine: hardware before software, then by number.
pub fn choose(sys_watchdog: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(sys_watchdog).ok()?.flatten();
    let rank = |entry: &fs::DirEntry| {
        let identity = fs::read_to_string(entry.path().join("identity")).unwrap_or_default();
        (identity.trim() == SOFTWARE, entry.file_name())
    };
    let (_, name) = entries.map(|entry| rank(&entry)).min()?;
    Some(Path::new("/dev").join(name))
}

/// Starts it: the machine restarts unless somebody feeds it within `seconds`.
///
/// # Errors
/// When there is no such device, or it cannot wait as long as that.
pub fn arm(device: &Path, seconds: u32) -> io::Result<()> {
    /// `_IOWR('W', 6, int)`
    const WDIOC_SETTIMEOUT: libc::Ioctl = 0xc004_5706u32 as libc::Ioctl;
    let mut file = File::options().write(true).open(device)?;
    let mut seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: the request reads and writes one int.
    if unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut seconds) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // Closed without a 'V' before it, the watchdog goes on: that is the point.
    file.write_all(b"\0")
}

/// What systemd needs to know to feed it, as a file of its configuration.
pub fn systemd_configuration(device: &Path, seconds: u32) -> String {
    format!(
        "[Manager]\nWatchdogDevice={}\nRuntimeWatchdogSec={seconds}s\nRebootWatchdogSec=3min\n",
        device.display()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hardware_comes_before_software() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(choose(folder.path()), None);
        for (name, identity) in
            [("watchdog0", SOFTWARE), ("watchdog1", "i6300ESB timer"), ("watchdog2", "iTCO_wdt")]
        {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("identity"), format!("{identity}\n")).unwrap();
        }
        assert_eq!(choose(folder.path()), Some("/dev/watchdog1".into()));
        for name in ["watchdog1", "watchdog2"] {
            fs::remove_dir_all(folder.path().join(name)).unwrap();
        }
        assert_eq!(choose(folder.path()), Some("/dev/watchdog0".into()));
    }
}
