//! `endpoint status|health|hashkv`, `defrag`, `alarm`: each member by itself.

use std::time::Instant;

use proa_etcd_client::api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_client::api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, HashKvRequest, HashKvResponse,
    MemberListRequest, RangeRequest, StatusRequest, StatusResponse,
};
use proa_etcd_client::{Client, Code};
use prost::Message as _;
use serde_json::{Value, json};

use super::args::{Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, fields_of_header, human_bytes, line, table};
use super::{Context, emit, emit_bytes, go, json};

pub const ENDPOINT: &[Flag] = &[switch("cluster", "all endpoints of the member list")];
pub const DEFRAG: &[Flag] =
    &[ENDPOINT[0], value("data-dir", "not supported: a member that starts gives space back by itself")];
pub const HASH_KV: &[Flag] =
    &[switch("cluster", "all endpoints of the member list"), value("rev", "up to this revision")];

/// The endpoints that are asked one by one.
async fn endpoints(context: &Context) -> Result<Vec<String>, Failure> {
    if !context.args.is_on("cluster") {
        return Ok(context.endpoints.clone());
    }
    let members = context.client.member_list(MemberListRequest { linearizable: true }).await;
    let members = members.map_err(|error| {
        Failure::error(format!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}

/// A client of one endpoint alone.
pub fn one(context: &Context, endpoint: &str) -> Result<Client, Failure> {
    context.connect(&[endpoint.to_owned()])
}

pub async fn endpoint_status(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Protobuf])?;
    let mut found = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(context).await? {
        match one(context, &endpoint)?.status(StatusRequest {}).await {
            Ok(status) => found.push((endpoint, status)),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                failed = true;
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
        #[rustfmt::skip]
        Format::Table => table(
            &[
                "ENDPOINT", "ID", "VERSION", "DB SIZE", "IS LEADER", "IS LEARNER", "RAFT TERM", "RAFT INDEX",
                "RAFT APPLIED INDEX", "ERRORS",
            ],
            &rows,
        ),
        Format::Simple | Format::Protobuf => rows.iter().map(|row| row.join(", ") + "\n").collect(),
    });
    if failed { Err(Failure::said()) } else { Ok(()) }
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
            "\"Version\" : {}\n\"DBSize\" : {}\n\"Leader\" : {}\n\"IsLearner\" : {}\n\"RaftIndex\" : {}\n\"RaftTerm\" : {}\n\"RaftAppliedIndex\" : {}\n\"Errors\" : {}\n\"Endpoint\" : {}\n\n",
            go::quote(status.version.as_bytes()),
            status.db_size,
            status.leader,
            status.is_learner,
            status.raft_index,
            status.raft_term,
            status.raft_applied_index,
            go::list(&status.errors),
            go::quote(endpoint.as_bytes())
        )
}

/// How one endpoint is.
struct Health {
    endpoint: String,
    took: String,
    /// Why it is not well; empty when it is.
    error: String,
}

impl Health {
    fn is_well(&self) -> bool {
        self.error.is_empty()
    }

    /// Well is who answers a read that needs the majority.
    async fn check(endpoint: String, client: Client) -> Self {
        let begun = Instant::now();
        let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
        let mut error = match client.range(request).await {
            // A member that may not read this key is well, too.
            Ok(_) => String::new(),
            Err(error) if error.is_refused(Code::PermissionDenied) => String::new(),
            Err(error) => error.to_string(),
        };
        if error.is_empty() {
            error = raised_alarms(&client).await;
        }
        Self { endpoint, took: go::duration(begun.elapsed()), error }
    }
}

/// What etcdctl 3.5 says of alarms; empty when there is none.
async fn raised_alarms(client: &Client) -> String {
    let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
    match client.alarm(request).await {
        Ok(answer) if !answer.alarms.is_empty() => {
            let names: Vec<_> = answer.alarms.iter().map(|raised| raised.alarm().as_str_name()).collect();
            format!("Active Alarm(s): {} ", names.join(", "))
        }
        Ok(_) => String::new(),
        // Not every user may look at alarms.
        Err(error) if error.is_refused(Code::PermissionDenied) => String::new(),
        Err(error) => format!("Unable to fetch the alarm list ({error})"),
    }
}

