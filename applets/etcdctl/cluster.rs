//! `member`, `endpoint`, `alarm`, `defrag`: the cluster and each member of it.

use std::time::Instant;

use proa_etcd_client::api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_client::api::etcdserverpb::{
    AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, Member, MemberAddRequest, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, RangeRequest, StatusRequest,
    StatusResponse,
};
use proa_etcd_client::{Client, Code};
use serde_json::{Value, json};

use super::args::{Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, fields_of_header, human_bytes, line, table};
use super::{Context, emit, json};

pub const ENDPOINT: &[Flag] = &[switch("cluster", "all endpoints of the member list")];
pub const HASH_KV: &[Flag] =
    &[switch("cluster", "all endpoints of the member list"), value("rev", "up to this revision")];
pub const MEMBER_ADD: &[Flag] =
    &[value("peer-urls", "where members reach the new one"), switch("learner", "add it without a vote")];
pub const MEMBER_UPDATE: &[Flag] = &[value("peer-urls", "where members reach it now")];

fn member_id(text: &str) -> Result<u64, Failure> {
    let wrong = |_| Failure::args(format!("bad member ID arg {text:?}, expecting ID in Hex"));
    u64::from_str_radix(text, 16).map_err(wrong)
}

fn only_member(context: &Context) -> Result<u64, Failure> {
    match context.args.rest.as_slice() {
        [id] => member_id(id),
        _ => Err(Failure::args("member ID is not provided")),
    }
}

pub async fn member_list(context: &Context) -> Result<(), Failure> {
    let answer = context.client.member_list(MemberListRequest { linearizable: true }).await?;
    let rows: Vec<Vec<String>> = answer.members.iter().map(row_of_member).collect();
    emit(&match context.printer.format {
        Format::Json => line(&json::object([
            ("header", json::header(answer.header.as_ref())),
            ("members", answer.members.iter().map(json::member).collect()),
        ])),
        Format::Fields => {
            let members: String = answer.members.iter().map(fields_of_member).collect();
            fields_of_header(answer.header.as_ref()) + &members
        }
        Format::Table => table(&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], &rows),
        Format::Simple => rows.iter().map(|row| row.join(", ") + "\n").collect(),
    });
    Ok(())
}

fn row_of_member(member: &Member) -> Vec<String> {
    let status = if member.name.is_empty() { "unstarted" } else { "started" };
    vec![
        format!("{:x}", member.id),
        status.to_owned(),
        member.name.clone(),
        member.peer_urls.join(","),
        member.client_urls.join(","),
        member.is_learner.to_string(),
    ]
}

fn fields_of_member(member: &Member) -> String {
    let urls =
        |name: &str, urls: &[String]| urls.iter().map(|url| format!("\"{name}\" : {url:?}\n")).collect();
    let (peers, clients): (String, String) =
        (urls("PeerURL", &member.peer_urls), urls("ClientURL", &member.client_urls));
    format!(
        "\"ID\" : {}\n\"Name\" : {:?}\n{peers}{clients}\"IsLearner\" : {}\n\n",
        member.id, member.name, member.is_learner
    )
}

pub async fn member_add(context: &Context) -> Result<(), Failure> {
    let [name] = context.args.rest.as_slice() else {
        return Err(Failure::args("member name not provided"));
    };
    let Some(urls) = context.args.get("peer-urls") else {
        return Err(Failure::args("member peer urls not provided"));
    };
    let peer_urls = urls.split(',').map(str::to_owned).collect();
    let request = MemberAddRequest { peer_urls, is_learner: context.args.is_on("learner") };
    let answer = context.client.member_add(request).await?;
    let added = answer.member.unwrap_or_default();
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    let initial: Vec<String> = answer
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == added.id { name } else { &member.name };
            member.peer_urls.iter().map(move |url| format!("{name}={url}"))
        })
        .collect();
    emit(&format!(
        "Member {:16x} added to cluster {cluster_id:16x}\n\nETCD_NAME={name:?}\nETCD_INITIAL_CLUSTER={:?}\nETCD_INITIAL_ADVERTISE_PEER_URLS={urls:?}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        added.id,
        initial.join(",")
    ));
    Ok(())
}

