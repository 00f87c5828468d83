//! Answers of the keys API, and how they are printed.

use serde::{Deserialize, Serialize};

use super::super::{emit, http::Answer, print::line};
use super::{End, Output};

/// One key or directory. Fields stand in the order in which etcdctl prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    pub key: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dir: bool,
    pub value: String,
    pub nodes: Option<Vec<Node>>,
    pub created_index: u64,
    pub modified_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<i64>,
}

/// What happened to a node, or what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Response {
    pub action: String,
    pub node: Node,
    pub prev_node: Option<Node>,
    /// The store's index, from the header `X-Etcd-Index`.
    #[serde(skip)]
    pub index: u64,
}

impl Response {
    /// Reads one answer.
    pub fn parse(answer: &Answer) -> Result<Self, End> {
        let header = answer.headers.get("X-Etcd-Index").and_then(|value| value.to_str().ok()?.parse().ok());
        let response: Self = serde_json::from_slice(&answer.body)
            .map_err(|error| End::plain(format!("the answer cannot be understood: {error}")))?;
        Ok(Self { index: header.unwrap_or(0), ..response })
    }

    /// Prints it as one who asked for a key sees it. Source: etcdctl 3.4's `printResponseKey`.
    pub fn print(&self, output: Output) {
        emit(&self.render(output));
    }

    fn render(&self, output: Output) -> String {
        let is_delete = self.action == "delete";
        let before = self.prev_node.as_ref().map(|node| node.value.as_str());
        match output {
            // A value of serde_json keeps the order of the fields above.
            Output::Json => line(&serde_json::to_value(self).expect("strings and numbers become JSON")),
            Output::Simple if is_delete => format!("PrevNode.Value: {}\n", before.unwrap_or_default()),
            Output::Simple => format!("{}\n", self.node.value),
            Output::Extended => {
                let node = &self.node;
                let before = before.map_or(String::new(), |value| format!("PrevNode.Value: {value}\n"));
                let value = if is_delete { String::new() } else { format!("\n{}\n", node.value) };
                format!(
                    "Key: {}\nCreated-Index: {}\nModified-Index: {}\n{before}TTL: {}\nIndex: {}\n{value}",
                    node.key,
                    node.created_index,
                    node.modified_index,
                    node.ttl.unwrap_or(0),
                    self.index
                )
            }
        }
    }

    /// As [`Response::print`], but nothing for a directory in the simple form.
    pub fn print_unless_directory(&self, output: Output) {
        if output != Output::Simple || !self.node.dir {
            self.print(output);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const SET: &str = r#"{"action":"set","node":{"key":"/a","value":"4<","modifiedIndex":17,"createdIndex":17,"ttl":9},"prevNode":{"key":"/a","value":"3","modifiedIndex":16,"createdIndex":16}}"#;
    const DELETE: &str = r#"{"action":"delete","node":{"key":"/a","modifiedIndex":18,"createdIndex":17},"prevNode":{"key":"/a","value":"4","modifiedIndex":17,"createdIndex":17}}"#;
    const DIR: &str = r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/d","dir":true,"modifiedIndex":3,"createdIndex":3}]}}"#;

    #[test]
    fn answers_are_printed_as_etcdctl_does() {
        #[rustfmt::skip]
        let rows = [
            (SET,    Output::Simple,   "4<\n"),
            (SET,    Output::Extended, "Key: /a\nCreated-Index: 17\nModified-Index: 17\nPrevNode.Value: 3\nTTL: 9\nIndex: 20\n\n4<\n"),
            (SET,    Output::Json,     "{\"action\":\"set\",\"node\":{\"key\":\"/a\",\"value\":\"4\\u003c\",\"nodes\":null,\"createdIndex\":17,\"modifiedIndex\":17,\"ttl\":9},\"prevNode\":{\"key\":\"/a\",\"value\":\"3\",\"nodes\":null,\"createdIndex\":16,\"modifiedIndex\":16}}\n"),
            (DELETE, Output::Simple,   "PrevNode.Value: 4\n"),
            (DELETE, Output::Extended, "Key: /a\nCreated-Index: 17\nModified-Index: 18\nPrevNode.Value: 4\nTTL: 0\nIndex: 20\n"),
            (DIR,    Output::Json,     "{\"action\":\"get\",\"node\":{\"key\":\"\",\"dir\":true,\"value\":\"\",\"nodes\":[{\"key\":\"/d\",\"dir\":true,\"value\":\"\",\"nodes\":null,\"createdIndex\":3,\"modifiedIndex\":3}],\"createdIndex\":0,\"modifiedIndex\":0},\"prevNode\":null}\n"),
        ];
        for (body, output, want) in rows {
            let response: Response = serde_json::from_str(body).unwrap();
            assert_eq!(Response { index: 20, ..response }.render(output), want, "{body} {output:?}");
        }
    }
}
