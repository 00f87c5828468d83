//! `mk mkdir rm rmdir get ls set setdir update updatedir`.

use std::io::Read as _;

use hyper::Method;

use super::super::args::{Flag, switch, value};
use super::super::emit;
use super::super::http::escape;
use super::node::{Node, Response};
use super::{Context, End, Output};

const TTL_FLAG: Flag = value("ttl", "seconds to live");
pub const TTL: &[Flag] = &[TTL_FLAG];
pub const MK: &[Flag] =
    &[switch("in-order", "make a key below KEY whose name is in order of time"), TTL_FLAG];
pub const SET: &[Flag] = &[
    TTL_FLAG,
    value("swap-with-value", "only when this is the value"),
    value("swap-with-index", "only when it was changed at this index"),
];
pub const RM: &[Flag] = &[
    switch("dir", "an empty directory too"),
    switch("recursive", "and all below it (-r)"),
    value("with-value", "only when this is the value"),
    value("with-index", "only when it was changed at this index"),
];
pub const GET: &[Flag] = &[switch("sort", "accepted"), switch("quorum", "ask the majority (-q)")];
pub const LS: &[Flag] = &[
    switch("sort", "in order"),
    switch("recursive", "and all below (-r)"),
    switch("p", "a slash behind directories"),
    switch("quorum", "ask the majority (-q)"),
];

/// More than a member takes in one request.
const MAX_VALUE_BYTES: u64 = 1 << 30;

/// The address of a key below `/v2/keys`.
pub fn path_of(key: &str) -> String {
    format!("/v2/keys/{}", escape(key.trim_start_matches('/')))
}

/// `name=value` pairs, of which those without a value are left out.
fn form(pairs: &[(&str, Option<String>)]) -> String {
    let one = |(name, value): &(&str, Option<String>)| {
        value.as_ref().map(|value| format!("{name}={}", escape(value).replace('/', "%2F")))
    };
    pairs.iter().filter_map(one).collect::<Vec<_>>().join("&")
}

fn when(is_on: bool) -> Option<String> {
    is_on.then(|| "true".to_owned())
}

/// What a write demands of what is there.
enum Existing {
    Any,
    Must,
    MustNot,
}

impl Existing {
    fn word(&self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Must => Some("true".to_owned()),
            Self::MustNot => Some("false".to_owned()),
        }
    }
}

/// The value: the second argument, or standard input.
fn given_value(context: &Context) -> Result<String, End> {
    if let Some(value) = context.args.rest.get(1) {
        return Ok(value.clone());
    }
    let mut value = String::new();
    match std::io::stdin().lock().take(MAX_VALUE_BYTES).read_to_string(&mut value) {
        Ok(count) if count > 0 => Ok(value),
        Ok(_) | Err(_) => Err(End::args("value required")),
    }
}

/// A time to live; less than one second is none, as for etcdctl.
fn ttl(context: &Context) -> Result<Option<String>, End> {
    let seconds = context.number("ttl")?;
    Ok((seconds > 0).then(|| seconds.to_string()))
}

async fn write(
    context: &Context,
    method: Method,
    key: &str,
    body: &[(&str, Option<String>)],
    query: &[(&str, Option<String>)],
) -> Result<Response, End> {
    let query = form(query);
    let path = if query.is_empty() { path_of(key) } else { format!("{}?{query}", path_of(key)) };
    let body = (method != Method::DELETE).then(|| ("application/x-www-form-urlencoded", form(body)));
    let answer = context.remote.ask(method, &path, body).await;
    Response::parse(&answer.map_err(|refusal| refusal.end())?)
}

pub async fn mk(context: &Context) -> Result<(), End> {
    let (key, value, ttl) = (context.key()?, given_value(context)?, ttl(context)?);
    let body = [("value", Some(value)), ("ttl", ttl)];
    let response = if context.args.is_on("in-order") {
        write(context, Method::POST, key, &body, &[]).await?
    } else {
        write(context, Method::PUT, key, &body, &[("prevExist", Existing::MustNot.word())]).await?
    };
    response.print(context.output);
    Ok(())
}

