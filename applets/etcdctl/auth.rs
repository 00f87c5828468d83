//! `auth enable|disable|status`.

use proa_etcd_client::Error;
use proa_etcd_client::api::EtcdError;
use proa_etcd_client::api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGetRequest, AuthStatusRequest,
    AuthUserGrantRoleRequest, ResponseHeader,
};
use prost::Message;
use serde_json::{Value, json};

use super::failure::Failure;
use super::print::{Format, fields_of_header, line};
use super::{Context, emit, emit_bytes, go, json};

fn no_arguments(context: &Context, command: &str) -> Result<(), Failure> {
    match context.args.rest.as_slice() {
        [] => context.printer.refuse(&[Format::Table]),
        _ => Err(Failure::args(format!("auth {command} command does not accept any arguments"))),
    }
}

/// An answer that is nothing but a header, and a sentence for people.
pub fn emit_done(context: &Context, answer: &impl Message, header: Option<&ResponseHeader>, simple: &str) {
    emit(&match context.printer.format {
        Format::Json => line(&json::object([("header", json::header(header))])),
        Format::Fields => fields_of_header(header),
        Format::Protobuf => return emit_bytes(&answer.encode_to_vec()),
        Format::Simple | Format::Table => format!("{simple}\n"),
    });
}

/// An answer with a list of names.
pub fn emit_names(
    context: &Context,
    answer: &impl Message,
    header: Option<&ResponseHeader>,
    what: &str,
    names: &[String],
) {
    emit(&match context.printer.format {
        Format::Json => {
            let names = Value::from(names.to_vec());
            line(&json::object([("header", json::header(header)), (what, names)]))
        }
        Format::Fields => fields_of_header(header) + &go_list(what, names),
        Format::Protobuf => return emit_bytes(&answer.encode_to_vec()),
        Format::Simple | Format::Table => names.iter().map(|name| format!("{name}\n")).collect(),
    });
}

fn go_list(what: &str, names: &[String]) -> String {
    let names: String = names.iter().map(|name| format!(" {}", go::quote(name.as_bytes()))).collect();
    let (first, rest) = what.split_at(1);
    format!("\"{}{rest}\" :{names}\n", first.to_uppercase())
}

fn is_refused(error: &Error, why: EtcdError) -> bool {
    matches!(error, Error::Refused { text, .. } if text == why.text())
}

pub async fn enable(context: &Context) -> Result<(), Failure> {
    no_arguments(context, "enable")?;
    let answer = match context.client.auth_enable(AuthEnableRequest {}).await {
        // As etcd's own: the user root is what only a person can make.
        Err(error) if is_refused(&error, EtcdError::RootRoleNotExist) => {
            let root = "root".to_owned();
            let look = AuthRoleGetRequest { role: root.clone() };
            if context.client.role_get(look).await.is_err() {
                context.client.role_add(AuthRoleAddRequest { name: root.clone() }).await?;
            }
            let grant = AuthUserGrantRoleRequest { user: root.clone(), role: root };
            context.client.user_grant_role(grant).await?;
            context.client.auth_enable(AuthEnableRequest {}).await?
        }
        answer => answer?,
    };
    emit_done(context, &answer, answer.header.as_ref(), "Authentication Enabled");
    Ok(())
}

pub async fn disable(context: &Context) -> Result<(), Failure> {
    no_arguments(context, "disable")?;
    let answer = context.client.auth_disable(AuthDisableRequest {}).await?;
    emit_done(context, &answer, answer.header.as_ref(), "Authentication Disabled");
    Ok(())
}

pub async fn status(context: &Context) -> Result<(), Failure> {
    no_arguments(context, "status")?;
    let answer = context.client.auth_status(AuthStatusRequest {}).await?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => line(&json::object([
            ("header", json::header(header)),
            ("enabled", json!(answer.enabled)),
            ("authRevision", json!(answer.auth_revision)),
        ])),
        Format::Fields => {
            let status =
                format!("\"Enabled\" : {}\n\"AuthRevision\" : {}\n", answer.enabled, answer.auth_revision);
            fields_of_header(header) + &status
        }
        Format::Protobuf => {
            emit_bytes(&answer.encode_to_vec());
            return Ok(());
        }
        Format::Simple | Format::Table => {
            format!("Authentication Status: {}\nAuthRevision: {}\n", answer.enabled, answer.auth_revision)
        }
    });
    Ok(())
}
