//! A registry behind the v2 keys API. Source: etcd, "Discovery service protocol".

use http::{Method, StatusCode};
use serde_json::Value;

use super::{DiscoveryError, Myself, Registered, Trouble};
use crate::fetch::{Answer, escape, fetch};

/// The text of `_config/size`; `None` when nobody has set it.
pub(super) async fn size(url: &str) -> Result<Option<String>, Trouble> {
    let answer = ask(Method::GET, &format!("{url}/_config/size"), None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let answer = json(&answer)?;
    Ok(answer["node"]["value"].as_str().map(str::to_owned))
}

/// Everybody below the token; keys that begin with `_` are not listed.
pub(super) async fn members(url: &str) -> Result<Vec<Registered>, Trouble> {
    let answer = ask(Method::GET, url, None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let answer = json(&answer)?;
    let nodes = answer["node"]["nodes"].as_array().cloned().unwrap_or_default();
    Ok(nodes.iter().filter_map(registered).collect())
}

fn registered(node: &Value) -> Option<Registered> {
    let id = node["key"].as_str()?.rsplit('/').next()?;
    Some(Registered {
        id: id.to_owned(),
        created: node["createdIndex"].as_u64()?,
        value: node["value"].as_str()?.to_owned(),
    })
}

/// Creates this member's entry; one that is there already is looked at next.
pub(super) async fn register(url: &str, myself: &Myself) -> Result<(), Trouble> {
    let url = format!("{url}/{:x}?prevExist=false", myself.id);
    let answer = ask(Method::PUT, &url, Some(format!("value={}", escape(&myself.value)))).await?;
    if answer.status == StatusCode::PRECONDITION_FAILED {
        return Ok(());
    }
    json(&answer).map(drop)
}

async fn ask(method: Method, url: &str, form: Option<String>) -> Result<Answer, Trouble> {
    fetch(method, url, form).await.map_err(|error| Trouble::Later(error.to_string()))
}

fn json(answer: &Answer) -> Result<Value, Trouble> {
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status.is_server_error() {
        return Err(Trouble::Later(format!("{}: {}", answer.status, text.trim())));
    }
    if !answer.status.is_success() {
        return Err(DiscoveryError::Bad(format!("{}: {}", answer.status, text.trim())).into());
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| DiscoveryError::Bad("the answer is not of the v2 keys API".to_owned()).into())
}
