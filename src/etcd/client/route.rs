//! Which member is asked: those that were configured, and, where the client
//! may fall back, the other members of the same cluster.
//!
//! A machine's own member comes first. When it is gone, the member list that
//! was read while it answered says who else serves; when it is back, it is
//! asked again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proa_etcd_api::etcdserverpb::{Member, MemberListRequest, StatusRequest};
use tonic::transport::Channel;

use crate::call::Timeouts;
use crate::endpoint::Members;
use crate::error::{Error, classify};
use crate::pb::{ClusterClient, MaintenanceClient};
use crate::tls::ClientTls;

/// How old the member list may become: a member that was added is known a
/// minute later, which costs one small request a minute.
const LEARN_EVERY: Duration = Duration::from_secs(60);
/// The same while a member has not published its URLs, as one that just starts.
const LEARN_SOON: Duration = Duration::from_secs(5);
/// Between two looks whether a configured member is back.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// More members than any cluster has; a longer list is cut.
const MAX_LEARNED: usize = 64;

/// All members that may be asked.
pub(crate) struct Route {
    home: Members,
    configured: Vec<String>,
    timeouts: Timeouts,
    tls: Option<ClientTls>,
    away: Mutex<Away>,
}

/// What is known of members that were not configured.
#[derive(Default)]
struct Away {
    /// Whether they may be asked at all.
    is_wanted: bool,
    urls: Vec<String>,
    members: Option<Arc<Members>>,
    /// Whether every member of the list had URLs.
    is_whole: bool,
    /// Whether they are asked at the moment.
    is_astray: bool,
    learned: Option<Instant>,
    probed: Option<Instant>,
}

/// The member that one request went to.
#[derive(Clone)]
pub(crate) enum Spot {
    Home(usize),
    Away(Arc<Members>, usize),
}

/// Work that is due beside a request.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Learn,
    Probe,
}

impl Away {
    fn due(&mut self, now: Instant) -> Due {
        let is_older = |then: Option<Instant>, age| then.is_none_or(|then| now.duration_since(then) >= age);
        if !self.is_wanted {
            return Due::Nothing;
        }
        if self.is_astray && is_older(self.probed, PROBE_EVERY) {
            self.probed = Some(now);
            return Due::Probe;
        }
        let age = if self.is_whole { LEARN_EVERY } else { LEARN_SOON };
        if is_older(self.learned, age) {
            self.learned = Some(now);
            return Due::Learn;
        }
        Due::Nothing
    }
}

impl Route {
    pub(crate) fn new(
        endpoints: &[String],
        timeouts: Timeouts,
        tls: Option<&ClientTls>,
    ) -> Result<Arc<Self>, Error> {
        let home = Members::new(endpoints, timeouts.connect, tls)?;
        let (configured, away) = (endpoints.to_vec(), Mutex::default());
        Ok(Arc::new(Self { home, configured, timeouts, tls: tls.cloned(), away }))
    }

