//! Whether this boot is a good one: decided from what systemd and the store say,
//! and for how long they have been saying it.

use std::time::Duration;

/// What a boot has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For how long everything must be well without a break.
    pub good_after: Duration,
    /// How long after the kernel's start that must have been reached.
    pub deadline: Duration,
}

/// One look at the machine. Times are counted from the kernel's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it was taken.
    pub at: Duration,
    /// What is not well, in words; empty when all is.
    pub missing: Vec<String>,
}

/// What systemd says of one unit, as far as health goes.
///
/// `target` and the units that were named must be `active`; any other state is a
/// reason, in words that say which unit and which state.
pub fn unit_reasons<'a>(states: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let well = |state: &str| state == "active" || state == "reloading";
    let reason = |(unit, state): (&str, &str)| format!("{unit} is {state}");
    states.into_iter().filter(|(_, state)| !well(state)).map(reason).collect()
}

/// What follows from the looks so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet; why not.
    Wait(String),
    /// The boot is good and may be marked so.
    Good,
    /// The time is over; what was missing at the end.
    Bad(String),
}

/// Remembers since when everything has been well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    well_since: Option<Duration>,
}

impl Watch {
    /// Takes the next look into account.
    ///
    /// A boot that became well in time is not failed for the clock running out
    /// while its stability is still being watched: the deadline is for the
    /// beginning of the stable time that counts, so the last verdict comes at most
    /// [`Rules::good_after`] after the deadline.
    pub fn see(&mut self, rules: Rules, look: &Observation) -> Verdict {
        if !look.missing.is_empty() {
            self.well_since = None;
            let missing = look.missing.join("; ");
            return if look.at >= rules.deadline { Verdict::Bad(missing) } else { Verdict::Wait(missing) };
        }
        let since = *self.well_since.get_or_insert(look.at);
        let well_for = look.at.saturating_sub(since);
        if well_for >= rules.good_after {
            return Verdict::Good;
        }
        Verdict::Wait(format!("well for {} of {} s", well_for.as_secs(), rules.good_after.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { good_after: Duration::from_secs(45), deadline: Duration::from_secs(600) };

    /// Looks at these seconds; `!` behind one means that something is missing.
    fn check(looks: &str, want: &str) {
        let mut watch = Watch::default();
        let mut last = String::new();
        for look in looks.split(' ') {
            let (second, missing) = match look.strip_suffix('!') {
                Some(second) => (second, vec!["etcd.service is failed".to_owned()]),
                None => (look, Vec::new()),
            };
            let at = Duration::from_secs(second.parse().expect("a number"));
            last = match watch.see(RULES, &Observation { at, missing }) {
                Verdict::Wait(_) => "wait".to_owned(),
                Verdict::Good => "good".to_owned(),
                Verdict::Bad(why) => why,
            };
        }
        assert_eq!(last, want, "{looks}");
    }

    #[test]
    fn only_an_unbroken_time_counts() {
        check("10", "wait");
        check("10 54", "wait");
        check("10 55", "good");
        check("10 30! 55", "wait");
        check("10 30! 55 99", "wait");
        check("10 30! 55 100", "good");
    }

    #[test]
    fn the_deadline_ends_what_never_became_well() {
        check("10! 599!", "wait");
        check("10! 600!", "etcd.service is failed");
        check("590 601", "wait");
        check("590 635", "good");
        check("590 601!", "etcd.service is failed");
    }

    #[test]
    fn units_that_are_not_active_are_named() {
        let states =
            [("multi-user.target", "active"), ("etcd.service", "activating"), ("x.service", "not-found")];
        assert_eq!(unit_reasons(states), ["etcd.service is activating", "x.service is not-found"]);
    }
}
