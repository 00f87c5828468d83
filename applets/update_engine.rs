//! `update_engine`: keeps this machine's system up to date.

use std::process::ExitCode;

use proa_update_engine::settings::{CONF_FILES, Config, PROGRAM};

use crate::{Applet, start};

/// This applet's row.
pub const APPLET: Applet = Applet { name: "update_engine", link: "/usr/sbin/update_engine", main };

/// Blocks from this size on are given back to the system when they are freed:
/// an operation's data and what it writes are larger.
const GIVE_BACK_FROM_BYTES: i32 = 64 << 10;

fn main(args: Vec<String>) -> ExitCode {
    if let Some(code) = start::about("update_engine", &args, || {
        format!("{}Files, the first that has a key counts: {}.\n", PROGRAM.help(), CONF_FILES.join(", "))
    }) {
        return code;
    }
    // SAFETY: called before other threads exist. One arena and no hoard of freed
    // blocks: the updater has 16 MiB.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, GIVE_BACK_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, GIVE_BACK_FROM_BYTES);
    }
    proa_base::log::start("info");
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("update_engine", &error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    start::daemon("update_engine", runtime, proa_update_engine::run(config))
}
