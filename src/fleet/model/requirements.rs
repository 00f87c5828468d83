//! `[X-Fleet]`: where in the cluster a unit may run.

use std::collections::{BTreeMap, BTreeSet};

use proa_base::ids::MachineId;

use crate::glob::{BadGlob, Glob};
use crate::unit_file::UnitFile;
use crate::unit_name::{BadUnitName, UnitName};

/// The section that is for the cluster and not for systemd.
pub const SECTION: &str = "X-Fleet";

/// What one unit asks of the machine it runs on.
///
/// ```text
/// [X-Fleet]
/// MachineMetadata="region=eu" "region=us"   any of the two
/// MachineMetadata=disk=ssd                  and this as well
/// Conflicts=web@*.service
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// Only this machine.
    pub machine_id: Option<MachineId>,
    /// Only a machine on which all of these units are scheduled.
    pub machine_of: BTreeSet<UnitName>,
    /// Only a machine that has one of the values for every key.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    /// No machine with a unit that matches, in either direction.
    pub conflicts: Vec<Glob>,
    /// Units that match leave the machine this one is placed on.
    pub replaces: Vec<Glob>,
    /// On every machine that matches, not on one.
    pub global: bool,
}

/// Why the `[X-Fleet]` section of a unit is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// A key that means nothing. The text is that of fleet's API.
    #[error("unrecognized requirement in [X-Fleet] section: {0:?}")]
    Unrecognized(String),
    /// `MachineID=` wants all 32 digits.
    #[error(
        "MachineID {0:?} is no machine id; right would be the 32 hex digits that list-machines --full shows"
    )]
    MachineId(String),
    /// `MachineMetadata=` wants pairs.
    #[error("MachineMetadata {0:?} is not of the form key=value")]
    Metadata(String),
    /// `MachineOf=` wants a unit.
    #[error("MachineOf {0:?}: {1}")]
    MachineOf(String, #[source] BadUnitName),
    /// `Conflicts=` and `Replaces=` want globs.
    #[error("{0}: {1}")]
    Glob(&'static str, #[source] BadGlob),
    /// Two options that exclude each other. The text is that of fleet's API.
    #[error("{0} cannot be used with {1}")]
    Together(&'static str, &'static str),
    /// A unit that would have to be with the one it must not be with. The text
    /// is that of fleet's API.
    #[error("unresolvable requirements: peer {peer:?} matches {option} {glob:?}")]
    Unresolvable {
        /// The unit named by `MachineOf=`.
        peer: String,
        /// `conflict` or `replace`.
        option: &'static str,
        /// The pattern that matches it.
        glob: String,
    },
}

/// The options of the section, with their spellings of before 2015.
///
/// The spelling in use comes first: it wins where only one value counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    MachineId,
    MachineOf,
    MachineMetadata,
    Conflicts,
    Replaces,
    Global,
}

const SPELLINGS: [(&str, Key); 11] = [
    ("MachineID", Key::MachineId),
    ("X-ConditionMachineID", Key::MachineId),
    ("X-ConditionMachineBootID", Key::MachineId),
    ("MachineOf", Key::MachineOf),
    ("X-ConditionMachineOf", Key::MachineOf),
    ("MachineMetadata", Key::MachineMetadata),
    ("X-ConditionMachineMetadata", Key::MachineMetadata),
    ("Conflicts", Key::Conflicts),
    ("X-Conflicts", Key::Conflicts),
    ("Replaces", Key::Replaces),
    ("Global", Key::Global),
];

impl Requirements {
    /// Reads the section of `file` for the unit called `name`.
    ///
    /// The specifiers `%n %N %p %i` stand for parts of the name. In a template
    /// the values that depend on the instance are left for its instances.
    ///
    /// # Errors
    /// Unknown options, malformed values, and combinations that contradict each
    /// other; all that fleet refuses, and values it silently ignored.
    pub fn of(name: &UnitName, file: &UnitFile) -> Result<Self, RequirementError> {
        let in_section = file.options().iter().filter(|option| option.section == SECTION);
        for option in in_section {
            if !SPELLINGS.iter().any(|(spelling, _)| *spelling == option.name) {
                return Err(RequirementError::Unrecognized(option.name.clone()));
            }
        }
        let values = |key| values_of(name, file, key);
        let requirements = Self {
            machine_id: machine_id(values(Key::MachineId))?,
            machine_of: machine_of(values(Key::MachineOf))?,
            metadata: metadata(values(Key::MachineMetadata))?,
            conflicts: globs("Conflicts", values(Key::Conflicts))?,
            replaces: globs("Replaces", values(Key::Replaces))?,
            global: values(Key::Global).last().is_some_and(|value| is_truthy(value)),
        };
        requirements.check_combination()?;
        Ok(requirements)
    }

