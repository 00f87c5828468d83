//! `lease grant|revoke|timetolive|list|keep-alive`.

use std::time::Duration;

use proa_etcd_client::api::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use serde_json::json;

use super::args::{Flag, switch};
use super::failure::Failure;
use super::print::{Format, fields_of_header, line};
use super::{Context, emit, json};

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
    let answer = context.client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => line(&json::beside_header(
            header,
            [("ID", json!(answer.id)), ("TTL", json!(answer.ttl)), ("Error", json!(answer.error))],
        )),
        Format::Fields => {
            fields_of_header(header) + &format!("\"ID\" : {}\n\"TTL\" : {}\n", answer.id, answer.ttl)
        }
        Format::Simple | Format::Table => {
            format!("lease {:016x} granted with TTL({}s)\n", answer.id, answer.ttl)
        }
    });
    Ok(())
}

pub async fn revoke(context: &Context) -> Result<(), Failure> {
    let id = only_id(context, "revoke")?;
    let answer = context.client.lease_revoke(LeaseRevokeRequest { id }).await;
    let answer = answer.map_err(|error| Failure::error(format!("failed to revoke lease ({error})")))?;
    emit(&match context.printer.format {
        Format::Json => line(&json::object([("header", json::header(answer.header.as_ref()))])),
        Format::Fields => fields_of_header(answer.header.as_ref()),
        Format::Simple | Format::Table => format!("lease {id:016x} revoked\n"),
    });
    Ok(())
}

pub async fn time_to_live(context: &Context) -> Result<(), Failure> {
    let id = only_id(context, "timetolive")?;
    let keys = context.args.is_on("keys");
    let answer = context.client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await?;
    let names: Vec<_> = answer.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => line(&json::beside_header(
            header,
            [
                ("id", json!(answer.id)),
                ("ttl", json!(answer.ttl)),
                ("granted-ttl", json!(answer.granted_ttl)),
                ("keys", answer.keys.iter().map(|key| json::base64(key)).collect()),
            ],
        )),
        Format::Fields => {
            let keys: String = names.iter().map(|name| format!("\"Key\" : {name:?}\n")).collect();
            let numbers = format!(
                "\"ID\" : {}\n\"TTL\" : {}\n\"GrantedTTL\" : {}\n",
                answer.id, answer.ttl, answer.granted_ttl
            );
            fields_of_header(header) + &numbers + &keys
        }
        Format::Simple | Format::Table if answer.granted_ttl == 0 && answer.ttl == -1 => {
            format!("lease {id:016x} already expired\n")
        }
        Format::Simple | Format::Table => {
            let keys = if keys { format!(", attached keys([{}])", names.join(" ")) } else { String::new() };
            format!(
                "lease {id:016x} granted with TTL({}s), remaining({}s){keys}\n",
                answer.granted_ttl, answer.ttl
            )
        }
    });
    Ok(())
}

pub async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context.client.lease_leases(LeaseLeasesRequest {}).await?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => {
            let leases = answer.leases.iter().map(|lease| json!({ "id": lease.id })).collect();
            line(&json::beside_header(header, [("leases", leases)]))
        }
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

/// Renews at a third of the lease's time, as etcd's client does.
pub async fn keep_alive(context: &Context) -> Result<(), Failure> {
    let id = only_id(context, "keep-alive")?;
    loop {
        let answer = context.client.lease_keep_alive_once(id).await?;
        let header = answer.header.as_ref();
        if answer.ttl <= 0 {
            if context.args.is_on("once") {
                return Err(Failure::connection("etcdserver: requested lease not found"));
            }
            emit(&format!("lease {id:016x} expired or revoked.\n"));
            return Ok(());
        }
        emit(&match context.printer.format {
            Format::Json => {
                line(&json::beside_header(header, [("id", json!(id)), ("ttl", json!(answer.ttl))]))
            }
            Format::Fields => {
                fields_of_header(header) + &format!("\"ID\" : {id}\n\"TTL\" : {}\n", answer.ttl)
            }
            Format::Simple | Format::Table => {
                format!("lease {id:016x} keepalived with TTL({})\n", answer.ttl)
            }
        });
        if context.args.is_on("once") {
            return Ok(());
        }
        let pause_ms = u64::try_from(answer.ttl).unwrap_or(1).saturating_mul(1000) / 3;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}
