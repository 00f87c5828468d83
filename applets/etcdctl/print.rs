//! Answers as people and scripts know them from etcdctl.

use std::fmt::Write as _;

use proa_etcd_client::api::etcdserverpb::response_op::Response;
use proa_etcd_client::api::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
};
use proa_etcd_client::api::mvccpb::KeyValue;

use super::failure::Failure;
use super::json;

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One value a line.
    Simple,
    /// One JSON document a line.
    Json,
    /// `"Name" : value` lines.
    Fields,
    /// A framed table, for what is a table; else as simple.
    Table,
}

impl Format {
    /// Reads `--write-out`.
    ///
    /// # Errors
    /// Names the word and the choice.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        Ok(match text {
            "simple" => Self::Simple,
            "json" => Self::Json,
            "fields" => Self::Fields,
            "table" => Self::Table,
            _ => {
                return Err(Failure::feature(format!(
                    "unsupported output format {text:?}: give simple, json, fields or table"
                )));
            }
        })
    }
}

/// How this run prints.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// In which format.
    pub format: Format,
    /// Keys and values as `\x61`.
    pub hex: bool,
    /// No keys.
    pub value_only: bool,
}

impl Printer {
    /// A key or value.
    fn text(&self, bytes: &[u8]) -> String {
        if !self.hex {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        })
    }

    /// The lines of one entry.
    pub fn entry(&self, kv: &KeyValue) -> String {
        let value = self.text(&kv.value);
        if self.value_only { format!("{value}\n") } else { format!("{}\n{value}\n", self.text(&kv.key)) }
    }

    fn entries<'a>(&self, kvs: impl IntoIterator<Item = &'a KeyValue>) -> String {
        kvs.into_iter().map(|kv| self.entry(kv)).collect()
    }

    /// The answer to a read.
    pub fn range(&self, answer: &RangeResponse) -> String {
        match self.format {
            Format::Json => line(&json::range(answer)),
            Format::Fields => {
                let kvs: String = answer.kvs.iter().map(|kv| fields_of_entry("", kv)).collect();
                let more = format!("\"More\" : {}\n\"Count\" : {}\n", answer.more, answer.count);
                fields_of_header(answer.header.as_ref()) + &kvs + &more
            }
            Format::Simple | Format::Table => self.entries(&answer.kvs),
        }
    }

    /// The answer to a write.
    pub fn put(&self, answer: &PutResponse) -> String {
        match self.format {
            Format::Json => line(&json::put(answer)),
            Format::Fields => {
                let before = answer.prev_kv.as_ref().map_or(String::new(), |kv| fields_of_entry("Prev", kv));
                fields_of_header(answer.header.as_ref()) + &before
            }
            Format::Simple | Format::Table => "OK\n".to_owned() + &self.entries(&answer.prev_kv),
        }
    }

    /// The answer to a deletion.
    pub fn delete(&self, answer: &DeleteRangeResponse) -> String {
        match self.format {
            Format::Json => line(&json::delete(answer)),
            Format::Fields => {
                let before: String = answer.prev_kvs.iter().map(|kv| fields_of_entry("Prev", kv)).collect();
                fields_of_header(answer.header.as_ref())
                    + &format!("\"Deleted\" : {}\n", answer.deleted)
                    + &before
            }
            Format::Simple | Format::Table => {
                format!("{}\n", answer.deleted) + &self.entries(&answer.prev_kvs)
            }
        }
    }

    /// The answer to a transaction.
    pub fn txn(&self, answer: &TxnResponse) -> String {
        if self.format == Format::Json {
            return line(&json::txn(answer));
        }
        let mut out = match self.format {
            Format::Fields => {
                fields_of_header(answer.header.as_ref()) + &format!("\"Succeeded\" : {}\n", answer.succeeded)
            }
            Format::Simple | Format::Table | Format::Json => {
                (if answer.succeeded { "SUCCESS\n" } else { "FAILURE\n" }).to_owned()
            }
        };
        for response in &answer.responses {
            out.push('\n');
            out += &match &response.response {
                Some(Response::ResponseRange(answer)) => self.range(answer),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.delete(answer),
                Some(Response::ResponseTxn(answer)) => self.txn(answer),
                None => String::new(),
            };
        }
        out
    }
}

/// One JSON document and the end of the line.
pub fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

/// The header as fields.
pub fn fields_of_header(header: Option<&ResponseHeader>) -> String {
    let header = header.copied().unwrap_or_default();
    format!(
        "\"ClusterID\" : {}\n\"MemberID\" : {}\n\"Revision\" : {}\n\"RaftTerm\" : {}\n",
        header.cluster_id, header.member_id, header.revision, header.raft_term
    )
}

fn fields_of_entry(prefix: &str, kv: &KeyValue) -> String {
    format!(
        "\"{prefix}Key\" : {:?}\n\"{prefix}CreateRevision\" : {}\n\"{prefix}ModRevision\" : {}\n\"{prefix}Version\" : {}\n\"{prefix}Value\" : {:?}\n\"{prefix}Lease\" : {}\n",
        String::from_utf8_lossy(&kv.key),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        String::from_utf8_lossy(&kv.value),
        kv.lease
    )
}

/// A framed table, as etcdctl draws it.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let rule: String =
        widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let mut out = rule.clone();
    for (title, width) in head.iter().zip(&widths) {
        let _ = write!(out, "| {title:^width$} ");
    }
    out += "|\n";
    out += &rule;
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:>width$} ");
        }
        out += "|\n";
    }
    out + &rule
}

/// A size as etcdctl shows it: two figures, powers of ten.
///
/// Source: go-humanize's `Bytes`.
pub fn human_bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes.max(0) as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit > 0 && value < 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_framed_as_etcdctl_does() {
        let rows = [vec!["1".to_owned(), "long cell".to_owned()]];
        let want = "+----+-----------+\n| ID |   NAME    |\n+----+-----------+\n|  1 | long cell |\n+----+-----------+\n";
        assert_eq!(table(&["ID", "NAME"], &rows), want);
    }

    #[test]
    fn sizes_have_two_figures() {
        for (bytes, want) in [(0, "0 B"), (999, "999 B"), (20480, "20 kB"), (1_500_000, "1.5 MB")] {
            assert_eq!(human_bytes(bytes), want);
        }
    }
}
