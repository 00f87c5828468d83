//! The system calls that the standard library has no safe form of.

use std::{
    ffi::CString,
    fs::File,
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in a name"))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// mount(2). `source` and `kind` may be empty where the flags make them moot.
pub fn mount(
    source: &Path,
    target: &Path,
    kind: &str,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let source = text(source.as_os_str().as_bytes())?;
    let target = text(target.as_os_str().as_bytes())?;
    let kind = text(kind.as_bytes())?;
    let options = text(options.as_bytes())?;
    // SAFETY: four zero-terminated strings that outlive the call.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    check(result).map(drop)
}

/// Takes the mount at `target` out of sight at once.
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = text(target.as_os_str().as_bytes())?;
    // SAFETY: a zero-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Makes `file` the standard input, output and error.
pub fn become_stdio(file: &impl AsRawFd) -> io::Result<()> {
    for standard in 0..=2 {
        // SAFETY: dup2 of an open descriptor onto the standard ones, which no
        // object of this process owns.
        check(unsafe { libc::dup2(file.as_raw_fd(), standard) })?;
    }
    Ok(())
}

/// sethostname(2).
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sixteen bytes of the kernel's random numbers; waits until they are good.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: writes at most 16 bytes into the array.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole once the generator is ready (getrandom(2)).
    if got == 16 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Flushes what is written and restarts the machine; returns only on failure.
pub fn restart() -> io::Error {
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    io::Error::last_os_error()
}

/// Starts the kernel that [`kexec_load`] loaded; returns only on failure.
pub fn start_loaded_kernel() -> io::Error {
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_KEXEC);
    }
    io::Error::last_os_error()
}

/// kexec_file_load(2).
pub fn kexec_load(kernel: RawFd, initramfs: RawFd, command_line: &str) -> io::Result<()> {
    let line = text(command_line.as_bytes())?;
    let bytes = line.as_bytes_with_nul().len();
    // SAFETY: a zero-terminated string of the length that is told.
    let result =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initramfs, bytes, line.as_ptr(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file that is only in memory.
pub fn memory_file(name: &str) -> io::Result<File> {
    let name = text(name.as_bytes())?;
    // SAFETY: a zero-terminated string; a descriptor it returns is ours.
    unsafe { Ok(File::from_raw_fd(check(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?)) }
}

/// Becomes another program in the same process; returns only on failure.
pub fn become_program(path: &Path, arguments: &[&str]) -> io::Error {
    let run = || -> io::Result<()> {
        let path = text(path.as_os_str().as_bytes())?;
        let arguments: Vec<_> =
            arguments.iter().map(|word| text(word.as_bytes())).collect::<Result<_, _>>()?;
        let pointers: Vec<_> = arguments.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
        // SAFETY: zero-terminated strings and a null-terminated array that live
        // until the call replaces this program.
        unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
        Err(io::Error::last_os_error())
    };
    run().expect_err("execv returns only on failure")
}

/// What statfs(2) calls the type of the file system at `path`.
pub fn file_system_magic(path: &Path) -> io::Result<i64> {
    let path = text(path.as_os_str().as_bytes())?;
    // SAFETY: all zero is a valid value of this plain structure.
    let mut told: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a zero-terminated string and a structure that outlive the call.
    check(unsafe { libc::statfs(path.as_ptr(), &mut told) })?;
    Ok(told.f_type)
}

/// One network interface, asked by the ioctls of netdevice(7).
pub struct Interface {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Interface {
    /// The interface called `name`; it need not exist yet.
    pub fn new(name: &str) -> io::Result<Self> {
        let mut chars = [0; libc::IFNAMSIZ];
        if name.len() >= chars.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name has over 15 characters"));
        }
        for (place, byte) in chars.iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        // SAFETY: socket takes no pointers; a descriptor it returns is ours.
        let socket = unsafe {
            let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { socket, name: chars })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all zero is a valid value of this plain structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn ask(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every request used here reads and writes one ifreq.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), number, request) }).map(drop)
    }

    /// Its number.
    pub fn index(&self) -> io::Result<i32> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: the kernel filled this member.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Its hardware address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: the kernel filled this member.
        let bytes = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(std::array::from_fn(|at| bytes[at] as u8))
    }

    /// Turns it on.
    pub fn up(&self) -> io::Result<()> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the kernel filled this member.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
        self.ask(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Gives it its address, and with it the route to the network around it.
    pub fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr, broadcast: Ipv4Addr) -> io::Result<()> {
        // The address comes first: it sets mask and broadcast by class.
        let values =
            [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask), (libc::SIOCSIFBRDADDR, broadcast)];
        for (number, value) in values {
            let mut request = self.request();
            let mut data = [0; 14];
            // sockaddr_in in its generic form: two bytes of port, the address.
            for (place, byte) in data[2..6].iter_mut().zip(value.octets()) {
                *place = byte as libc::c_char;
            }
            request.ifr_ifru.ifru_addr =
                libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data };
            self.ask(number, &mut request)?;
        }
        Ok(())
    }
}

/// A socket for the ARP packets of one interface, without their frames.
pub struct ArpSocket {
    socket: OwnedFd,
    everybody: libc::sockaddr_ll,
}

impl ArpSocket {
    /// Listens on the interface with this number.
    pub fn open(interface_index: i32) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ARP as u16).to_be();
        // SAFETY: socket takes no pointers; a descriptor it returns is ours.
        let socket = unsafe {
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
            OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, protocol.into()))?)
        };
        // SAFETY: all zero is a valid value of this plain structure.
        let mut everybody: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        everybody.sll_family = libc::AF_PACKET as u16;
        everybody.sll_protocol = protocol;
        everybody.sll_ifindex = interface_index;
        everybody.sll_halen = 6;
        everybody.sll_addr[..6].fill(0xff);
        let (address, bytes) = Self::raw(&everybody);
        // SAFETY: the pointer and the length are those of `everybody`.
        check(unsafe { libc::bind(socket.as_raw_fd(), address, bytes) })?;
        Ok(Self { socket, everybody })
    }

    fn raw(address: &libc::sockaddr_ll) -> (*const libc::sockaddr, libc::socklen_t) {
        (std::ptr::from_ref(address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }

    /// Sends a packet to everybody.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let (address, bytes) = Self::raw(&self.everybody);
        // SAFETY: both pointers and lengths are those of living objects.
        let sent = unsafe {
            libc::sendto(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, address, bytes)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for a packet; its length, or `None` when none came in time.
    pub fn receive(&self, packet: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let wait_ms = libc::c_int::try_from(wait.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one pollfd, as the count says.
        if check(unsafe { libc::poll(&mut poll, 1, wait_ms) })? == 0 {
            return Ok(None);
        }
        let fd = self.socket.as_raw_fd();
        // SAFETY: writes at most the buffer's length into it.
        let got = unsafe { libc::recv(fd, packet.as_mut_ptr().cast(), packet.len(), 0) };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(Some(got as usize)) }
    }
}
