//! Starts QEMU so that it cannot outlive this process.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{self, Sender},
    },
    thread,
};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// The descriptor number under which a child finds what it inherits; high, so that it
/// is none of those that starting a child takes.
pub const INHERITED: RawFd = 100;

type Job = (Command, Option<OwnedFd>, Sender<io::Result<Child>>);

/// Starts `command` with `inherit` as descriptor [`INHERITED`].
///
/// The kernel ends a child with the *thread* that started it, so all are started by
/// one thread that lives as long as the process.
///
/// Source: PR_SET_PDEATHSIG(2const).
pub fn spawn(command: Command, inherit: Option<OwnedFd>) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (command, inherit, answer) in jobs {
                let _ = answer.send(start(command, inherit));
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    starter.send((command, inherit, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

fn start(mut command: Command, inherit: Option<OwnedFd>) -> io::Result<Child> {
    let parent = std::process::id();
    let fd = inherit.as_ref().map(AsRawFd::as_raw_fd);
    let prepare = move || {
        // SAFETY: plain system calls, allowed between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above; then nobody would end us.
            if libc::getppid() != parent as libc::pid_t {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            match fd {
                // dup2 of a descriptor onto itself would keep close-on-exec.
                Some(INHERITED) if libc::fcntl(INHERITED, libc::F_SETFD, 0) != 0 => {
                    Err(io::Error::last_os_error())
                }
                Some(fd) if fd != INHERITED && libc::dup2(fd, INHERITED) < 0 => {
                    Err(io::Error::last_os_error())
                }
                Some(_) | None => Ok(()),
            }
        }
    };
    // SAFETY: the closure calls only async-signal-safe functions and does not allocate.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