    fn check_combination(&self) -> Result<(), RequirementError> {
        let has_id = self.machine_id.is_some();
        let has_peers = !self.machine_of.is_empty();
        let has_conflicts = !self.conflicts.is_empty();
        let has_replaces = !self.replaces.is_empty();
        #[rustfmt::skip]
        let refused = [
            (has_id && has_peers,           ("MachineID", "Peers")),
            (has_id && has_conflicts,       ("MachineID", "Conflicts")),
            (has_id && self.global,         ("MachineID", "Global")),
            (self.global && has_peers,      ("Global", "Peers")),
            (self.global && has_replaces,   ("Global", "Replaces")),
            (has_conflicts && has_replaces, ("Conflicts", "Replaces")),
        ];
        if let Some((_, (one, other))) = refused.into_iter().find(|(holds, _)| *holds) {
            return Err(RequirementError::Together(one, other));
        }
        for peer in &self.machine_of {
            for (option, globs) in [("conflict", &self.conflicts), ("replace", &self.replaces)] {
                if let Some(glob) = globs.iter().find(|glob| glob.matches(peer.as_str())) {
                    let (peer, glob) = (peer.to_string(), glob.to_string());
                    return Err(RequirementError::Unresolvable { peer, option, glob });
                }
            }
        }
        Ok(())
    }

    /// Whether a machine with this metadata has one of the values for every key.
    pub fn metadata_matches(&self, machine: &BTreeMap<String, String>) -> bool {
        let has = |(key, values): (&String, &BTreeSet<String>)| {
            machine.get(key).is_some_and(|value| values.contains(value))
        };
        self.metadata.iter().all(has)
    }

    /// Whether these requirements forbid `other` on the same machine.
    pub fn conflicts_with(&self, other: &UnitName) -> bool {
        self.conflicts.iter().any(|glob| glob.matches(other.as_str()))
    }

    /// Whether a unit with these requirements drives `other` away.
    pub fn replaces_unit(&self, other: &UnitName) -> bool {
        self.replaces.iter().any(|glob| glob.matches(other.as_str()))
    }

    /// The metadata asked for, as a user would write it: `region=eu or us, disk=ssd`.
    pub fn metadata_text(&self) -> String {
        let pair = |(key, values): (&String, &BTreeSet<String>)| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            format!("{key}={}", values.join(" or "))
        };
        let pairs: Vec<String> = self.metadata.iter().map(pair).collect();
        pairs.join(", ")
    }
}

fn values_of(name: &UnitName, file: &UnitFile, key: Key) -> Vec<String> {
    let spellings = SPELLINGS.iter().filter(|(_, of)| *of == key);
    let lines = spellings.flat_map(|(spelling, _)| file.values(SECTION, spelling));
    let values = lines.flat_map(split_values);
    let depends_on_instance =
        |value: &String| ["%n", "%N", "%i"].iter().any(|specifier| value.contains(specifier));
    values
        .filter(|value| !(name.is_template() && depends_on_instance(value)))
        .map(|value| name.expand(&value))
        .collect()
}

/// The quoted values of a line, or the whole line when it is not quoted.
fn split_values(line: &str) -> Vec<String> {
    let inner = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else {
        return vec![line.to_owned()];
    };
    // What is left are values with `" "` in between, however wide the gap.
    let parts: Vec<&str> = inner.split('"').collect();
    let values = parts.iter().step_by(2).map(|part| (*part).to_owned());
    values.collect()
}

fn is_truthy(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(value.as_str(), "true" | "yes" | "1" | "on" | "t")
}

fn machine_id(values: Vec<String>) -> Result<Option<MachineId>, RequirementError> {
    let Some(first) = values.into_iter().next() else {
        return Ok(None);
    };
    let id = first.parse().map_err(|_| RequirementError::MachineId(first))?;
    Ok(Some(id))
}

fn machine_of(values: Vec<String>) -> Result<BTreeSet<UnitName>, RequirementError> {
    let parse = |value: String| match value.parse() {
        Ok(name) => Ok(name),
        Err(error) => Err(RequirementError::MachineOf(value, error)),
    };
    values.into_iter().map(parse).collect()
}

fn metadata(values: Vec<String>) -> Result<BTreeMap<String, BTreeSet<String>>, RequirementError> {
    let mut pairs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for value in values {
        match value.split_once('=') {
            Some((key, one)) if !key.is_empty() && !one.is_empty() && !one.contains('=') => {
                pairs.entry(key.to_owned()).or_default().insert(one.to_owned());
            }
            Some(_) | None => return Err(RequirementError::Metadata(value)),
        }
    }
    Ok(pairs)
}

fn globs(option: &'static str, values: Vec<String>) -> Result<Vec<Glob>, RequirementError> {
    let read = |value: String| Glob::new(&value).map_err(|e| RequirementError::Glob(option, e));
    values.into_iter().map(read).collect()
}
