//! Commands that print.

use std::io::{Write, stdout};

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proa_fleet_daemon::{EXIT_STATUS, client::encode, journal::Output};
use proa_fleet_model::{
    unit_file::UnitFile,
    view::{self, Column, FileColumn, MachineColumn, StateColumn, Style},
};

use super::{
    Error,
    args::{Cat, Journal, ListMachines, ListUnitFiles, ListUnits, Status},
    remote::Remote,
    units,
};

pub async fn machines(remote: &Remote, args: &ListMachines) -> Result<(), Error> {
    let style = Style { is_full: args.full, has_no_legend: args.no_legend };
    let fields = args.fields.as_deref().unwrap_or(MachineColumn::DEFAULT);
    // Before fleetd is asked: a column that does not exist is wrong in any cluster.
    view::columns::<MachineColumn>(fields)?;
    print(&view::list_machines(&remote.machines().await?, fields, style)?)
}

pub async fn units(remote: &Remote, args: &ListUnits) -> Result<(), Error> {
    let style = Style { is_full: args.full, has_no_legend: args.no_legend };
    let fields = args.fields.as_deref().unwrap_or(StateColumn::DEFAULT);
    view::columns::<StateColumn>(fields)?;
    print(&view::list_units(&remote.states().await?, &remote.machines().await?, fields, style)?)
}

pub async fn unit_files(remote: &Remote, args: &ListUnitFiles) -> Result<(), Error> {
    let style = Style { is_full: args.full, has_no_legend: args.no_legend };
    let fields = args.fields.as_deref().unwrap_or(FileColumn::DEFAULT);
    view::columns::<FileColumn>(fields)?;
    print(&view::list_unit_files(&remote.units().await?, &remote.machines().await?, fields, style)?)
}

pub async fn cat(remote: &Remote, args: &Cat) -> Result<(), Error> {
    let name = units::name(&args.unit)?;
    let unknown = || Error::Unknown { unit: name.to_string(), hint: "" };
    let unit = remote.unit(name.as_str()).await?.ok_or_else(unknown)?;
    let file = UnitFile::from_options(&unit.options)
        .map_err(|error| Error::Output(format!("Unit {name}: {error}")))?;
    print(&file.render())
}

pub async fn journal(remote: &Remote, args: &Journal) -> Result<(), Error> {
    let name = units::name(&args.unit)?;
    let output: Output = args
        .output
        .parse()
        .map_err(|error: proa_fleet_daemon::journal::BadOutput| Error::Output(error.to_string()))?;
    let follow = u8::from(args.follow);
    let query =
        format!("journal?lines={}&follow={follow}&output={}", args.lines, encode(&output.to_string()));
    let answer = of_unit(name.as_str(), remote.text(name.as_str(), &query).await)?;
    pour(answer).await
}

/// The exit status is systemctl's: that of the first unit that is not active.
pub async fn status(remote: &Remote, args: &Status) -> Result<u8, Error> {
    if args.units.is_empty() {
        return Err(Error::NoUnits);
    }
    let mut names = Vec::new();
    for word in &args.units {
        if units::is_pattern(word) {
            let matching = units::matching(word, &remote.units().await?)?;
            if matching.is_empty() {
                return Err(Error::NoMatch(word.clone()));
            }
            names.extend(matching);
        } else {
            names.push(units::name(word)?);
        }
    }
    let mut first_bad = 0;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            print("\n")?;
        }
        let answer = of_unit(name.as_str(), remote.text(name.as_str(), "status").await)?;
        let code = answer
            .headers()
            .get(EXIT_STATUS)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        pour(answer).await?;
        first_bad = if first_bad == 0 { code } else { first_bad };
    }
    Ok(first_bad)
}

fn of_unit<T>(unit: &str, answer: Result<T, super::remote::Error>) -> Result<T, Error> {
    answer.map_err(|source| Error::OfUnit { unit: unit.to_owned(), source })
}

/// Prints a body as it comes.
async fn pour(answer: Response<Incoming>) -> Result<(), Error> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Output(format!("the answer broke off: {error}")))?;
        if let Some(bytes) = frame.data_ref() {
            write(bytes)?;
        }
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Error::Output(format!("cannot print: {error}")))
}
