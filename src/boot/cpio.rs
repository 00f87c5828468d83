//! The archive that a kernel unpacks as its first root: format "newc" of cpio.
//!
//! Source: the kernel's "initramfs buffer format".

use std::io::{self, Write};

/// Names and contents start at multiples of this.
const ALIGNMENT: usize = 4;

const FOLDER: u32 = 0o040755;
const PROGRAM: u32 = 0o100755;

/// The empty folders that `/init` mounts on.
const FOLDERS: [&str; 5] = ["dev", "proc", "run", "sys", "sysroot"];

/// Writes an archive of `/init`, whose bytes are `program`, and the folders it
/// needs.
///
/// # Errors
/// What `out` says.
pub fn write_initramfs(out: &mut impl Write, program: &[u8]) -> io::Result<()> {
    let mut inode = 0;
    let mut member = |out: &mut _, name: &str, mode: u32, bytes: &[u8]| {
        inode += 1;
        write_member(out, inode, name, mode, bytes)
    };
    for folder in FOLDERS {
        member(out, folder, FOLDER, &[])?;
    }
    member(out, "init", PROGRAM, program)?;
    member(out, "TRAILER!!!", 0, &[])
}

fn write_member(out: &mut impl Write, inode: u32, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a program of over 4 GiB"))?;
    let links = 1;
    let name_bytes = name.len() as u32 + 1;
    // Owner, time, devices and checksum are 0.
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_bytes, 0];
    let mut header = String::from("070701");
    for field in fields {
        header += &format!("{field:08x}");
    }
    header += name;
    header.push('\0');
    write_padded(out, header.as_bytes())?;
    write_padded(out, bytes)
}

/// What stands before is a multiple of four long, so only the length counts.
fn write_padded(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.write_all(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    #[test]
    fn cpio_unpacks_the_program_and_the_folders() {
        for length in 0..=5 {
            let program = &b"#!/bin"[..length];
            let mut archive = Vec::new();
            write_initramfs(&mut archive, program).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut cpio = Command::new("/usr/bin/cpio")
                .args(["--quiet", "--extract", "--no-preserve-owner"])
                .current_dir(folder.path())
                .stdin(Stdio::piped())
                .spawn()
                .expect("/usr/bin/cpio, of the package cpio");
            cpio.stdin.take().unwrap().write_all(&archive).unwrap();
            assert!(cpio.wait().unwrap().success());
            let init = folder.path().join("init");
            assert_eq!(fs::read(&init).unwrap(), program);
            assert_eq!(fs::metadata(&init).unwrap().permissions().mode() & 0o777, 0o755);
            assert!(FOLDERS.iter().all(|name| folder.path().join(name).is_dir()));
        }
    }
}