    fn members(&self, urls: &[String]) -> Result<Members, Error> {
        Members::new(urls, self.timeouts.connect, self.tls.as_ref())
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        // Every change of it is whole before the lock is let go.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the client ask members that were not configured.
    pub(crate) fn allow_away(&self) {
        self.away().is_wanted = true;
    }

    /// The client URLs of the members that were not configured.
    pub(crate) fn learned(&self) -> Vec<String> {
        self.away().urls.clone()
    }

    /// How many members there are to try.
    pub(crate) fn count(&self) -> usize {
        let away = self.away().members.as_ref().map_or(0, |members| members.count());
        self.home.count() + away
    }

    /// The member to ask now.
    pub(crate) fn current(&self) -> (Spot, Channel) {
        let away = self.away();
        match away.members.as_ref().filter(|_| away.is_astray) {
            Some(members) => {
                let (number, channel) = members.current();
                (Spot::Away(Arc::clone(members), number), channel)
            }
            None => {
                let (number, channel) = self.home.current();
                (Spot::Home(number), channel)
            }
        }
    }

    /// Turns to the next member: behind the last configured one come the
    /// others, and behind the last of those the first configured one.
    pub(crate) fn leave(&self, failed: Spot) {
        match failed {
            Spot::Home(number) => {
                self.home.leave(number);
                let mut away = self.away();
                if number + 1 == self.home.count() && away.members.is_some() {
                    away.is_astray = true;
                    away.probed = Some(Instant::now());
                }
            }
            Spot::Away(members, number) => {
                members.leave(number);
                if number + 1 == members.count() {
                    self.away().is_astray = false;
                }
            }
        }
    }

    /// Called when a member has answered: does what is due, beside the caller.
    pub(crate) fn answered(self: &Arc<Self>) {
        let due = self.away().due(Instant::now());
        match due {
            Due::Nothing => {}
            Due::Learn => drop(tokio::spawn(Arc::clone(self).learn())),
            Due::Probe => drop(tokio::spawn(Arc::clone(self).probe())),
        }
    }

    async fn learn(self: Arc<Self>) {
        let (_, channel) = self.current();
        // The member's own view will do: one that is a little old is mended in a minute.
        let request = MemberListRequest { linearizable: false };
        let mut client = ClusterClient::new(channel);
        let asking = client.member_list(request);
        let Ok(Ok(answer)) = tokio::time::timeout(self.timeouts.request, asking).await else {
            self.away().is_whole = false;
            return;
        };
        self.take_list(&answer.into_inner().members);
    }

    fn take_list(&self, list: &[Member]) {
        let urls = others(list, &self.configured);
        let mut away = self.away();
        away.is_whole = list.iter().all(|member| !member.client_urls.is_empty());
        if away.urls == urls {
            return;
        }
        // URLs that this client cannot dial are passed over.
        let dialable: Vec<String> =
            urls.iter().filter(|url| self.members(std::slice::from_ref(url)).is_ok()).cloned().collect();
        away.members = self.members(&dialable).ok().map(Arc::new);
        away.is_astray &= away.members.is_some();
        away.urls = urls;
    }

    /// Goes back to a configured member that has a leader.
    async fn probe(self: Arc<Self>) {
        let (number, channel) = self.home.current();
        let mut client = MaintenanceClient::new(channel);
        let asking = client.status(StatusRequest {});
        let is_back = match tokio::time::timeout(self.timeouts.request, asking).await {
            Ok(Ok(status)) => status.get_ref().leader != 0,
            // One that wants a token first is there.
            Ok(Err(status)) => matches!(classify(status), Error::Refused { .. }),
            Err(_) => false,
        };
        if is_back {
            self.away().is_astray = false;
        } else {
            self.home.leave(number);
        }
    }
}

/// Client URLs of the voting members that are not among the configured ones.
fn others(list: &[Member], configured: &[String]) -> Vec<String> {
    let plain = |url: &str| {
        let url = url.split_once("://").map_or(url, |(_, rest)| rest);
        url.trim_end_matches('/').replace("localhost", "127.0.0.1")
    };
    let configured: Vec<String> = configured.iter().map(|url| plain(url)).collect();
    // A learner refuses most of what is asked of it.
    let voters = list.iter().filter(|member| !member.is_learner);
    let urls = voters.flat_map(|member| &member.client_urls).filter(|url| !configured.contains(&plain(url)));
    urls.take(MAX_LEARNED).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(urls: &[&str], is_learner: bool) -> Member {
        let client_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        Member { client_urls, is_learner, ..Member::default() }
    }

    fn route(endpoints: &[&str]) -> Arc<Route> {
        let endpoints: Vec<String> = endpoints.iter().map(|url| (*url).to_owned()).collect();
        Route::new(&endpoints, Timeouts::default(), None).expect("good endpoints")
    }

    fn now(route: &Route) -> String {
        match route.current().0 {
            Spot::Home(number) => format!("home {number}"),
            Spot::Away(_, number) => format!("away {number}"),
        }
    }

    #[tokio::test]
    async fn configured_members_come_first_and_others_behind_them() {
        let route = route(&["a:1", "b:1"]);
        let step = |route: &Route| {
            let (spot, _) = route.current();
            route.leave(spot);
            now(route)
        };
        assert_eq!(
            (now(&route), step(&route), step(&route)),
            ("home 0".into(), "home 1".into(), "home 0".into())
        );
        let list = [member(&["http://b:1/"], false), member(&["http://c:1", "http://d:1"], false)];
        route.take_list(&list);
        assert_eq!((route.count(), route.learned().len()), (4, 2));
        let walk: Vec<String> = (0..4).map(|_| step(&route)).collect();
        assert_eq!(walk, ["home 1", "away 0", "away 1", "home 0"]);
    }

    #[test]
    fn only_voters_that_were_not_configured_are_others() {
        let list = [
            member(&["http://127.0.0.1:2379"], false),
            member(&["http://10.0.0.2:2379"], false),
            member(&["http://10.0.0.3:2379"], true),
            member(&[], false),
        ];
        let others = |configured: &str| others(&list, &[configured.to_owned()]);
        assert_eq!(others("http://localhost:2379/"), ["http://10.0.0.2:2379"]);
        assert_eq!(others("127.0.0.1:2379"), ["http://10.0.0.2:2379"]);
        assert_eq!(others("x:1"), ["http://127.0.0.1:2379", "http://10.0.0.2:2379"]);
    }

    #[test]
    fn work_is_due_now_and_then() {
        let start = Instant::now();
        let mut away = Away::default();
        let due = |away: &mut Away, seconds| away.due(start + Duration::from_secs(seconds));
        assert_eq!(due(&mut away, 0), Due::Nothing, "nobody wants it");
        away.is_wanted = true;
        let rows = [(0, Due::Learn), (4, Due::Nothing), (5, Due::Learn), (6, Due::Nothing)];
        rows.into_iter().for_each(|(at, want)| assert_eq!(due(&mut away, at), want, "at {at} s, not whole"));
        away.is_whole = true;
        let rows = [(10, Due::Nothing), (64, Due::Nothing), (65, Due::Learn), (66, Due::Nothing)];
        rows.into_iter().for_each(|(at, want)| assert_eq!(due(&mut away, at), want, "at {at} s, whole"));
        away.is_astray = true;
        let rows = [(67, Due::Probe), (71, Due::Nothing), (72, Due::Probe)];
        rows.into_iter().for_each(|(at, want)| assert_eq!(due(&mut away, at), want, "at {at} s, astray"));
    }
}
