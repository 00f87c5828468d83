//! `member list|add|remove|update|promote`, `move-leader`.

use proa_etcd_client::api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, ResponseHeader, StatusRequest,
};
use prost::Message;

use super::args::{Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, fields_of_header, line, table};
use super::{Context, emit, emit_bytes, endpoints, go, json};

pub const MEMBER_ADD: &[Flag] =
    &[value("peer-urls", "where members reach the new one"), switch("learner", "add it without a vote")];
pub const MEMBER_UPDATE: &[Flag] = &[value("peer-urls", "where members reach it now")];

/// Changes of members have no more forms than etcdctl's.
const NO_FORM: [Format; 2] = [Format::Fields, Format::Table];

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

fn peer_urls(context: &Context) -> Result<(&str, Vec<String>), Failure> {
    match context.args.get("peer-urls") {
        None | Some("") => Err(Failure::args("member peer urls not provided")),
        Some(urls) => Ok((urls, urls.split(',').map(str::to_owned).collect())),
    }
}

pub async fn member_list(context: &Context) -> Result<(), Failure> {
    let answer = context.client.member_list(MemberListRequest { linearizable: true }).await?;
    let rows: Vec<Vec<String>> = answer.members.iter().map(row_of_member).collect();
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json if context.printer.hex => line(&json::object([
            ("header", json::header_in_hex(header)),
            ("members", answer.members.iter().map(json::member_in_hex).collect()),
        ])),
        Format::Json => line(&json_of_change(header, None, &answer.members)),
        Format::Fields => {
            let members: String = answer.members.iter().map(fields_of_member).collect();
            fields_of_header(header) + &members
        }
        Format::Table => table(&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], &rows),
        Format::Protobuf => {
            emit_bytes(&answer.encode_to_vec());
            return Ok(());
        }
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
    let quote = |text: &str| go::quote(text.as_bytes());
    let urls = |name: &str, urls: &[String]| {
        urls.iter().map(|url| format!("\"{name}\" : {}\n", quote(url))).collect::<String>()
    };
    let (peers, clients) = (urls("PeerURL", &member.peer_urls), urls("ClientURL", &member.client_urls));
    format!(
        "\"ID\" : {}\n\"Name\" : {}\n{peers}{clients}\"IsLearner\" : {}\n\n",
        member.id,
        quote(&member.name),
        member.is_learner
    )
}

fn json_of_change(
    header: Option<&ResponseHeader>,
    member: Option<&Member>,
    members: &[Member],
) -> serde_json::Value {
    json::object([
        ("header", json::header(header)),
        ("member", member.map_or(serde_json::Value::Null, json::member)),
        ("members", members.iter().map(json::member).collect()),
    ])
}

/// Prints what changed, in the words given or as its message.
fn print_change(context: &Context, answer: &impl Message, json: serde_json::Value, words: &str) {
    match context.printer.format {
        Format::Json => emit(&line(&json)),
        Format::Protobuf => emit_bytes(&answer.encode_to_vec()),
        Format::Simple | Format::Fields | Format::Table => emit(words),
    }
}

pub async fn member_add(context: &Context) -> Result<(), Failure> {
    let name = match context.args.rest.as_slice() {
        [name] => name,
        [] => return Err(Failure::args("member name not provided")),
        words => {
            let url = words.iter().find(|word| word.to_lowercase().starts_with("http"));
            let hint = url.map_or(String::new(), |url| format!(", did you mean --peer-urls={url}"));
            return Err(Failure::args(format!("too many arguments{hint}")));
        }
    };
    let (urls, peer_urls) = peer_urls(context)?;
    context.printer.refuse(&NO_FORM)?;
    let request = MemberAddRequest { peer_urls, is_learner: context.args.is_on("learner") };
    let answer = context.client.member_add(request).await?;
    let json = json_of_change(answer.header.as_ref(), answer.member.as_ref(), &answer.members);
    print_change(context, &answer, json, &how_to_start(&answer, name, urls));
    Ok(())
}

/// The settings that the new member starts with.
fn how_to_start(answer: &MemberAddResponse, name: &str, urls: &str) -> String {
    let id = answer.member.as_ref().map_or(0, |member| member.id);
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    let mut initial = Vec::new();
    for member in &answer.members {
        let name = if member.id == id { name } else { &member.name };
        initial.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    let quote = |text: &str| go::quote(text.as_bytes());
    format!(
        "Member {id:16x} added to cluster {cluster_id:16x}\n\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name),
        quote(&initial.join(",")),
        quote(urls)
    )
}

pub async fn member_remove(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    context.printer.refuse(&NO_FORM)?;
    let answer = context.client.member_remove(MemberRemoveRequest { id }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    let words = format!("Member {id:16x} removed from cluster {cluster_id:16x}\n");
    print_change(context, &answer, json_of_change(answer.header.as_ref(), None, &answer.members), &words);
    Ok(())
}

pub async fn member_update(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    let (_, peer_urls) = peer_urls(context)?;
    context.printer.refuse(&NO_FORM)?;
    let answer = context.client.member_update(MemberUpdateRequest { id, peer_urls }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    let words = format!("Member {id:16x} updated in cluster {cluster_id:16x}\n");
    print_change(context, &answer, json_of_change(answer.header.as_ref(), None, &answer.members), &words);
    Ok(())
}

pub async fn member_promote(context: &Context) -> Result<(), Failure> {
    let id = only_member(context)?;
    context.printer.refuse(&NO_FORM)?;
    let answer = context.client.member_promote(MemberPromoteRequest { id }).await?;
    let cluster_id = answer.header.unwrap_or_default().cluster_id;
    let words = format!("Member {id:16x} promoted in cluster {cluster_id:16x}\n");
    print_change(context, &answer, json_of_change(answer.header.as_ref(), None, &answer.members), &words);
    Ok(())
}

/// Only the leader hands its office on, so it is looked for first.
pub async fn move_leader(context: &Context) -> Result<(), Failure> {
    let [text] = context.args.rest.as_slice() else {
        return Err(Failure::args("move-leader command needs 1 argument"));
    };
    let target_id = member_id(text)?;
    context.printer.refuse(&NO_FORM)?;
    for endpoint in &context.endpoints {
        let client = endpoints::one(context, endpoint)?;
        let status = client.status(StatusRequest {}).await?;
        let leader = status.leader;
        if status.header.is_none_or(|header| header.member_id != leader) {
            continue;
        }
        let answer = client.move_leader(MoveLeaderRequest { target_id }).await?;
        let words = format!("Leadership transferred from {leader:x} to {target_id:x}\n");
        let json = json::object([("header", json::header(answer.header.as_ref()))]);
        print_change(context, &answer, json, &words);
        return Ok(());
    }
    Err(Failure::args(format!("no leader endpoint given at {}", go::list(&context.endpoints))))
}
