//! The device-mapper: a device whose blocks the kernel checks when they are read.
//!
//! Own code because it is five requests with one line of table, and the crates
//! for it bring the whole of the device-mapper and libudev's habits.
//!
//! Source: linux/dm-ioctl.h, interface version 4.

use proa_update_model::verity::DmTable;
use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

const CONTROL: &str = "/dev/mapper/control";

/// Header of a request: `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// One line of a table: `struct dm_target_spec`; its parameters follow.
#[repr(C)]
#[derive(Clone, Copy)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const HEADER_BYTES: usize = size_of::<Header>();
const TARGET_BYTES: usize = size_of::<Target>();

/// Parameters of a verity target take some 300 bytes.
const PARAMETERS_MOST: usize = 1024;

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// The requests, by their number.
#[derive(Clone, Copy)]
enum Request {
    Create = 3,
    Remove = 4,
    /// `DM_DEV_SUSPEND`, which resumes when its flag is not set.
    Resume = 6,
    LoadTable = 9,
}

/// A buffer of the kernel's layout: header, target, parameters.
#[repr(C)]
struct Message {
    header: Header,
    target: Target,
    parameters: [u8; PARAMETERS_MOST],
}

fn message(name: &str) -> io::Result<Message> {
    let mut header = Header {
        version: [4, 0, 0],
        data_size: size_of::<Message>() as u32,
        data_start: HEADER_BYTES as u32,
        target_count: 0,
        open_count: 0,
        flags: READ_ONLY,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    put_text(&mut header.name, name)?;
    let target = Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16] };
    Ok(Message { header, target, parameters: [0; PARAMETERS_MOST] })
}

/// Copies a text so that a zero stays behind it.
fn put_text(place: &mut [u8], text: &str) -> io::Result<()> {
    if text.len() >= place.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is too long")));
    }
    place[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

fn ask(request: Request, message: &mut Message) -> io::Result<()> {
    // _IOWR(0xfd, request, struct dm_ioctl)
    let number = (3 << 30) | ((HEADER_BYTES as u64) << 16) | (0xfd << 8) | request as u64;
    let control = File::options().read(true).write(true).open(CONTROL)?;
    // SAFETY: the buffer is as long as its data_size says, and the kernel writes
    // no more than that.
    let result =
        unsafe { libc::ioctl(control.as_raw_fd(), number as libc::Ioctl, std::ptr::from_mut(message)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a read-only device that checks what it reads, and returns its path.
///
/// # Errors
/// What the kernel says: a table that does not fit the device, or no
/// device-mapper.
pub fn make(name: &str, table: &DmTable) -> io::Result<PathBuf> {
    let mut created = message(name)?;
    ask(Request::Create, &mut created)?;
    let started = start(name, table);
    if let Err(error) = started {
        // What was made is of no use; that it may stay is no second error.
        let _ = remove(name);
        return Err(error);
    }
    Ok(PathBuf::from(format!("/dev/dm-{}", libc::minor(created.header.dev))))
}

fn start(name: &str, table: &DmTable) -> io::Result<()> {
    let mut load = message(name)?;
    load.header.target_count = 1;
    load.target.length = table.sectors;
    load.target.next = (TARGET_BYTES + PARAMETERS_MOST) as u32;
    put_text(&mut load.target.target_type, DmTable::TARGET)?;
    put_text(&mut load.parameters, &table.parameters)?;
    ask(Request::LoadTable, &mut load)?;
    ask(Request::Resume, &mut message(name)?)
}

/// Takes a device away again.
///
/// # Errors
/// What the kernel says: it is in use, or there is none.
pub fn remove(name: &str) -> io::Result<()> {
    ask(Request::Remove, &mut message(name)?)
}

/// `major:minor` of a partition, by which a table names it.
///
/// # Errors
/// When the kernel has no such device.
pub fn number_of(device: &Path) -> io::Result<String> {
    let name = device.file_name().unwrap_or_default();
    Ok(fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((HEADER_BYTES, TARGET_BYTES), (312, 40));
        assert_eq!(
            (offset_of!(Header, dev), offset_of!(Header, name), offset_of!(Header, uuid)),
            (40, 48, 176)
        );
        assert_eq!((offset_of!(Message, target), offset_of!(Message, parameters)), (312, 352));
    }
}
