//! `user add|delete|get|list|passwd|grant-role|revoke-role`.

use std::io::BufRead as _;

use proa_etcd_client::api::authpb::UserAddOptions;
use proa_etcd_client::api::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

use super::args::{Flag, switch, value};
use super::auth::{emit_done, emit_names};
use super::failure::Failure;
use super::print::Format;
use super::role::permissions;
use super::terminal::ask_twice;
use super::{Context, emit};

pub const ADD: &[Flag] = &[
    switch("no-password", "a user without a password: known by a client certificate only"),
    value("new-user-password", "the password (everybody on this machine can see it)"),
    switch("interactive", "ask on the terminal (default true); false reads one line of standard input"),
];
pub const PASSWD: &[Flag] =
    &[switch("interactive", "ask on the terminal (default true); false reads one line of standard input")];
pub const GET: &[Flag] = &[switch("detail", "show the permissions of the user's roles too")];

fn is_interactive(context: &Context) -> bool {
    context.args.get("interactive").is_none() || context.args.is_on("interactive")
}

/// One line of standard input.
fn read_password() -> Result<String, Failure> {
    let mut password = String::new();
    let read = std::io::stdin().lock().read_line(&mut password);
    read.map_err(|error| Failure::args(format!("failed to read password: {error}")))?;
    Ok(password.trim_end_matches(['\n', '\r']).to_owned())
}

fn new_password(context: &Context, name: &str) -> Result<String, Failure> {
    if is_interactive(context) { ask_twice(name) } else { read_password() }
}

pub async fn add(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Table])?;
    let [given] = context.args.rest.as_slice() else {
        return Err(Failure::args("user add command requires user name as its argument"));
    };
    let no_password = context.args.is_on("no-password");
    let flag = context.args.get("new-user-password").filter(|password| !password.is_empty());
    let empty = || Failure::args("empty user name is not allowed");
    let (name, password) = match (given.split_once(':'), flag) {
        _ if no_password => (given.as_str(), String::new()),
        (_, Some(password)) => (given.as_str(), password.to_owned()),
        (Some((name, password)), None) => (name, password.to_owned()),
        (None, None) if given.is_empty() => return Err(empty()),
        (None, None) => (given.as_str(), new_password(context, given)?),
    };
    if name.is_empty() {
        return Err(empty());
    }
    let request = AuthUserAddRequest {
        name: name.to_owned(),
        password,
        options: Some(UserAddOptions { no_password }),
        ..AuthUserAddRequest::default()
    };
    let answer = context.client.user_add(request).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("User {name} created"));
    Ok(())
}

fn only_name<'a>(context: &'a Context, command: &str) -> Result<&'a str, Failure> {
    context.printer.refuse(&[Format::Table])?;
    match context.args.rest.as_slice() {
        [name] => Ok(name),
        _ => Err(Failure::args(format!("user {command} command requires user name as its argument"))),
    }
}

pub async fn delete(context: &Context) -> Result<(), Failure> {
    let name = only_name(context, "delete")?;
    let answer = context.client.user_delete(AuthUserDeleteRequest { name: name.to_owned() }).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("User {name} deleted"));
    Ok(())
}

pub async fn get(context: &Context) -> Result<(), Failure> {
    let name = only_name(context, "get")?;
    context.printer.refuse(&[Format::Fields])?;
    let answer = context.client.user_get(AuthUserGetRequest { name: name.to_owned() }).await?;
    if context.args.is_on("detail") {
        emit(&format!("User: {name}\n"));
        for role in &answer.roles {
            let found = context.client.role_get(AuthRoleGetRequest { role: role.clone() }).await?;
            emit(&format!("\n{}", permissions(role, &found.perm)));
        }
        return Ok(());
    }
    match context.printer.format {
        Format::Simple | Format::Table => {
            let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
            emit(&format!("User: {name}\nRoles:{roles}\n"));
        }
        Format::Json | Format::Fields | Format::Protobuf => {
            emit_names(context, &answer, answer.header.as_ref(), "roles", &answer.roles);
        }
    }
    Ok(())
}

pub async fn list(context: &Context) -> Result<(), Failure> {
    if !context.args.rest.is_empty() {
        return Err(Failure::args("user list command requires no arguments"));
    }
    context.printer.refuse(&[Format::Fields, Format::Table])?;
    let answer = context.client.user_list(AuthUserListRequest {}).await?;
    emit_names(context, &answer, answer.header.as_ref(), "users", &answer.users);
    Ok(())
}

pub async fn passwd(context: &Context) -> Result<(), Failure> {
    let name = only_name(context, "passwd")?;
    let password = new_password(context, name)?;
    let request = AuthUserChangePasswordRequest {
        name: name.to_owned(),
        password,
        ..AuthUserChangePasswordRequest::default()
    };
    let answer = context.client.user_change_password(request).await?;
    emit_done(context, &answer, answer.header.as_ref(), "Password updated");
    Ok(())
}

fn user_and_role<'a>(context: &'a Context, command: &str) -> Result<(&'a str, &'a str), Failure> {
    context.printer.refuse(&[Format::Table])?;
    match context.args.rest.as_slice() {
        [user, role] => Ok((user, role)),
        _ => Err(Failure::args(format!("user {command} requires user name and role name as its argument"))),
    }
}

pub async fn grant_role(context: &Context) -> Result<(), Failure> {
    let (user, role) = user_and_role(context, "grant command")?;
    let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    let answer = context.client.user_grant_role(request).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("Role {role} is granted to user {user}"));
    Ok(())
}

pub async fn revoke_role(context: &Context) -> Result<(), Failure> {
    let (user, role) = user_and_role(context, "revoke-role")?;
    let request = AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
    let answer = context.client.user_revoke_role(request).await?;
    emit_done(context, &answer, answer.header.as_ref(), &format!("Role {role} is revoked from user {user}"));
    Ok(())
}