pub async fn set(context: &Context) -> Result<(), End> {
    let (key, value, ttl) = (context.key()?, given_value(context)?, ttl(context)?);
    let index = context.number("swap-with-index")?;
    let query = [
        (
            "prevValue",
            context.args.get("swap-with-value").filter(|value| !value.is_empty()).map(str::to_owned),
        ),
        ("prevIndex", (index != 0).then(|| index.to_string())),
    ];
    let body = [("value", Some(value)), ("ttl", ttl)];
    write(context, Method::PUT, key, &body, &query).await?.print(context.output);
    Ok(())
}

pub async fn update(context: &Context) -> Result<(), End> {
    let (key, value, ttl) = (context.key()?, given_value(context)?, ttl(context)?);
    let body = [("value", Some(value)), ("ttl", ttl)];
    let query = [("prevExist", Existing::Must.word())];
    write(context, Method::PUT, key, &body, &query).await?.print(context.output);
    Ok(())
}

async fn write_directory(context: &Context, existing: Existing) -> Result<(), End> {
    let (key, ttl) = (context.key()?, ttl(context)?);
    let query = [("dir", when(true)), ("prevExist", existing.word())];
    let response = write(context, Method::PUT, key, &[("ttl", ttl)], &query).await?;
    response.print_unless_directory(context.output);
    Ok(())
}

pub async fn mkdir(context: &Context) -> Result<(), End> {
    write_directory(context, Existing::MustNot).await
}

pub async fn setdir(context: &Context) -> Result<(), End> {
    write_directory(context, Existing::Any).await
}

pub async fn updatedir(context: &Context) -> Result<(), End> {
    write_directory(context, Existing::Must).await
}

pub async fn rm(context: &Context) -> Result<(), End> {
    let key = context.key()?;
    let index = context.number("with-index")?;
    let query = [
        ("dir", when(context.args.is_on("dir"))),
        ("recursive", when(context.args.is_on("recursive"))),
        ("prevValue", context.args.get("with-value").filter(|value| !value.is_empty()).map(str::to_owned)),
        ("prevIndex", (index != 0).then(|| index.to_string())),
    ];
    let response = write(context, Method::DELETE, key, &[], &query).await?;
    response.print_unless_directory(context.output);
    Ok(())
}

pub async fn rmdir(context: &Context) -> Result<(), End> {
    let response = write(context, Method::DELETE, context.key()?, &[], &[("dir", when(true))]).await?;
    response.print_unless_directory(context.output);
    Ok(())
}

async fn read(context: &Context, key: &str) -> Result<Response, End> {
    let on = |name| if context.args.is_on(name) { "true" } else { "false" };
    let (quorum, recursive, sorted) = (on("quorum"), on("recursive"), on("sort"));
    let path = format!("{}?quorum={quorum}&recursive={recursive}&sorted={sorted}", path_of(key));
    let answer = context.remote.ask(Method::GET, &path, None).await;
    Response::parse(&answer.map_err(|refusal| refusal.end())?)
}

pub async fn get(context: &Context) -> Result<(), End> {
    let response = read(context, context.key()?).await?;
    if response.node.dir {
        return Err(End::plain(format!("{}: is a directory", response.node.key)));
    }
    response.print(context.output);
    Ok(())
}

pub async fn ls(context: &Context) -> Result<(), End> {
    let key = context.args.rest.first().map_or("/", String::as_str);
    let response = read(context, key).await?;
    if context.output != Output::Simple {
        response.print(context.output);
        return Ok(());
    }
    if !response.node.dir {
        emit(&format!("{}\n", response.node.key));
    }
    let mut out = String::new();
    names(&response.node, context.args.is_on("p"), &mut out);
    emit(&out);
    Ok(())
}

/// The names of all that is below `node`, each before what is below it.
fn names(node: &Node, slash: bool, out: &mut String) {
    for node in node.nodes.iter().flatten() {
        let end = if node.dir && slash { "/" } else { "" };
        *out += &format!("{}{end}\n", node.key);
        names(node, slash, out);
    }
}
