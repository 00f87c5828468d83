//! `lease grant|revoke|timetolive|list|keep-alive`.

use proa_etcd_client::api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::args::{Flag, switch};
use super::failure::Failure;
use super::print::{Format, fields_of_header, line};
use super::{Context, emit, emit_bytes, go, json};

pub const TIME_TO_LIVE: &[Flag] = &[switch("keys", "list the keys attached to the lease")];
pub const KEEP_ALIVE: &[Flag] = &[switch("once", "renew once and end")];

/// A lease id: hexadecimal, as every command prints it.
pub fn parse_id(text: &str) -> Result<i64, Failure> {
    let wrong =
        |_| Failure::args(format!("bad lease ID {text:?}: give it in hexadecimal, as lease grant prints it"));
    i64::from_str_radix(text, 16).map_err(wrong)
}

fn only_id(context: &Context, command: &str) -> Result<i64, Failure> {
    match context.args.rest.as_slice() {
        [id] => parse_id(id),
        _ => Err(Failure::args(format!("lease {command} command needs lease ID as argument"))),
    }
}

pub async fn grant(context: &Context) -> Result<(), Failure> {
    let [text] = context.args.rest.as_slice() else {
        return Err(Failure::args("lease grant command needs TTL argument"));
    };
    let ttl =
        text.parse().map_err(|_| Failure::args(format!("bad TTL {text:?}: give a number of seconds")))?;
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let answer = answer.map_err(|error| Failure::error(format!("failed to grant lease ({error})")))?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => line(&json::beside_header(
            header,
            [("ID", json!(answer.id)), ("TTL", json!(answer.ttl)), ("Error", json!(answer.error))],
        )),
        Format::Fields => {
            fields_of_header(header) + &format!("\"ID\" : {}\n\"TTL\" : {}\n", answer.id, answer.ttl)
        }
        Format::Protobuf => return message(&answer),
        Format::Simple | Format::Table => {
            format!("lease {:016x} granted with TTL({}s)\n", answer.id, answer.ttl)
        }
    });
    Ok(())
}

pub async fn revoke(context: &Context) -> Result<(), Failure> {
    let [text] = context.args.rest.as_slice() else {
        return Err(Failure::args("lease revoke command needs 1 argument"));
    };
    let id = parse_id(text)?;
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.lease_revoke(LeaseRevokeRequest { id }).await;
    let answer = answer.map_err(|error| Failure::error(format!("failed to revoke lease ({error})")))?;
    emit(&match context.printer.format {
        Format::Json => line(&json::object([("header", json::header(answer.header.as_ref()))])),
        Format::Fields => fields_of_header(answer.header.as_ref()),
        Format::Protobuf => return message(&answer),
        Format::Simple | Format::Table => format!("lease {id:016x} revoked\n"),
    });
    Ok(())
}

pub async fn time_to_live(context: &Context) -> Result<(), Failure> {
    let id = only_id(context, "timetolive")?;
    let keys = context.args.is_on("keys");
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await;
    let answer = answer.map_err(|error| Failure::connection(error.to_string()))?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => line(&json::beside_header(
            header,
            [
                ("id", json!(answer.id)),
                ("ttl", json!(answer.ttl)),
                ("granted-ttl", json!(answer.granted_ttl)),
                ("keys", keys_of(&answer.keys)),
            ],
        )),
        Format::Fields => {
            let keys: String =
                answer.keys.iter().map(|key| format!("\"Key\" : {}\n", go::quote(key))).collect();
            let numbers = format!(
                "\"ID\" : {}\n\"TTL\" : {}\n\"GrantedTTL\" : {}\n",
                answer.id, answer.ttl, answer.granted_ttl
            );
            fields_of_header(header) + &numbers + &keys
        }
        Format::Protobuf => return message(&answer),
        Format::Simple | Format::Table if answer.granted_ttl == 0 && answer.ttl == -1 => {
            format!("lease {id:016x} already expired\n")
        }
        Format::Simple | Format::Table => {
            let names: Vec<_> = answer.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
            let keys = if keys { format!(", attached keys({})", go::list(&names)) } else { String::new() };
            format!(
                "lease {id:016x} granted with TTL({}s), remaining({}s){keys}\n",
                answer.granted_ttl, answer.ttl
            )
        }
    });
    Ok(())
}

/// Keys as Go writes a list of bytes: none of them is `null`.
fn keys_of(keys: &[prost::bytes::Bytes]) -> Value {
    if keys.is_empty() { Value::Null } else { keys.iter().map(|key| json::base64(key)).collect() }
}

fn message(answer: &impl prost::Message) -> Result<(), Failure> {
    emit_bytes(&answer.encode_to_vec());
    Ok(())
}

pub async fn list(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.lease_leases(LeaseLeasesRequest {}).await;
    let answer = answer.map_err(|error| Failure::connection(error.to_string()))?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => {
            let leases = answer.leases.iter().map(|lease| json!({ "id": lease.id })).collect();
            line(&json::beside_header(header, [("leases", leases)]))
        }
        Format::Protobuf => return message(&answer),
        Format::Fields => {
            let leases: String =
                answer.leases.iter().map(|lease| format!("\"ID\" : {}\n", lease.id)).collect();
            fields_of_header(header) + &leases
        }
        Format::Simple | Format::Table => {
            let leases: String = answer.leases.iter().map(|lease| format!("{:016x}\n", lease.id)).collect();
            format!("found {} leases\n{leases}", answer.leases.len())
        }
    });
    Ok(())
}

pub async fn keep_alive(context: &Context) -> Result<(), Failure> {
    let id = only_id(context, "keep-alive")?;
    context.printer.refuse(&[Format::Table])?;
    if context.args.is_on("once") {
        let answer = context.client.lease_keep_alive_once(id).await;
        let answer = answer.map_err(|error| Failure::connection(error.to_string()))?;
        if answer.ttl <= 0 {
            return Err(Failure::connection("etcdserver: requested lease not found"));
        }
        print_kept(context, &answer);
        return Ok(());
    }
    let mut kept = context.client.keep_alive(id);
    while let Some(answer) = kept.next().await {
        print_kept(context, &answer);
    }
    if context.printer.format == Format::Simple {
        emit(&format!("lease {id:016x} expired or revoked.\n"));
    }
    Ok(())
}

fn print_kept(context: &Context, answer: &LeaseKeepAliveResponse) {
    let header = answer.header.as_ref();
    emit_bytes(&match context.printer.format {
        Format::Json => {
            let fields = [("ID", json!(answer.id)), ("TTL", json!(answer.ttl))];
            line(&json::beside_header(header, fields)).into_bytes()
        }
        Format::Fields => {
            let fields = format!("\"ID\" : {}\n\"TTL\" : {}\n", answer.id, answer.ttl);
            (fields_of_header(header) + &fields).into_bytes()
        }
        Format::Protobuf => answer.encode_to_vec(),
        Format::Simple | Format::Table => {
            format!("lease {:016x} keepalived with TTL({})\n", answer.id, answer.ttl).into_bytes()
        }
    });
}