pub async fn member_remove(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    let answer = context.client.member_remove(MemberRemoveRequest { id }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    emit(&format!("Member {id:16x} removed from cluster {cluster_id:16x}\n"));
    Ok(())
}

pub async fn member_update(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    let Some(urls) = context.args.get("peer-urls") else {
        return Err(Failure::args("member peer urls not provided"));
    };
    let peer_urls = urls.split(',').map(str::to_owned).collect();
    let answer = context.client.member_update(MemberUpdateRequest { id, peer_urls }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    emit(&format!("Member {id:16x} updated in cluster {cluster_id:16x}\n"));
    Ok(())
}

pub async fn member_promote(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    let answer = context.client.member_promote(MemberPromoteRequest { id }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    emit(&format!("Member {id:16x} promoted in cluster {cluster_id:16x}\n"));
    Ok(())
}

/// The endpoints that are asked one by one.
async fn endpoints(context: &Context) -> Result<Vec<String>, Failure> {
    if !context.args.is_on("cluster") {
        return Ok(context.endpoints.clone());
    }
    let members = context.client.member_list(MemberListRequest { linearizable: true }).await?.members;
    Ok(members.into_iter().flat_map(|member| member.client_urls).collect())
}

fn one(context: &Context, endpoint: &str) -> Result<Client, Failure> {
    Ok(Client::with_timeouts(&[endpoint.to_owned()], context.timeouts)?)
}

pub async fn endpoint_status(context: &Context) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut failure = None;
    for endpoint in endpoints(context).await? {
        match one(context, &endpoint)?.status(StatusRequest {}).await {
            Ok(status) => found.push((endpoint, status)),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                failure = Some(Failure::error("some endpoints gave no status"));
            }
        }
    }
    let rows: Vec<Vec<String>> =
        found.iter().map(|(endpoint, status)| row_of_status(endpoint, status)).collect();
    emit(&match context.printer.format {
        Format::Json => line(
            &found
                .iter()
                .map(|(endpoint, status)| json!({ "Endpoint": endpoint, "Status": json::status(status) }))
                .collect(),
        ),
        Format::Fields => found.iter().map(|(endpoint, status)| fields_of_status(endpoint, status)).collect(),
        Format::Table => table(
            &[
                "ENDPOINT",
                "ID",
                "VERSION",
                "DB SIZE",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
            ],
            &rows,
        ),
        Format::Simple => rows.iter().map(|row| row.join(", ") + "\n").collect(),
    });
    failure.map_or(Ok(()), Err)
}

fn row_of_status(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let member_id = status.header.unwrap_or_default().member_id;
    vec![
        endpoint.to_owned(),
        format!("{member_id:x}"),
        status.version.clone(),
        human_bytes(status.db_size),
        (status.leader == member_id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
    ]
}

fn fields_of_status(endpoint: &str, status: &StatusResponse) -> String {
    fields_of_header(status.header.as_ref())
        + &format!(
            "\"Version\" : {:?}\n\"DBSize\" : {}\n\"Leader\" : {}\n\"IsLearner\" : {}\n\"RaftIndex\" : {}\n\"RaftTerm\" : {}\n\"RaftAppliedIndex\" : {}\n\"Errors\" : {:?}\n\"Endpoint\" : {endpoint:?}\n\n",
            status.version,
            status.db_size,
            status.leader,
            status.is_learner,
            status.raft_index,
            status.raft_term,
            status.raft_applied_index,
            status.errors
        )
}

/// Healthy is who answers a read that needs the majority.
pub async fn endpoint_health(context: &Context) -> Result<(), Failure> {
    let mut documents = Vec::new();
    let mut all_healthy = true;
    for endpoint in endpoints(context).await? {
        let begun = Instant::now();
        let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
        let error = match one(context, &endpoint)?.range(request).await {
            // A member that may not read this key is well, too.
            Ok(_) => None,
            Err(error) if error.is_refused(Code::PermissionDenied) => None,
            Err(error) => Some(error.to_string()),
        };
        let took = format!("{:.6}ms", begun.elapsed().as_secs_f64() * 1000.0);
        all_healthy &= error.is_none();
        match (context.printer.format, error) {
            (Format::Json, error) => documents.push(json::object([
                ("endpoint", json!(endpoint)),
                ("health", json!(error.is_none())),
                ("took", json!(took)),
                ("error", error.map_or(Value::Null, Value::String)),
            ])),
            (Format::Fields, error) => emit(&format!(
                "\"Endpoint\" : {endpoint:?}\n\"Health\" : {}\n\"Took\" : {took:?}\n\"Error\" : {:?}\n\n",
                error.is_none(),
                error.unwrap_or_default()
            )),
            (Format::Simple | Format::Table, None) => {
                emit(&format!("{endpoint} is healthy: successfully committed proposal: took = {took}\n"));
            }
            (Format::Simple | Format::Table, Some(error)) => {
                eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
            }
        }
    }
    if context.printer.format == Format::Json {
        emit(&line(&Value::Array(documents)));
    }
    if all_healthy { Ok(()) } else { Err(Failure::error("unhealthy cluster")) }
}

pub async fn endpoint_hashkv(context: &Context) -> Result<(), Failure> {
    let revision = context.args.number("rev", 0)?;
    let mut documents = Vec::new();
    for endpoint in endpoints(context).await? {
        let answer = one(context, &endpoint)?.hash_kv(HashKvRequest { revision }).await?;
        if context.printer.format == Format::Json {
            let body = json::object([
                ("header", json::header(answer.header.as_ref())),
                ("hash", json!(answer.hash)),
                ("compact_revision", json!(answer.compact_revision)),
            ]);
            documents.push(json!({ "Endpoint": endpoint, "HashKV": body }));
        } else {
            emit(&format!("{endpoint}, {}\n", answer.hash));
        }
    }
    if context.printer.format == Format::Json {
        emit(&line(&Value::Array(documents)));
    }
    Ok(())
}

pub async fn alarm_list(context: &Context) -> Result<(), Failure> {
    alarm(context, AlarmAction::Get, 0, AlarmType::None).await.map(|alarms| print_alarms(&alarms))
}

/// Clears every alarm that is raised.
pub async fn alarm_disarm(context: &Context) -> Result<(), Failure> {
    for raised in alarm(context, AlarmAction::Get, 0, AlarmType::None).await? {
        let cleared = alarm(context, AlarmAction::Deactivate, raised.0, raised.1).await?;
        print_alarms(&cleared);
    }
    Ok(())
}

async fn alarm(
    context: &Context,
    action: AlarmAction,
    member_id: u64,
    alarm: AlarmType,
) -> Result<Vec<(u64, AlarmType)>, Failure> {
    let request = AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
    let answer = context.client.alarm(request).await?;
    Ok(answer.alarms.iter().map(|raised| (raised.member_id, raised.alarm())).collect())
}

fn print_alarms(alarms: &[(u64, AlarmType)]) {
    for (member_id, alarm) in alarms {
        emit(&format!("memberID:{member_id} alarm:{} \n", alarm.as_str_name()));
    }
}

pub async fn defrag(context: &Context) -> Result<(), Failure> {
    for endpoint in endpoints(context).await? {
        one(context, &endpoint)?.defragment(DefragmentRequest {}).await?;
        emit(&format!("Finished defragmenting etcd member[{endpoint}]\n"));
    }
    Ok(())
}
