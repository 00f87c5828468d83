//! What fleetctl prints: tables with fleet's columns, aligned by tabs.

use std::fmt::Write as _;

use crate::api::{Machine, Unit, UnitState};
use crate::requirements::Requirements;
use crate::unit_file::UnitFile;
use crate::unit_name::UnitName;

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Ids and hashes in full (`--full`, `-l`).
    pub is_full: bool,
    /// No column headers (`--no-legend`).
    pub has_no_legend: bool,
}

/// A column that does not exist. The text is fleet's, followed by what is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFields {
    /// `--fields=` with nothing.
    #[error("Must define output format")]
    Empty,
    /// A column that this table does not have.
    #[error("Invalid key in output format: {field:?}; valid fields are {valid}")]
    Unknown {
        /// What was asked for.
        field: String,
        /// What there is.
        valid: String,
    },
}

/// A column of a table: a word of `--fields`, and its header in lower case.
pub trait Column: Copy + 'static {
    /// Every column, by its word.
    const ALL: &'static [(&'static str, Self)];
    /// What is shown when `--fields` is not given.
    const DEFAULT: &'static str;
}

/// Columns of `list-machines`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MachineColumn {
    Machine,
    Ip,
    Metadata,
    State,
}

impl Column for MachineColumn {
    const ALL: &'static [(&'static str, Self)] =
        &[("ip", Self::Ip), ("machine", Self::Machine), ("metadata", Self::Metadata), ("state", Self::State)];
    const DEFAULT: &'static str = "machine,ip,metadata";
}

/// Columns of `list-units`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StateColumn {
    Active,
    Hash,
    Load,
    Machine,
    Sub,
    Unit,
}

impl Column for StateColumn {
    const ALL: &'static [(&'static str, Self)] = &[
        ("active", Self::Active),
        ("hash", Self::Hash),
        ("load", Self::Load),
        ("machine", Self::Machine),
        ("sub", Self::Sub),
        ("unit", Self::Unit),
    ];
    const DEFAULT: &'static str = "unit,machine,active,sub";
}

/// Columns of `list-unit-files`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileColumn {
    Desc,
    Dstate,
    Global,
    Hash,
    State,
    Target,
    Unit,
}

impl Column for FileColumn {
    const ALL: &'static [(&'static str, Self)] = &[
        ("desc", Self::Desc),
        ("dstate", Self::Dstate),
        ("global", Self::Global),
        ("hash", Self::Hash),
        ("state", Self::State),
        ("target", Self::Target),
        // The word for `target` before fleet 0.10.
        ("tmachine", Self::Target),
        ("unit", Self::Unit),
    ];
    const DEFAULT: &'static str = "unit,hash,dstate,state,target";
}

/// Reads `--fields`.
///
/// # Errors
/// [`BadFields`] for an empty list and for a column the table does not have.
pub fn columns<C: Column>(fields: &str) -> Result<Vec<(String, C)>, BadFields> {
    if fields.is_empty() {
        return Err(BadFields::Empty);
    }
    let find = |word: &str| match C::ALL.iter().find(|(known, _)| *known == word) {
        Some((_, column)) => Ok((word.to_owned(), *column)),
        None => {
            let valid: Vec<&str> = C::ALL.iter().map(|(known, _)| *known).collect();
            Err(BadFields::Unknown { field: word.to_owned(), valid: valid.join(",") })
        }
    };
    fields.split(',').map(find).collect()
}

/// The text of `list-machines`.
///
/// # Errors
/// See [`columns`].
pub fn list_machines(machines: &[Machine], fields: &str, style: Style) -> Result<String, BadFields> {
    let columns = columns::<MachineColumn>(fields)?;
    let cell = |machine: &Machine, column: MachineColumn| match column {
        MachineColumn::Machine => machine_id(&machine.id, style),
        MachineColumn::Ip => dash(&machine.primary_ip),
        MachineColumn::State if machine.state.is_empty() => "ready".to_owned(),
        MachineColumn::State => machine.state.clone(),
        MachineColumn::Metadata => {
            let pairs = machine.metadata.iter();
            let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
            dash(&pairs.join(","))
        }
    };
    Ok(table(&columns, machines, cell, style))
}

