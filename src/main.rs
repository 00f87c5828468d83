//! The one binary: argv\[0\] names the command.

use proa_applets::APPLETS;
use std::{env, os::unix::fs::symlink, path::Path, process::ExitCode};

/// What shells answer for a command that does not exist.
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let mut args = env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(applet) = proa_applets::find(name) {
        return (applet.main)(args.collect());
    }
    let Some(first) = args.next() else { return usage() };
    if first == "--install-links" {
        return match args.next() {
            Some(dir) => install_links(Path::new(&dir)),
            None => usage(),
        };
    }
    match proa_applets::find(&first) {
        Some(applet) => (applet.main)(args.collect()),
        None => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: proa COMMAND [arguments], or through a link named COMMAND");
    eprintln!("       proa --install-links DIR");
    let names: Vec<_> = APPLETS.iter().map(|applet| applet.name).collect();
    eprintln!("commands: {}", names.join(" "));
    ExitCode::from(NOT_FOUND)
}

/// Makes every link of `symlinks.txt` below `root`, pointing at `/usr/bin/proa`.
fn install_links(root: &Path) -> ExitCode {
    for applet in APPLETS {
        let link = root.join(applet.link.trim_start_matches('/'));
        let made = link.parent().map_or(Ok(()), std::fs::create_dir_all);
        // A link of an earlier run gives way; anything else in its place is an error.
        if link.is_symlink() {
            let _ = std::fs::remove_file(&link);
        }
        if let Err(error) = made.and_then(|()| symlink("/usr/bin/proa", &link)) {
            eprintln!("proa: cannot make the link {}: {error}", link.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