pub async fn endpoint_health(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Protobuf])?;
    // All at once: one that hangs must not make the others look slow.
    let mut checks = Vec::new();
    for endpoint in endpoints(context).await? {
        let client = one(context, &endpoint)?;
        checks.push(tokio::spawn(Health::check(endpoint, client)));
    }
    let mut found = Vec::new();
    for check in checks {
        let health = check.await;
        found.push(health.map_err(|error| Failure::error(format!("a check ended early: {error}")))?);
    }
    match context.printer.format {
        Format::Json => emit(&line(&found.iter().map(json_of_health).collect())),
        Format::Fields => found.iter().for_each(|health| {
            emit(&format!(
                "\"Endpoint\" : {}\n\"Health\" : {}\n\"Took\" : {}\n\"Error\" : {}\n\n",
                go::quote(health.endpoint.as_bytes()),
                health.is_well(),
                health.took,
                health.error
            ));
        }),
        Format::Table => {
            let row = |health: &Health| {
                let (endpoint, took, error) = (&health.endpoint, &health.took, &health.error);
                vec![endpoint.clone(), health.is_well().to_string(), took.clone(), error.clone()]
            };
            let rows: Vec<_> = found.iter().map(row).collect();
            emit(&table(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"], &rows));
        }
        Format::Simple | Format::Protobuf => found.iter().for_each(|health| {
            let endpoint = &health.endpoint;
            if health.is_well() {
                let took = &health.took;
                emit(&format!("{endpoint} is healthy: successfully committed proposal: took = {took}\n"));
            } else {
                eprintln!("{endpoint} is unhealthy: failed to commit proposal: {}", health.error);
            }
        }),
    }
    if found.iter().all(Health::is_well) { Ok(()) } else { Err(Failure::error("unhealthy cluster")) }
}

fn json_of_health(health: &Health) -> Value {
    let mut value = json!({ "endpoint": health.endpoint, "health": health.is_well(), "took": health.took });
    if !health.is_well() {
        value["error"] = json!(health.error);
    }
    value
}

pub async fn endpoint_hashkv(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Protobuf])?;
    let revision = context.args.number("rev", 0)?;
    let mut found: Vec<(String, HashKvResponse)> = Vec::new();
    let mut failure = None;
    for endpoint in endpoints(context).await? {
        match one(context, &endpoint)?.hash_kv(HashKvRequest { revision }).await {
            Ok(answer) => found.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                failure = Some(error);
            }
        }
    }
    let rows: Vec<_> =
        found.iter().map(|(endpoint, answer)| vec![endpoint.clone(), answer.hash.to_string()]).collect();
    emit(&match context.printer.format {
        Format::Json => line(
            &found
                .iter()
                .map(|(endpoint, answer)| json!({ "Endpoint": endpoint, "HashKV": json::hash_kv(answer) }))
                .collect(),
        ),
        Format::Fields => found
            .iter()
            .map(|(endpoint, answer)| {
                let endpoint = go::quote(endpoint.as_bytes());
                let body = format!("\"Endpoint\" : {endpoint}\n\"Hash\" : {}\n\n", answer.hash);
                fields_of_header(answer.header.as_ref()) + &body
            })
            .collect(),
        Format::Table => table(&["ENDPOINT", "HASH"], &rows),
        Format::Simple | Format::Protobuf => rows.iter().map(|row| row.join(", ") + "\n").collect(),
    });
    failure.map_or(Ok(()), |error| Err(error.into()))
}

pub async fn alarm_list(context: &Context) -> Result<(), Failure> {
    alarm(context, AlarmAction::Get).await
}

/// Clears every alarm that is raised, and prints those that were.
pub async fn alarm_disarm(context: &Context) -> Result<(), Failure> {
    alarm(context, AlarmAction::Deactivate).await
}

async fn alarm(context: &Context, action: AlarmAction) -> Result<(), Failure> {
    if !context.args.rest.is_empty() {
        let command = if action == AlarmAction::Get { "list" } else { "disarm" };
        return Err(Failure::args(format!("alarm {command} command accepts no arguments")));
    }
    context.printer.refuse(&[Format::Table])?;
    let get = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
    let mut answer = context.client.alarm(get).await?;
    if action == AlarmAction::Deactivate {
        let mut cleared = Vec::new();
        for raised in &answer.alarms {
            let (member_id, alarm) = (raised.member_id, raised.alarm);
            let request = AlarmRequest { action: action.into(), member_id, alarm };
            cleared.extend(context.client.alarm(request).await?.alarms);
        }
        // Several answers have no common header.
        answer = AlarmResponse { alarms: cleared, header: None };
    }
    print_alarms(context, &answer);
    Ok(())
}

fn print_alarms(context: &Context, answer: &AlarmResponse) {
    let name = |raised: i32| AlarmType::try_from(raised).unwrap_or_default().as_str_name();
    match context.printer.format {
        Format::Json => emit(&line(&json::alarms(answer))),
        Format::Protobuf => emit_bytes(&answer.encode_to_vec()),
        Format::Fields => {
            emit(&fields_of_header(answer.header.as_ref()));
            for raised in &answer.alarms {
                let (id, name) = (raised.member_id, name(raised.alarm));
                emit(&format!("\"MemberID\" : {id}\n\"AlarmType\" : {name}\n\n"));
            }
        }
        Format::Simple | Format::Table => {
            for raised in &answer.alarms {
                emit(&format!("memberID:{} alarm:{} \n", raised.member_id, name(raised.alarm)));
            }
        }
    }
}

pub async fn defrag(context: &Context) -> Result<(), Failure> {
    if context.args.get("data-dir").is_some() {
        let text =
            "--data-dir is not supported, leave it out: a member that starts gives space back by itself";
        return Err(Failure::flag(text));
    }
    let mut failed = false;
    for endpoint in endpoints(context).await? {
        match one(context, &endpoint)?.defragment(DefragmentRequest {}).await {
            Ok(_) => emit(&format!("Finished defragmenting etcd member[{endpoint}]\n")),
            Err(error) => {
                eprintln!("Failed to defragment etcd member[{endpoint}] ({error})");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::said()) } else { Ok(()) }
}
