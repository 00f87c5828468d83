//! `role add|delete|get|list|grant-permission|revoke-permission`.

use proa_etcd_client::api::authpb::{Permission, permission::Type};
use proa_etcd_client::api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleListRequest, AuthRoleRevokePermissionRequest,
};
use proa_etcd_client::prefix_range;
use prost::Message as _;
use serde_json::{Value, json};

use super::args::{Flag, switch};
use super::auth::{emit_done, emit_names};
use super::failure::Failure;
use super::print::{Format, fields_of_header, line};
use super::{Context, emit, emit_bytes, go, json};

pub const RANGE: &[Flag] =
    &[switch("prefix", "every key with this prefix"), switch("from-key", "every key from this one on")];

fn only_role<'a>(context: &'a Context, command: &str) -> Result<&'a str, Failure> {
    context.printer.refuse(&[Format::Table])?;
    match context.args.rest.as_slice() {
        [role] => Ok(role),
        _ => Err(Failure::args(format!("role {command} command requires role name as its argument"))),
    }
}

pub async fn add(context: &Context) -> Result<(), Failure> {
    let name = only_role(context, "add")?;
    let answer = context.client.role_add(AuthRoleAddRequest { name: name.to_owned() }).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("Role {name} created"));
    Ok(())
}

pub async fn delete(context: &Context) -> Result<(), Failure> {
    let role = only_role(context, "delete")?;
    let answer = context.client.role_delete(AuthRoleDeleteRequest { role: role.to_owned() }).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("Role {role} deleted"));
    Ok(())
}

pub async fn list(context: &Context) -> Result<(), Failure> {
    if !context.args.rest.is_empty() {
        return Err(Failure::args("role list command requires no arguments"));
    }
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.role_list(AuthRoleListRequest {}).await?;
    emit_names(context, &answer, answer.header.as_ref(), "roles", &answer.roles);
    Ok(())
}

pub async fn get(context: &Context) -> Result<(), Failure> {
    let role = only_role(context, "get")?;
    let answer = context.client.role_get(AuthRoleGetRequest { role: role.to_owned() }).await?;
    let header = answer.header.as_ref();
    emit(&match context.printer.format {
        Format::Json => {
            let perm = answer.perm.iter().map(permission_json).collect();
            line(&json::object([("header", json::header(header)), ("perm", Value::Array(perm))]))
        }
        Format::Fields => fields_of_header(header) + &answer.perm.iter().map(fields).collect::<String>(),
        Format::Protobuf => {
            emit_bytes(&answer.encode_to_vec());
            return Ok(());
        }
        Format::Simple | Format::Table => permissions(role, &answer.perm),
    });
    Ok(())
}

fn permission_json(permission: &Permission) -> Value {
    json::object([
        ("permType", json!(permission.perm_type)),
        ("key", json::base64(&permission.key)),
        ("range_end", json::base64(&permission.range_end)),
    ])
}

fn fields(permission: &Permission) -> String {
    format!(
        "\"PermType\" :  {}\n\"Key\" : {}\n\"RangeEnd\" : {}\n",
        permission.perm_type().as_str_name(),
        go::quote(&permission.key),
        go::quote(&permission.range_end)
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The permissions of a role as people read them.
///
/// Source: etcdctl's `printRolePermissions`.
pub fn permissions(role: &str, given: &[Permission]) -> String {
    let lines = |kind: Type| {
        let allows = move |one: &&Permission| one.perm_type() == kind || one.perm_type() == Type::Readwrite;
        given.iter().filter(allows).map(|one| range(one) + "\n").collect::<String>()
    };
    format!("Role {role}\nKV Read:\n{}KV Write:\n{}", lines(Type::Read), lines(Type::Write))
}

fn range(permission: &Permission) -> String {
    let (key, end) = (text(&permission.key), text(&permission.range_end));
    let range = match permission.range_end.as_ref() {
        [] => return format!("\t{key}"),
        [0] => format!("\t[{key}, <open ended>"),
        _ => format!("\t[{key}, {end})"),
    };
    let is_prefix = prefix_range(&permission.key) == (permission.key.clone(), permission.range_end.clone());
    if is_prefix && !key.is_empty() { format!("{range} (prefix {key})") } else { range }
}

type Bounds = (Vec<u8>, Vec<u8>);

/// The range that a key, an end and the flags name.
fn bounds(context: &Context, key: &str, end: Option<&String>) -> Result<Bounds, Failure> {
    context.printer.refuse(&[Format::Table])?;
    let (prefix, from_key) = (context.args.is_on("prefix"), context.args.is_on("from-key"));
    if prefix && from_key {
        return Err(Failure::args("--from-key and --prefix flags are mutually exclusive"));
    }
    if (prefix || from_key) && end.is_some() {
        let flag = if prefix { "--prefix" } else { "--from-key" };
        return Err(Failure::args(format!("unexpected endkey argument with {flag} flag")));
    }
    // An empty key is the first one, as in etcdctl.
    let first = if key.is_empty() { vec![0] } else { key.as_bytes().to_vec() };
    Ok(match end {
        None if prefix => {
            let (from, end) = prefix_range(key.as_bytes());
            (from.to_vec(), end.to_vec())
        }
        None if from_key => (first, vec![0]),
        Some(end) => (first, end.as_bytes().to_vec()),
        None => (first, Vec::new()),
    })
}

pub async fn grant_permission(context: &Context) -> Result<(), Failure> {
    let (role, kind, key, end) = match context.args.rest.as_slice() {
        [role, kind, key] => (role, kind, key, None),
        [role, kind, key, end] => (role, kind, key, Some(end)),
        _ => {
            return Err(Failure::args(
                "role grant command requires role name, permission type, and key [endkey] as its argument",
            ));
        }
    };
    let perm_type = match kind.to_ascii_lowercase().as_str() {
        "read" => Type::Read,
        "write" => Type::Write,
        "readwrite" => Type::Readwrite,
        _ => {
            return Err(Failure::args(format!(
                "invalid permission type: {kind}: give read, write or readwrite"
            )));
        }
    };
    let (key, range_end) = bounds(context, key, end)?;
    let perm = Permission { perm_type: perm_type as i32, key: key.into(), range_end: range_end.into() };
    let request = AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(perm) };
    let answer = context.client.role_grant_permission(request).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("Role {role} updated"));
    Ok(())
}

pub async fn revoke_permission(context: &Context) -> Result<(), Failure> {
    let (role, given, end) = match context.args.rest.as_slice() {
        [role, key] => (role, key, None),
        [role, key, end] => (role, key, Some(end)),
        _ => {
            return Err(Failure::args(
                "role revoke-permission command requires role name and key [endkey] as its argument",
            ));
        }
    };
    let (key, range_end) = bounds(context, given, end)?;
    let shown_end = text(&range_end);
    let is_open = range_end == [0];
    let request =
        AuthRoleRevokePermissionRequest { role: role.clone(), key: key.into(), range_end: range_end.into() };
    let answer = context.client.role_revoke_permission(request).await?;
    let what = match shown_end.as_str() {
        "" => format!("key {given}"),
        _ if is_open => format!("range [{given}, <open ended>"),
        end => format!("range [{given}, {end})"),
    };
    let simple = format!("Permission of {what} is revoked from role {role}");
    emit_done(context, &answer, answer.header.as_ref(), &simple);
    Ok(())
}
