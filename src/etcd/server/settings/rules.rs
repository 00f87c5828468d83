//! What each setting's value must look like.

use proa_etcd_api::url;

use crate::config::{Cluster, Discovery};

pub(super) fn name(value: &str) -> Result<(), String> {
    match value {
        value if value.contains(['=', ',']) => Err("a name has no = and no comma".to_owned()),
        _ => Ok(()),
    }
}

pub(super) fn urls(value: &str) -> Result<(), String> {
    value.split(',').try_for_each(|item| url::parse(item).map(drop))
}

pub(super) fn optional_urls(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { urls(value) }
}

pub(super) fn metrics(value: &str) -> Result<(), String> {
    one_of(value, &["basic", "extensive"])
}

pub(super) fn initial_cluster(value: &str) -> Result<(), String> {
    value.parse::<Cluster>().map(drop)
}

pub(super) fn cluster_state(value: &str) -> Result<(), String> {
    one_of(value, &["new", "existing"])
}

pub(super) fn discovery(value: &str) -> Result<(), String> {
    match value {
        "" => Ok(()),
        value if value.starts_with("http://") || value.starts_with("https://") => {
            let is_url = value.parse::<http::Uri>().is_ok_and(|uri| uri.path().len() > 1);
            is_url.then_some(()).ok_or_else(|| "give http://HOST/PATH/TOKEN".to_owned())
        }
        value => value.parse::<Discovery>().map(drop),
    }
}

/// Source: Go's `net/http` would take SOCKS too, which etcd does not tell of.
pub(super) fn http_proxy(value: &str) -> Result<(), String> {
    match url::parse(value) {
        _ if value.is_empty() => Ok(()),
        Ok(url) if !url.encrypted && url.address.tcp().is_some() => Ok(()),
        Ok(_) | Err(_) => Err("give http://HOST:PORT".to_owned()),
    }
}

/// A domain name for records of services.
pub(crate) fn domain(value: &str) -> Result<(), String> {
    match proa_base::dns::srv_query(0, value) {
        _ if value.is_empty() => Ok(()),
        Ok(_) => Ok(()),
        Err(_) => Err("give a domain name such as example.com".to_owned()),
    }
}

/// What is appended to the name of a service.
pub(crate) fn label(value: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // `_etcd-server-ssl-` and this are one label of at most 63 letters.
    match value.len() <= 46 && value.chars().all(is_part) {
        true => Ok(()),
        false => Err("give up to 46 letters, digits, - or _".to_owned()),
    }
}

pub(super) fn compaction_mode(value: &str) -> Result<(), String> {
    one_of(value, &["periodic", "revision"])
}

pub(super) fn retention(value: &str) -> Result<(), String> {
    let is_number = value.parse::<u64>().is_ok();
    if value.is_empty() || is_number || proa_base::duration::parse(value).is_ok() {
        return Ok(());
    }
    Err("give hours or revisions as a number, or a duration such as 30m".to_owned())
}

pub(super) fn log_level(value: &str) -> Result<(), String> {
    one_of(value, &["debug", "info", "warn", "error"])
}

pub(super) fn proxy(value: &str) -> Result<(), String> {
    // Read-only, as in etcd 2, would refuse v3 reads too: all of v3 is POST.
    one_of(value, &["on", "off"])
}

pub(super) fn fallback(value: &str) -> Result<(), String> {
    one_of(value, &["exit", "proxy"])
}

/// URLs, or hosts and ports.
pub(super) fn client_endpoints(value: &str) -> Result<(), String> {
    value.split(',').try_for_each(|text| match text.contains("://") {
        true => url::parse(text).map(drop),
        false => url::parse(&format!("http://{text}")).map(drop),
    })
}

pub(super) fn only_one(value: &str) -> Result<(), String> {
    one_of(value, &["1"])
}

pub(super) fn auth_token(value: &str) -> Result<(), String> {
    crate::auth::TokenKind::parse(value).map(drop)
}

pub(super) fn only_star(value: &str) -> Result<(), String> {
    one_of(value, &["*"])
}

pub(super) fn only_false(value: &str) -> Result<(), String> {
    match value {
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(()),
        _ => Err("not supported, leave it out".to_owned()),
    }
}

pub(super) fn leave_out(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { Err("not supported, leave it out".to_owned()) }
}

pub(super) fn one_of(value: &str, choices: &[&str]) -> Result<(), String> {
    if choices.contains(&value) { Ok(()) } else { Err(format!("give {}", choices.join(" or "))) }
}

pub(super) fn years(value: &str) -> Result<(), String> {
    // The end must be a date that every implementation can read.
    match value.parse::<u32>() {
        Ok(1..=100) => Ok(()),
        Ok(_) | Err(_) => Err("give a number of years from 1 to 100".to_owned()),
    }
}

pub(super) fn bcrypt_cost(value: &str) -> Result<(), String> {
    match value.parse::<u32>() {
        Ok(4..=31) => Ok(()),
        Ok(_) | Err(_) => Err("give a number from 4 to 31".to_owned()),
    }
}
