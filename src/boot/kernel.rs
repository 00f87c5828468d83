//! The slot's own kernel: whether it is the one that runs, and starting it when
//! it is not.

use crate::{cpio, sys};
use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

/// Where a slot keeps its kernel.
pub const KERNEL: &str = "usr/lib/proa/vmlinuz";

/// The word of the command line by which a kernel that we start is told its slot.
pub const SLOT_WORD: &str = "proa.slot";

/// The release of the kernel in a bzImage: what `uname -r` says while it runs.
///
/// # Errors
/// When the file is no bzImage.
///
/// Source: the kernel's "The Linux/x86 Boot Protocol", `header` and
/// `kernel_version`.
pub fn release_of(image: &File) -> io::Result<String> {
    const MAGIC_AT: u64 = 0x202;
    const VERSION_AT: u64 = 0x20e;
    const VERSION_BASE: u64 = 0x200;
    let not_one = || io::Error::new(io::ErrorKind::InvalidData, "no bzImage");
    let mut magic = [0; 4];
    image.read_exact_at(&mut magic, MAGIC_AT)?;
    if &magic != b"HdrS" {
        return Err(not_one());
    }
    let mut pointer = [0; 2];
    image.read_exact_at(&mut pointer, VERSION_AT)?;
    let mut text = [0; 128];
    image.read_exact_at(&mut text, VERSION_BASE + u64::from(u16::from_le_bytes(pointer)))?;
    let text = text.split(|byte| *byte == 0 || *byte == b' ').next().unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| not_one())
}

/// The command line for the slot's kernel: ours, and the slot.
pub fn command_line(ours: &str, slot: &str) -> String {
    let before = ours.split_whitespace().filter(|word| !word.starts_with(&format!("{SLOT_WORD}=")));
    before.chain([format!("{SLOT_WORD}={slot}").as_str()]).collect::<Vec<_>>().join(" ")
}

/// Loads a kernel beside the running one, with the program as its `/init`.
///
/// The initramfs is made here, for the program is in the slot anyway: a second
/// copy in it would make every update larger.
///
/// # Errors
/// What the kernel says to one of the steps.
pub fn load(image: &File, program: &Path, command_line: &str) -> io::Result<()> {
    let mut archive = sys::memory_file("initramfs")?;
    cpio::write_initramfs(&mut archive, &fs::read(program)?)?;
    archive.flush()?;
    archive.seek(SeekFrom::Start(0))?;
    sys::kexec_load(image.as_raw_fd(), archive.as_raw_fd(), command_line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_told_once_and_last() {
        let line = command_line("console=ttyS0  proa.slot=old quiet\n", "new");
        assert_eq!(line, "console=ttyS0 quiet proa.slot=new");
    }

    #[test]
    fn only_a_bzimage_has_a_release() {
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x510].copy_from_slice(b"6.12.9-proa-1 (a");
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&image, 0).unwrap();
        assert_eq!(release_of(&file).unwrap(), "6.12.9-proa-1");
        file.write_all_at(b"hdrs", 0x202).unwrap();
        assert_eq!(release_of(&file).unwrap_err().to_string(), "no bzImage");
    }
}
