//! How QEMU runs the guest's instructions.

use crate::{
    error::{Error, doing},
    image::Image,
    spawn::{self, QEMU},
};
use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Within this a kernel that really runs under KVM has booted and ended: it takes
/// about a second, and a nested KVM that hangs never gets there.
const PROBE: Duration = Duration::from_secs(6);

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator: works anywhere, tens of times slower.
    Tcg,
}

impl Accel {
    /// The better one that really works here.
    ///
    /// A `/dev/kvm` that opens says little inside a virtual machine: the image's kernel is
    /// booted under it once, until it stops for want of a root, and only then believed.
    /// `PROA_ACCEL=kvm` or `tcg` decides without a look.
    ///
    /// # Errors
    /// [`Error::BadAccel`], or [`Error::Io`] when the probe's log cannot be kept in `dir`.
    pub fn find(image: &Image, dir: &Path) -> Result<Self, Error> {
        match env::var("PROA_ACCEL").unwrap_or_default().as_str() {
            "kvm" => return Ok(Self::Kvm),
            "tcg" => return Ok(Self::Tcg),
            "" => {}
            other => return Err(Error::BadAccel(other.to_owned())),
        }
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let log = dir.join("kvm-probe.log");
        fs::write(&log, "").map_err(doing(format!("writing {}", log.display())))?;
        Ok(if boots_under_kvm(image, &log) { Self::Kvm } else { Self::Tcg })
    }

    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

fn boots_under_kvm(image: &Image, log: &Path) -> bool {
    let mut command = Command::new(QEMU);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-cpu", "max"])
        .args(["-m", "256", "-no-reboot", "-kernel"])
        .arg(image.kernel())
        .args(["-append", "console=ttyS0 panic=-1", "-serial"])
        .arg(format!("file:{}", log.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(mut child) = spawn::spawn(command, None) else { return false };
    let deadline = Instant::now() + PROBE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(20));
    }
    let ended_itself = matches!(child.try_wait(), Ok(Some(_)));
    let _ = child.kill();
    let _ = child.wait();
    let text = fs::read(log).unwrap_or_default();
    ended_itself && String::from_utf8_lossy(&text).contains("Kernel panic - not syncing: VFS")
}
