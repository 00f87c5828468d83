//! Calls this host's `fleetctl` against a machine of the cluster.

use std::{
    io,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// `fleetctl` with an endpoint.
pub struct Fleet {
    /// The one binary.
    pub proa: PathBuf,
    /// `http://127.0.0.1:PORT` of a machine's fleetd.
    pub endpoint: String,
}

impl Fleet {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.proa);
        command.arg("fleetctl").arg(format!("--endpoint={}", self.endpoint)).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// Its last line of error output, or that it could not be run.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        answer(self.command(arguments).output())
    }

    /// Prints the command as a user would type it, runs it, and lets it print.
    ///
    /// # Errors
    /// That it failed; it has said why.
    pub fn show(&self, arguments: &[&str]) -> Result<(), String> {
        println!("\n$ fleetctl {}", arguments.join(" "));
        match self.command(arguments).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("fleetctl {}: {status}", arguments.join(" "))),
            Err(error) => Err(format!("{}: {error}", self.proa.display())),
        }
    }

    /// The machines that the cluster knows, as one line each.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn machines(&self) -> Result<Vec<String>, String> {
        Ok(lines(&self.ask(&["list-machines", "--no-legend"])?))
    }

    /// The line of `list-units` about one unit: its machine and its states.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn unit(&self, name: &str) -> Result<Option<String>, String> {
        let units = lines(&self.ask(&["list-units", "--no-legend"])?);
        Ok(units.into_iter().find(|line| line.split_whitespace().next() == Some(name)))
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

fn answer(output: io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().last().map_or_else(|| output.status.to_string(), str::to_owned))
}
