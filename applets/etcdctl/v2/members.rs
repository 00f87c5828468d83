//! `member list|add|remove|update`, `cluster-health`.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::args::{Flag, switch};
use super::super::http::{self, Answer, Ask, escape};
use super::super::{emit, go};
use super::{Context, End, NOT_HEALTHY};

pub const HEALTH: &[Flag] = &[switch("forever", "check again every 10 seconds (-f)")];

/// Source: etcdctl 3.4, `cluster-health --forever`.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// One member. Source: etcd v2 API, "Members API".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Member {
    pub id: String,
    pub name: String,
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

/// The members of an answer; none when it is no member list.
pub fn parse(answer: &Answer) -> Option<Vec<Member>> {
    serde_json::from_slice::<Members>(&answer.body).ok().map(|list| list.members)
}

async fn members(context: &Context) -> Result<Vec<Member>, End> {
    let answer = context.remote.ask(Method::GET, "/v2/members", None).await;
    let answer = answer.map_err(|refusal| refusal.plain_end())?;
    parse(&answer).ok_or_else(|| End::plain("the answer is no list of members"))
}

pub async fn list(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    let members = members(context).await?;
    let leader = context.remote.ask(Method::GET, "/v2/members/leader", None).await;
    let leader =
        leader.map_err(|refusal| End::plain(format!("Failed to get leader:  {}", refusal.line())))?;
    let leader: Member = serde_json::from_slice(&leader.body).unwrap_or_default();
    for member in members {
        let (id, peers) = (&member.id, member.peer_urls.join(","));
        if member.name.is_empty() {
            emit(&format!("{id}[unstarted]: peerURLs={peers}\n"));
        } else {
            let (name, clients) = (&member.name, member.client_urls.join(","));
            let is_leader = *id == leader.id;
            emit(&format!("{id}: name={name} peerURLs={peers} clientURLs={clients} isLeader={is_leader}\n"));
        }
    }
    Ok(())
}

fn body(value: &Value) -> Option<(&'static str, String)> {
    Some(("application/json", value.to_string()))
}

pub async fn add(context: &Context) -> Result<(), End> {
    let [name, url] = context.args.rest.as_slice() else {
        return Err(End::plain("Provide a name and a single member peerURL"));
    };
    let answer = context.remote.ask(Method::POST, "/v2/members", body(&json!({ "peerURLs": [url] }))).await;
    let answer = answer.map_err(|refusal| refusal.plain_end())?;
    let added: Member = serde_json::from_slice(&answer.body)
        .map_err(|error| End::plain(format!("the answer is no member: {error}")))?;
    emit(&format!("Added member named {name} with ID {} to cluster\n", added.id));
    let mut initial = Vec::new();
    for member in members(context).await? {
        let name = if member.id == added.id { name } else { &member.name };
        initial.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    let quote = |text: &str| go::quote(text.as_bytes());
    emit(&format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name),
        quote(&initial.join(","))
    ));
    Ok(())
}

pub async fn remove(context: &Context) -> Result<(), End> {
    let [id] = context.args.rest.as_slice() else {
        return Err(End::plain("Provide a single member ID"));
    };
    let members = members(context).await?;
    if !members.iter().any(|member| member.id == *id) {
        let named = members.iter().find(|member| member.name == *id);
        let hint = named.map_or(String::new(), |member| {
            format!(
                "\nFound a member named {}; if it is meant, give its ID: etcdctl member remove {}",
                member.name, member.id
            )
        });
        return Err(End::plain(format!("Couldn't find a member in the cluster with an ID of {id}.{hint}")));
    }
    let path = format!("/v2/members/{}", escape(id));
    context.remote.ask(Method::DELETE, &path, None).await.map_err(|refusal| {
        End::plain(format!("Received an error trying to remove member {id}: {}", refusal.line()))
    })?;
    emit(&format!("Removed member {id} from cluster\n"));
    Ok(())
}

pub async fn update(context: &Context) -> Result<(), End> {
    let [id, urls] = context.args.rest.as_slice() else {
        return Err(End::plain(
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)",
        ));
    };
    let urls: Vec<&str> = urls.split(',').collect();
    let path = format!("/v2/members/{}", escape(id));
    let answer = context.remote.ask(Method::PUT, &path, body(&json!({ "peerURLs": urls }))).await;
    answer.map_err(|refusal| refusal.plain_end())?;
    emit(&format!("Updated member with ID {id} in cluster\n"));
    Ok(())
}

pub async fn cluster_health(context: &Context) -> Result<(), End> {
    let answer = context.remote.ask(Method::GET, "/v2/members", None).await.map_err(|refusal| {
        emit("cluster may be unhealthy: failed to list members\n");
        refusal.end()
    })?;
    let members = parse(&answer).ok_or_else(|| End::plain("the answer is no list of members"))?;
    loop {
        let mut healthy = 0;
        for member in &members {
            healthy += usize::from(is_healthy(context, member).await);
        }
        let word = match healthy {
            all if all == members.len() => "healthy",
            0 => "unavailable",
            _ => "degraded",
        };
        emit(&format!("cluster is {word}\n"));
        if !context.args.is_on("forever") {
            let unwell = End { text: String::new(), code: NOT_HEALTHY };
            return if healthy == members.len() { Ok(()) } else { Err(unwell) };
        }
        emit("\nnext check after 10 second...\n\n");
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// Asks the first URL of a member that answers, and says what it found.
async fn is_healthy(context: &Context, member: &Member) -> bool {
    let id = &member.id;
    if member.client_urls.is_empty() {
        emit(&format!("member {id} is unreachable: no available published client urls\n"));
        return false;
    }
    for url in &member.client_urls {
        let ask = Ask { tls: context.remote.tls().clone(), ..Ask::get(url, "/health") };
        match http::ask(&ask, context.remote.timeout()).await {
            Ok(answer) => {
                let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                // etcd says "true", its proxy says true.
                let healthy = said["health"] == "true" || said["health"] == true;
                let un = if healthy { "" } else { "un" };
                emit(&format!("member {id} is {un}healthy: got {un}healthy result from {url}\n"));
                return healthy;
            }
            Err(error) => emit(&format!("failed to check the health of member {id} on {url}: {error}\n")),
        }
    }
    emit(&format!("member {id} is unreachable: {} are all unreachable\n", go::list(&member.client_urls)));
    false
}
