//! The reboot lock as locksmith keeps it: a counting semaphore in one JSON value.
//!
//! Source: locksmith 0.6.2. The value is swapped by its index, so that its
//! clients and ours can share it; its bytes are what Go's encoder writes.

use serde::{Deserialize, Serialize};

/// The most holders that are read or allowed: more machines than that never
/// reboot at once in a cluster whose store has to live through it.
pub const MAX_HOLDERS: usize = 1024;

/// The longest holder: a machine id has 32 bytes, FleetLock's clients use UUIDs,
/// and people may write a name.
pub const MAX_HOLDER_BYTES: usize = 256;

/// Slots of the lock and who has them.
///
/// ```text
/// {"semaphore":1,"max":1,"holders":null}      new
/// {"semaphore":0,"max":1,"holders":["a1b2"]}  taken
/// {"semaphore":1,"max":1,"holders":[]}        free again
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Semaphore {
    /// Free slots; below zero after `max` was lowered under the number of holders.
    #[serde(default)]
    pub semaphore: i64,
    /// All slots.
    #[serde(default)]
    pub max: i64,
    /// Who has a slot, sorted; `null` until the first one comes.
    #[serde(default)]
    pub holders: Option<Vec<String>>,
}

/// Why the lock does not change. The first three texts are locksmith's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No slot is free.
    #[error("semaphore is at {0}")]
    Full(i64),
    /// The holder has a slot already.
    #[error("holder exists")]
    Exists,
    /// The holder has none.
    #[error("holder does not exist")]
    NotExists,
    /// An id that is none.
    #[error("bad holder {0:?}: give 1 to {MAX_HOLDER_BYTES} printable characters without spaces")]
    BadHolder(String),
    /// A number of slots that makes no sense.
    #[error("bad maximum {0}: give a number from 0 to {MAX_HOLDERS}")]
    BadMax(i64),
}

/// A value that is no semaphore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reboot lock in the store cannot be read: {0}")]
pub struct BadSemaphore(String);

impl Default for Semaphore {
    /// One slot, free. Source: locksmith, `newSemaphore`.
    fn default() -> Self {
        Self { semaphore: 1, max: 1, holders: None }
    }
}

impl Semaphore {
    /// Reads the value of the key.
    ///
    /// # Errors
    /// When it is no such JSON or has more than [`MAX_HOLDERS`] holders.
    pub fn parse(text: &str) -> Result<Self, BadSemaphore> {
        let read: Self = serde_json::from_str(text).map_err(|error| BadSemaphore(error.to_string()))?;
        match read.holders().len() {
            0..=MAX_HOLDERS => Ok(read),
            many => Err(BadSemaphore(format!("{many} holders; at most {MAX_HOLDERS} are allowed"))),
        }
    }

    /// The value of the key, byte for byte as locksmith writes it.
    pub fn render(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings become JSON")
    }

    /// Who has a slot.
    pub fn holders(&self) -> &[String] {
        self.holders.as_deref().unwrap_or_default()
    }

