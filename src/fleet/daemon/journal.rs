//! What a unit printed and how it is: the output of `journalctl` and `systemctl` as a body.
//!
//! The unit's name is the only word of these command lines that comes from
//! outside. It was checked when it was read ([`UnitName`]) and stands behind
//! `=` or `--`, so that none is taken for an option.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    str::FromStr,
    time::Duration,
};

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use proa_fleet_model::unit_name::UnitName;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
};

use crate::http::Body;

/// The most lines of a journal that one request may ask for.
pub const MAX_LINES: u32 = 100_000;
/// How much is read from the child at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// `systemctl status` prints a page; one that prints more is cut here.
const MAX_STATUS_BYTES: u64 = 1 << 20;
/// `systemctl status` asks the manager a few questions.
const STATUS_TIMEOUT: Duration = Duration::from_secs(15);

/// How a line of the journal looks. Source: journalctl(1), `--output`; the binary
/// `export` is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output(&'static str);

impl Output {
    /// What fleetctl asks for when nobody says otherwise.
    pub const SHORT: Self = Self("short");
    const ALL: [&'static str; 14] = [
        "short",
        "short-full",
        "short-iso",
        "short-iso-precise",
        "short-precise",
        "short-monotonic",
        "short-delta",
        "short-unix",
        "verbose",
        "json",
        "json-pretty",
        "json-seq",
        "cat",
        "with-unit",
    ];
}

/// A text that is no [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown journal output {0:?}; give short, short-iso, short-precise, cat, json, verbose or with-unit"
)]
pub struct BadOutput(String);

impl FromStr for Output {
    type Err = BadOutput;

    fn from_str(text: &str) -> Result<Self, BadOutput> {
        let known = Self::ALL.into_iter().find(|known| *known == text);
        known.map(Self).ok_or_else(|| BadOutput(text.to_owned()))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Which part of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How many of the newest lines, at most [`MAX_LINES`].
    pub lines: u32,
    /// Whether to go on with what is printed from then on.
    pub follow: bool,
    /// How each line looks.
    pub output: Output,
}

/// Whose units: the system's or the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Units of the machine.
    System,
    /// Units of the user that this process belongs to.
    User,
}

/// The journal of a unit on this machine. Dropping the body ends the reading and drops `place`.
///
/// # Errors
/// When `journalctl` cannot be started.
pub fn journal<P: Send + 'static>(
    unit: &UnitName,
    scope: Scope,
    request: Request,
    place: P,
) -> io::Result<Body> {
    let mut command = Command::new("journalctl");
    let field = match scope {
        Scope::System => "--unit",
        Scope::User => "--user-unit",
    };
    command
        .arg("--no-pager")
        .arg(format!("--lines={}", request.lines))
        .arg(format!("--output={}", request.output));
    command.arg(format!("{field}={unit}"));
    if request.follow {
        command.arg("--follow");
    }
    let (child, output) = spawn(command, "journalctl")?;
    Ok(stream_of(child, output, place))
}

/// How a unit is on this machine: what `systemctl status` prints, and its exit status
/// (0 active, 3 not active, 4 unknown).
///
/// # Errors
/// When `systemctl` cannot be started or does not end.
pub async fn status(unit: &UnitName, scope: Scope) -> io::Result<(i32, Vec<u8>)> {
    let mut command = Command::new("systemctl");
    if scope == Scope::User {
        command.arg("--user");
    }
    command.args(["status", "--no-pager", "--full", "--"]).arg(unit.as_str());
    let (mut child, output) = spawn(command, "systemctl")?;
    let run = async {
        let mut text = Vec::new();
        output.take(MAX_STATUS_BYTES).read_to_end(&mut text).await?;
        Ok::<_, io::Error>((exit_code(child.wait().await?), text))
    };
    tokio::time::timeout(STATUS_TIMEOUT, run).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A child killed by a signal has no code; shells say 128 plus the signal, and so do we with 1.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}

/// Starts a program with its output and its complaints in one pipe, in their order.
fn spawn(mut command: Command, program: &str) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let second = writer.try_clone()?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second).kill_on_drop(true);
    let cannot = |error: io::Error| io::Error::new(error.kind(), format!("cannot run {program}: {error}"));
    let child = command.spawn().map_err(cannot)?;
    // The command holds this side's writers: the pipe ends when the child does.
    drop(command);
    Ok((child, pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

fn stream_of<P: Send + 'static>(child: Child, output: pipe::Receiver, place: P) -> Body {
    // The child and its place travel with the stream: dropping that ends them.
    let chunks = stream::try_unfold((child, output, place), |(child, mut output, place)| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = output.read(&mut chunk).await?;
        chunk.truncate(count);
        Ok((count > 0).then(|| (Frame::data(Bytes::from(chunk)), (child, output, place))))
    });
    StreamBody::new(chunks).boxed_unsync()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_and_complaints_come_in_order_and_end() {
        let (child, output) = spawn(shell("echo one; echo two >&2; echo three"), "sh").unwrap();
        let body = stream_of(child, output, ()).collect().await.unwrap().to_bytes();
        assert_eq!(body, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn dropping_the_body_ends_the_child() {
        let (child, output) = spawn(shell("echo $$; exec sleep 600"), "sh").unwrap();
        let mut body = stream_of(child, output, ());
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let pid = String::from_utf8(first.to_vec()).unwrap().trim().to_owned();
        drop(body);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let runs =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(tokio::time::Instant::now() < deadline, "child {pid} still runs");
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn only_known_outputs_reach_the_command_line() {
        assert_eq!("cat".parse(), Ok(Output("cat")));
        for odd in ["", "-f", "export", "short --vacuum-size=1", "SHORT"] {
            assert!(odd.parse::<Output>().is_err(), "{odd:?}");
        }
    }
}
