//! A registry behind the v2 keys API. Source: etcd, "Discovery service protocol".

use http::{Method, StatusCode};
use serde_json::Value;

use super::{DiscoveryError, Myself, Registered, Trouble};
use crate::fetch::{Answer, escape, fetch};

/// A token's URL.
pub struct V2Registry {
    /// `https://HOST/PATH/TOKEN`.
    pub url: String,
    /// `http://HOST:PORT` of who is to ask there.
    pub proxy: Option<String>,
}

impl V2Registry {
    /// The text of `_config/size`; `None` when nobody has set it.
    pub(super) async fn size(&self) -> Result<Option<String>, Trouble> {
        let answer = self.ask(Method::GET, "/_config/size", None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = json(&answer)?;
        Ok(answer["node"]["value"].as_str().map(str::to_owned))
    }

    /// Everybody below the token; keys that begin with `_` are not listed.
    pub(super) async fn members(&self) -> Result<Vec<Registered>, Trouble> {
        let answer = self.ask(Method::GET, "", None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let answer = json(&answer)?;
        let nodes = answer["node"]["nodes"].as_array().cloned().unwrap_or_default();
        Ok(nodes.iter().filter_map(registered).collect())
    }

    /// Creates this member's entry; one that is there already is looked at next.
    pub(super) async fn register(&self, myself: &Myself) -> Result<(), Trouble> {
        let path = format!("/{:x}?prevExist=false", myself.id);
        let answer = self.ask(Method::PUT, &path, Some(format!("value={}", escape(&myself.value)))).await?;
        if answer.status == StatusCode::PRECONDITION_FAILED {
            return Ok(());
        }
        json(&answer).map(drop)
    }

    async fn ask(&self, method: Method, path: &str, form: Option<String>) -> Result<Answer, Trouble> {
        let url = format!("{}{path}", self.url);
        let answer = fetch(method, &url, form, self.proxy.as_deref()).await;
        answer.map_err(|error| Trouble::Later(error.to_string()))
    }
}

fn registered(node: &Value) -> Option<Registered> {
    let id = node["key"].as_str()?.rsplit('/').next()?;
    Some(Registered {
        id: id.to_owned(),
        created: node["createdIndex"].as_u64()?,
        value: node["value"].as_str()?.to_owned(),
    })
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