    /// Whether this one has a slot.
    pub fn is_held_by(&self, holder: &str) -> bool {
        self.holders().iter().any(|known| known == holder)
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// [`Refused::Full`], [`Refused::Exists`] (in this order, as locksmith), or
    /// [`Refused::BadHolder`].
    pub fn lock(&self, holder: &str) -> Result<Self, Refused> {
        check_holder(holder)?;
        if self.semaphore <= 0 {
            return Err(Refused::Full(self.semaphore));
        }
        if self.is_held_by(holder) {
            return Err(Refused::Exists);
        }
        let mut holders = self.holders().to_vec();
        let at = holders.iter().position(|known| known.as_str() > holder).unwrap_or(holders.len());
        holders.insert(at, holder.to_owned());
        Ok(Self { semaphore: self.semaphore - 1, max: self.max, holders: Some(holders) })
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// [`Refused::NotExists`].
    pub fn unlock(&self, holder: &str) -> Result<Self, Refused> {
        let mut holders = self.holders().to_vec();
        let at = holders.iter().position(|known| known == holder).ok_or(Refused::NotExists)?;
        holders.remove(at);
        Ok(Self { semaphore: self.semaphore + 1, max: self.max, holders: Some(holders) })
    }

    /// Changes the number of slots. Holders keep theirs.
    ///
    /// # Errors
    /// [`Refused::BadMax`].
    pub fn set_max(&self, max: i64) -> Result<Self, Refused> {
        match usize::try_from(max) {
            Ok(0..=MAX_HOLDERS) => {}
            Ok(_) | Err(_) => return Err(Refused::BadMax(max)),
        }
        let free = self.semaphore.saturating_add(max.saturating_sub(self.max));
        Ok(Self { semaphore: free, max, holders: self.holders.clone() })
    }
}

fn check_holder(holder: &str) -> Result<(), Refused> {
    let is_printable = holder.bytes().all(|byte| byte.is_ascii_graphic());
    match holder.len() {
        1..=MAX_HOLDER_BYTES if is_printable => Ok(()),
        _ => Err(Refused::BadHolder(holder.chars().take(MAX_HOLDER_BYTES).collect())),
    }
}

/// The v2 key of a lock: that of the cluster, or that of a group of machines.
pub fn key(group: &str) -> String {
    const ROOT: &str = "/coreos.com/updateengine/rebootlock";
    match group {
        "" => format!("{ROOT}/semaphore"),
        group => format!("{ROOT}/groups/{}/semaphore", escape(group)),
    }
}

/// Source: Go, `url.QueryEscape`, which locksmith applies to the group.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NEW: &str = r#"{"semaphore":1,"max":1,"holders":null}"#;
    const FREE: &str = r#"{"semaphore":1,"max":1,"holders":[]}"#;
    const A: &str = r#"{"semaphore":0,"max":1,"holders":["a"]}"#;
    const BC: &str = r#"{"semaphore":1,"max":3,"holders":["b","c"]}"#;

    type Change = fn(&Semaphore) -> Result<Semaphore, Refused>;

    #[test]
    fn changes_are_those_of_the_original_byte_for_byte() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, Change, &str)] = &[
            ("first",          NEW,  |s| s.lock("a"),    A),
            ("again",          FREE, |s| s.lock("a"),    A),
            ("full",           A,    |s| s.lock("b"),    "semaphore is at 0"),
            ("full wins",      A,    |s| s.lock("a"),    "semaphore is at 0"),
            ("twice",          BC,   |s| s.lock("c"),    "holder exists"),
            ("sorted in",      BC,   |s| s.lock("a"),    r#"{"semaphore":0,"max":3,"holders":["a","b","c"]}"#),
            ("back",           A,    |s| s.unlock("a"),  FREE),
            ("not there",      A,    |s| s.unlock("b"),  "holder does not exist"),
            ("not in a new",   NEW,  |s| s.unlock("b"),  "holder does not exist"),
            ("more",           NEW,  |s| s.set_max(2),   r#"{"semaphore":2,"max":2,"holders":null}"#),
            ("below holders",  BC,   |s| s.set_max(1),   r#"{"semaphore":-1,"max":1,"holders":["b","c"]}"#),
            ("none at all",    NEW,  |s| s.set_max(0),   r#"{"semaphore":0,"max":0,"holders":null}"#),
            ("negative",       NEW,  |s| s.set_max(-1),  "bad maximum -1: give a number from 0 to 1024"),
            ("empty holder",   NEW,  |s| s.lock(""),     "bad holder \"\": give 1 to 256 printable characters without spaces"),
        ];
        for (name, before, change, want) in cases {
            let got = change(&Semaphore::parse(before).unwrap());
            let text = got.map_or_else(|error| error.to_string(), |after| after.render());
            assert_eq!(text, *want, "{name}");
        }
        assert_eq!(Semaphore::default().render(), NEW);
    }

    #[test]
    fn values_of_others_are_read_or_refused() {
        let lenient = Semaphore::parse(r#"{"max":1,"startTime":4}"#).unwrap();
        assert_eq!(lenient, Semaphore { semaphore: 0, max: 1, holders: None });
        for text in ["", "{", "7", r#"{"semaphore":"1"}"#] {
            assert!(Semaphore::parse(text).is_err(), "{text}");
        }
        let many = serde_json::json!({"semaphore": 0, "max": 1, "holders": vec!["x"; MAX_HOLDERS + 1]});
        let text = Semaphore::parse(&many.to_string()).unwrap_err().to_string();
        assert!(text.ends_with("1025 holders; at most 1024 are allowed"), "{text}");
    }

    #[test]
    fn keys_are_those_of_the_original() {
        assert_eq!(key(""), "/coreos.com/updateengine/rebootlock/semaphore");
        assert_eq!(key("a b/c"), "/coreos.com/updateengine/rebootlock/groups/a+b%2Fc/semaphore");
    }
}
