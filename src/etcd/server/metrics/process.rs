//! What the kernel knows of this process.
//!
//! Source: proc(5); the names are those of Prometheus's client libraries.

use std::fs;

use super::text::Text;

/// Fields of `/proc/self/stat`, counted after the name, which may hold anything.
const UTIME: usize = 11;
const STIME: usize = 12;
const START_TIME: usize = 19;
const VSIZE: usize = 20;
const RSS: usize = 21;

/// Writes what can be learned; a system that hides it has fewer lines.
pub fn render(text: &mut Text) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(stat) = Stat::parse(&stat) {
        render_stat(text, &stat);
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    text.gauge("process_open_fds", "Open file descriptors.", open);
    text.gauge("os_fd_used", "Open file descriptors.", open);
    if let Some(most) = limit(&limits, "Max open files") {
        text.gauge("process_max_fds", "File descriptors that may be open.", most);
        text.gauge("os_fd_limit", "File descriptors that may be open.", most);
    }
    let network = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    if let Some(bytes) = octets(&network, "InOctets") {
        let help = "Bytes received in the process's network namespace.";
        text.counter("process_network_receive_bytes_total", help, bytes);
    }
    if let Some(bytes) = octets(&network, "OutOctets") {
        let help = "Bytes sent in the process's network namespace.";
        text.counter("process_network_transmit_bytes_total", help, bytes);
    }
    // As Go's library says that there is no limit.
    let most = limit(&limits, "Max address space").unwrap_or(u64::MAX);
    text.gauge("process_virtual_memory_max_bytes", "Address space that may be used.", most);
}

fn render_stat(text: &mut Text, stat: &Stat) {
    // SAFETY: sysconf reads no memory of ours.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let ticks = f64::from(i32::try_from(ticks).unwrap_or(100).max(1));
    let page = u64::try_from(page).unwrap_or(4096);
    #[allow(clippy::cast_precision_loss, reason = "seconds, not an exact count")]
    let seconds = |count: u64| count as f64 / ticks;
    text.begin("process_cpu_seconds_total", "counter", "Processor time, user and system.")
        .value("", seconds(stat.cpu_ticks));
    text.gauge("process_resident_memory_bytes", "Memory in use.", stat.resident_pages * page);
    text.gauge("process_virtual_memory_bytes", "Address space in use.", stat.virtual_bytes);
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u32>().ok());
    if let Some(booted) = booted {
        let started = f64::from(booted) + seconds(stat.start_ticks);
        text.gauge("process_start_time_seconds", "When the process started, in Unix time.", started);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(UTIME)? + field(STIME)?,
            start_ticks: field(START_TIME)?,
            virtual_bytes: field(VSIZE)?,
            resident_pages: field(RSS)?,
        })
    }
}

/// A number of the rows `IpExt`: names in one, values in the next.
fn octets(netstat: &str, name: &str) -> Option<u64> {
    let mut rows = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (rows.next()?, rows.next()?);
    let at = names.split(' ').position(|found| found == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

/// The soft limit of this name, unless there is none.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "4 (a) b (c)) S 1 4 4 0 -1 4194560 11 0 0 0 70 30 0 0 20 0 9 0 555 8192 25 184 1 1";
        let want = Stat { cpu_ticks: 100, start_ticks: 555, virtual_bytes: 8192, resident_pages: 25 };
        assert_eq!(Stat::parse(text), Some(want));
        assert_eq!(Stat::parse("4 (a) S 1"), None);
    }

    #[test]
    fn octets_are_found_by_their_name() {
        let text = "TcpExt: A InOctets\nTcpExt: 1 2\nIpExt: A InOctets OutOctets\nIpExt: 3 4 5\n";
        assert_eq!((octets(text, "InOctets"), octets(text, "OutOctets")), (Some(4), Some(5)));
        assert_eq!(octets(text, "B"), None);
    }

    #[test]
    fn limits_are_soft_ones() {
        let text = "Limit  Soft Limit Hard Limit Units\nMax open files            1024  4096 files\n\
                    Max address space         unlimited unlimited bytes\n";
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit(text, "Max address space"), None);
    }
}
