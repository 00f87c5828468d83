//! What follows from what is registered: the same for every kind of registry.

use super::{DiscoveryError, Myself, Trouble, v2::V2Registry, v3::V3Registry};
use crate::config::Cluster;

/// Most members of a cluster that is found this way, as everywhere here.
const MAX_SIZE: usize = 9;

/// The members of a cluster that is full already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full(pub Cluster);

/// Somebody who has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The id, in hexadecimal.
    pub id: String,
    /// What orders them: the first so many are members.
    pub created: u64,
    /// `NAME=URL,NAME=URL`.
    pub value: String,
}

/// Where members register.
pub enum Registry {
    /// The v2 keys API: `https://HOST/PATH/TOKEN`.
    V2(V2Registry),
    /// The v3 API.
    V3(V3Registry),
}

impl Registry {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::V2(registry) => &registry.url,
            Self::V3(registry) => &registry.name,
        }
    }

    pub(super) async fn size(&self) -> Result<usize, Trouble> {
        let (text, at) = match self {
            Self::V2(registry) => (registry.size().await?, format!("{}/_config/size", registry.url)),
            Self::V3(registry) => (registry.size().await?, registry.size_key()),
        };
        let Some(text) = text else { return Err(DiscoveryError::NoSize { at }.into()) };
        match text.trim().parse() {
            Ok(size @ 1..=MAX_SIZE) => Ok(size),
            Ok(_) | Err(_) => {
                let what = format!("size key is bad: {at} is {text:?}, give a number from 1 to {MAX_SIZE}");
                Err(DiscoveryError::Bad(what).into())
            }
        }
    }

    pub(super) async fn members(&self) -> Result<Vec<Registered>, Trouble> {
        match self {
            Self::V2(registry) => registry.members().await,
            Self::V3(registry) => registry.members().await,
        }
    }

    pub(super) async fn register(&self, myself: &Myself) -> Result<(), Trouble> {
        match self {
            Self::V2(registry) => registry.register(myself).await,
            Self::V3(registry) => registry.register(myself).await,
        }
    }
}

/// What to do after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is a place, and this member has not taken it.
    Register,
    /// This member has a place; others are missing.
    Wait { here: usize, size: usize },
    /// All are there.
    Found(Cluster),
}

/// Source: etcd's `discovery.joinCluster`. There, whoever comes a second time
/// before its data dir is made is turned away; here it finds its own entry.
pub(super) fn decide(
    size: usize,
    mut registered: Vec<Registered>,
    myself: &Myself,
) -> Result<Outcome, DiscoveryError> {
    registered.sort_by_key(|member| member.created);
    registered.truncate(size);
    let id = format!("{:x}", myself.id);
    match registered.iter().find(|member| member.id == id) {
        None if registered.len() < size => return Ok(Outcome::Register),
        None => return Err(DiscoveryError::Full(Full(cluster(&registered)?))),
        Some(mine) if mine.value != myself.value => {
            return Err(DiscoveryError::Bad(format!(
                "found duplicate ID {id}: registered as {}, this member is {}",
                mine.value, myself.value
            )));
        }
        Some(_) => {}
    }
    match registered.len() {
        here if here < size => Ok(Outcome::Wait { here, size }),
        _ => cluster(&registered).map(Outcome::Found),
    }
}

fn cluster(registered: &[Registered]) -> Result<Cluster, DiscoveryError> {
    let values: Vec<&str> = registered.iter().map(|member| member.value.as_str()).collect();
    let cluster: Cluster = values.join(",").parse().map_err(DiscoveryError::Bad)?;
    if cluster.0.len() < registered.len() {
        return Err(DiscoveryError::Bad(format!("two members have the same name: {}", values.join(","))));
    }
    Ok(cluster)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn entry(id: &str, created: u64, value: &str) -> Registered {
        Registered { id: id.to_owned(), created, value: value.to_owned() }
    }

    #[test]
    fn the_first_so_many_are_the_members() {
        let me = Myself { id: 0xab, value: "a=http://a:1".to_owned() };
        let (a, b, c) =
            (entry("ab", 5, "a=http://a:1"), entry("b", 3, "b=http://b:1"), entry("c", 4, "c=http://c:1"));
        let both: Cluster = "a=http://a:1,b=http://b:1".parse().unwrap();
        let others: Cluster = "c=http://c:1,b=http://b:1".parse().unwrap();
        #[rustfmt::skip]
        let rows = [
            ("nobody",         2, vec![],                             Ok(Outcome::Register)),
            ("another",        2, vec![b.clone()],                    Ok(Outcome::Register)),
            ("only me",        2, vec![a.clone()],                    Ok(Outcome::Wait { here: 1, size: 2 })),
            ("both",           2, vec![a.clone(), b.clone()],         Ok(Outcome::Found(both))),
            ("full",           2, vec![b.clone(), c.clone()],         Err(others.clone())),
            ("came too late",  2, vec![a, b, c],                      Err(others)),
        ];
        for (name, size, registered, want) in rows {
            let got = decide(size, registered, &me).map_err(|error| match error {
                DiscoveryError::Full(Full(cluster)) => cluster,
                other => panic!("{name}: {other}"),
            });
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let me = Myself { id: 0xab, value: "a=http://a:1".to_owned() };
        #[rustfmt::skip]
        let rows = [
            (vec![entry("ab", 1, "x=http://x:1")],                                  "discovery: found duplicate ID ab: registered as x=http://x:1, this member is a=http://a:1"),
            (vec![entry("ab", 1, "a=http://a:1"), entry("c", 2, "nonsense")],       "discovery: give NAME=URL,NAME=URL; \"nonsense\" has no ="),
            (vec![entry("ab", 1, "a=http://a:1"), entry("c", 2, "a=http://c:1")],   "discovery: two members have the same name: a=http://a:1,a=http://c:1"),
        ];
        for (registered, want) in rows {
            assert_eq!(decide(2, registered, &me).unwrap_err().to_string(), want);
        }
    }
}
