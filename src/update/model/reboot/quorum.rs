//! Whether the store can spare one of its members.

/// A member that counts for the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its id.
    pub id: u64,
    /// Whether it answered lately and knows the leader.
    pub is_healthy: bool,
    /// Whether its machine has decided to reboot.
    pub is_leaving: bool,
}

/// Whether a member runs on this machine, by the addresses that it is told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has an address of this machine.
    Here,
    /// All of its addresses are others'.
    Elsewhere,
    /// They cannot be told; the text says why.
    Unknown(String),
}

/// What [`own`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// This is it; `None` when every member runs elsewhere.
    Known(Option<u64>),
    /// More than one runs here: it is the one among them that the first endpoint is.
    OneOf(Vec<u64>),
    /// It cannot be told, and must not be taken for none.
    Unknown(String),
}

/// Which member is this machine's own.
pub fn own(places: &[(u64, Place)]) -> Own {
    let here = |(id, place): &(u64, Place)| (*place == Place::Here).then_some(*id);
    let unknown = |(_, place): &(u64, Place)| match place {
        Place::Unknown(why) => Some(why.clone()),
        Place::Here | Place::Elsewhere => None,
    };
    let here: Vec<u64> = places.iter().filter_map(here).collect();
    match (here.as_slice(), places.iter().find_map(unknown)) {
        ([one], _) => Own::Known(Some(*one)),
        ([], None) => Own::Known(None),
        ([], Some(why)) => Own::Unknown(why),
        ([..], _) => Own::OneOf(here),
    }
}

/// Why a member cannot be spared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// Too few others would be left.
    #[error("the store would have {left} of {voters} members, and needs {needed}")]
    Few {
        /// Healthy members without this one.
        left: usize,
        /// All of them.
        voters: usize,
        /// A majority.
        needed: usize,
    },
    /// The other one of two is not well.
    #[error("the store has two members, and the other one is not healthy")]
    OtherOfTwo,
}

/// Whether the store goes on when `me` is gone; `None` for a machine without a vote.
///
/// A store of one or two members stops whenever one of them is away: there no
/// machine could ever reboot, so it may, as long as the other one is well.
///
/// # Errors
/// [`Short`].
pub fn without(voters: &[Voter], me: Option<u64>) -> Result<(), Short> {
    let others = voters.iter().filter(|voter| Some(voter.id) != me);
    let left = others.filter(|voter| voter.is_healthy && !voter.is_leaving).count();
    let votes = me.is_some_and(|me| voters.iter().any(|voter| voter.id == me));
    match voters.len() {
        0 | 1 => Ok(()),
        2 if votes && left == 1 => Ok(()),
        2 if votes => Err(Short::OtherOfTwo),
        count if left > count / 2 => Ok(()),
        count => Err(Short::Few { left, voters: count, needed: count / 2 + 1 }),
    }
}

/// The member that is made the leader in place of `me`: the first healthy one that stays.
pub fn successor(voters: &[Voter], me: u64) -> Option<u64> {
    let stays = |voter: &&Voter| voter.id != me && voter.is_healthy && !voter.is_leaving;
    voters.iter().filter(stays).map(|voter| voter.id).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_always_left_of_three_and_more() {
        for count in 0..=7_u64 {
            for healthy in 0..1_u64 << count {
                for leaving in 0..1_u64 << count {
                    let voters: Vec<Voter> = (0..count)
                        .map(|id| Voter {
                            id,
                            is_healthy: healthy >> id & 1 == 1,
                            is_leaving: leaving >> id & 1 == 1,
                        })
                        .collect();
                    for me in (0..count).map(Some).chain([None]) {
                        check(&voters, me);
                    }
                }
            }
        }
    }

    #[test]
    fn a_member_is_none_only_when_all_are_known_to_be_elsewhere() {
        let unknown = || Place::Unknown("no such host".to_owned());
        let rows = [
            (vec![], Own::Known(None)),
            (vec![Place::Elsewhere, Place::Elsewhere], Own::Known(None)),
            (vec![Place::Elsewhere, unknown()], Own::Unknown("no such host".to_owned())),
            (vec![unknown(), Place::Here], Own::Known(Some(1))),
            (vec![Place::Here, Place::Elsewhere, Place::Here], Own::OneOf(vec![0, 2])),
        ];
        for (places, want) in rows {
            let places: Vec<(u64, Place)> = (0..).zip(places).collect();
            assert_eq!(own(&places), want, "{places:?}");
        }
    }

    fn check(voters: &[Voter], me: Option<u64>) {
        let stays = |voter: &Voter| voter.is_healthy && !voter.is_leaving && Some(voter.id) != me;
        let left = voters.iter().filter(|voter| stays(voter)).count();
        let is_allowed = without(voters, me).is_ok();
        if voters.len() >= 3 {
            assert_eq!(is_allowed, left * 2 > voters.len(), "{voters:?} without {me:?}");
        }
        let all_others = voters.iter().all(|voter| stays(voter) || Some(voter.id) == me);
        if all_others && me.is_some() {
            assert!(is_allowed, "nothing speaks against {voters:?} without {me:?}");
        }
        if let Some(next) = me.and_then(|me| successor(voters, me)) {
            assert!(voters.iter().any(|voter| voter.id == next && stays(voter)));
        }
    }
}