/// The text of `list-units`. `machines` are for their addresses.
///
/// # Errors
/// See [`columns`].
pub fn list_units(
    states: &[UnitState],
    machines: &[Machine],
    fields: &str,
    style: Style,
) -> Result<String, BadFields> {
    let columns = columns::<StateColumn>(fields)?;
    let cell = |state: &UnitState, column: StateColumn| match column {
        StateColumn::Unit => state.name.clone(),
        StateColumn::Load => dash(&state.systemd_load_state),
        StateColumn::Active => dash(&state.systemd_active_state),
        StateColumn::Sub => dash(&state.systemd_sub_state),
        StateColumn::Machine => machine_legend(&state.machine_id, machines, style),
        StateColumn::Hash if style.is_full => dash(&state.hash),
        StateColumn::Hash => dash(state.hash.get(..7).unwrap_or(&state.hash)),
    };
    Ok(table(&columns, states, cell, style))
}

/// The text of `list-unit-files`. `machines` are for their addresses.
///
/// # Errors
/// See [`columns`].
pub fn list_unit_files(
    units: &[Unit],
    machines: &[Machine],
    fields: &str,
    style: Style,
) -> Result<String, BadFields> {
    let columns = columns::<FileColumn>(fields)?;
    let cell = |unit: &Unit, column: FileColumn| match column {
        FileColumn::Unit => unit.name.clone(),
        FileColumn::Global => is_global(unit).to_string(),
        FileColumn::Dstate => dash(&unit.desired_state),
        FileColumn::State if is_global(unit) => "-".to_owned(),
        FileColumn::State => dash(&unit.current_state),
        FileColumn::Target if is_global(unit) => "global".to_owned(),
        FileColumn::Target => machine_legend(&unit.machine_id, machines, style),
        FileColumn::Hash => match UnitFile::from_options(&unit.options) {
            Ok(file) if style.is_full => file.hash().to_string(),
            Ok(file) => file.hash().short(),
            Err(_) => "-".to_owned(),
        },
        FileColumn::Desc => {
            let file = UnitFile::from_options(&unit.options).ok();
            dash(file.as_ref().and_then(UnitFile::description).unwrap_or_default())
        }
    };
    Ok(table(&columns, units, cell, style))
}

fn is_global(unit: &Unit) -> bool {
    let asks = || {
        let name: UnitName = unit.name.parse().ok()?;
        let file = UnitFile::from_options(&unit.options).ok()?;
        Requirements::of(&name, &file).ok()
    };
    asks().is_some_and(|asks| asks.global)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `01234567...`, or all digits.
fn machine_id(id: &str, style: Style) -> String {
    match id.get(..8) {
        Some(short) if !style.is_full => format!("{short}..."),
        Some(_) | None => id.to_owned(),
    }
}

/// `01234567.../10.0.0.1`: how a machine is shown wherever it is not alone.
pub fn machine_legend(id: &str, machines: &[Machine], style: Style) -> String {
    if id.is_empty() {
        return "-".to_owned();
    }
    let legend = machine_id(id, style);
    match machines.iter().find(|machine| machine.id == id) {
        Some(machine) if !machine.primary_ip.is_empty() => {
            format!("{legend}/{}", machine.primary_ip)
        }
        Some(_) | None => legend,
    }
}

fn table<R, C: Copy>(
    columns: &[(String, C)],
    rows: &[R],
    cell: impl Fn(&R, C) -> String,
    style: Style,
) -> String {
    let header = columns.iter().map(|(word, _)| word.to_uppercase()).collect();
    let header = Some(header).filter(|_| !style.has_no_legend);
    let body = rows.iter().map(|row| columns.iter().map(|(_, column)| cell(row, *column)).collect());
    align(&header.into_iter().chain(body).collect::<Vec<Vec<String>>>())
}

/// Lines of cells, each column as wide as its widest cell and filled with tabs.
///
/// Source: Go's `text/tabwriter` with cells of 8, padding 1, filled with tabs:
/// a column is at least one wider than its widest cell, rounded up to the next
/// tab stop; the last cell of a line is not filled.
pub fn align(lines: &[Vec<String>]) -> String {
    const TAB: usize = 8;
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + 1).div_ceil(TAB) * TAB
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let missing = widths[column].saturating_sub(cell.chars().count());
            let is_last = column + 1 == line.len();
            let tabs = if is_last { 0 } else { missing.div_ceil(TAB) };
            write!(text, "{cell}{}", "\t".repeat(tabs)).expect("a string takes all text");
        }
        text.push('\n');
    }
    text
}
