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

/// The best watchdog of the machine: hardware before the kernel's own timer, which
/// helps when programs hang, not when the kernel does; then by number.
///
/// The kernel's own has no device behind it, so it is listed as a virtual one.
pub fn choose(sys_watchdog: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(sys_watchdog).ok()?.flatten();
    let rank = |entry: &fs::DirEntry| {
        let device = fs::canonicalize(entry.path()).unwrap_or_default();
        (device.components().any(|part| part.as_os_str() == "virtual"), entry.file_name())
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
    use std::os::unix::fs::symlink;

    #[test]
    fn hardware_comes_before_software() {
        let sys = tempfile::tempdir().unwrap();
        let class = sys.path().join("class");
        fs::create_dir(&class).unwrap();
        assert_eq!(choose(&class), None);
        for (name, parent) in [
            ("watchdog0", "devices/virtual/watchdog"),
            ("watchdog1", "devices/pci0000:00/0000:00:01.0/watchdog"),
            ("watchdog2", "devices/platform/iTCO_wdt/watchdog"),
        ] {
            let device = sys.path().join(parent).join(name);
            fs::create_dir_all(&device).unwrap();
            symlink(device, class.join(name)).unwrap();
        }
        assert_eq!(choose(&class), Some("/dev/watchdog1".into()));
        for name in ["watchdog1", "watchdog2"] {
            fs::remove_file(class.join(name)).unwrap();
        }
        assert_eq!(choose(&class), Some("/dev/watchdog0".into()));
    }
}
