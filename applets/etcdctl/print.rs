//! Answers as people and scripts know them from etcdctl.

use std::fmt::Write as _;

use proa_etcd_client::api::etcdserverpb::response_op::Response;
use proa_etcd_client::api::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
};
use proa_etcd_client::api::mvccpb::KeyValue;
use prost::Message;

use super::failure::Failure;
use super::{go, json};

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One value a line.
    Simple,
    /// One JSON document a line.
    Json,
    /// `"Name" : value` lines.
    Fields,
    /// A framed table, for what is a table.
    Table,
    /// The answer's own message, encoded.
    Protobuf,
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
            "protobuf" => Self::Protobuf,
            _ => {
                return Err(Failure::feature(format!(
                    "unsupported output format {text:?}: give simple, json, fields, table or protobuf"
                )));
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Json => "json",
            Self::Fields => "fields",
            Self::Table => "table",
            Self::Protobuf => "protobuf",
        }
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
    /// Refuses the formats that a command's answer has not. Asked before the
    /// command does anything: what is refused must not have happened.
    ///
    /// # Errors
    /// In etcdctl's words.
    pub fn refuse(&self, formats: &[Format]) -> Result<(), Failure> {
        if formats.contains(&self.format) {
            let text = format!("{} not supported as output format", self.format.name());
            return Err(Failure::feature(text));
        }
        Ok(())
    }

    /// A key or value.
    fn text(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.hex {
            let digits = bytes.iter().fold(String::new(), |mut text, byte| {
                // Writing to a String does not fail.
                let _ = write!(text, "\\x{byte:02x}");
                text
            });
            out.extend_from_slice(digits.as_bytes());
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    }

    /// The lines of one entry.
    pub fn entry(&self, out: &mut Vec<u8>, kv: &KeyValue) {
        if !self.value_only {
            self.text(out, &kv.key);
        }
        self.text(out, &kv.value);
    }

    fn entries<'a>(&self, out: &mut Vec<u8>, kvs: impl IntoIterator<Item = &'a KeyValue>) {
        kvs.into_iter().for_each(|kv| self.entry(out, kv));
    }

    /// The answer to a read.
    pub fn range(&self, answer: &RangeResponse) -> Vec<u8> {
        match self.format {
            Format::Json => line(&json::range(answer)).into_bytes(),
            Format::Protobuf => answer.encode_to_vec(),
            Format::Fields => {
                let kvs: String = answer.kvs.iter().map(|kv| fields_of_entry("", kv)).collect();
                let more = format!("\"More\" : {}\n\"Count\" : {}\n", answer.more, answer.count);
                (fields_of_header(answer.header.as_ref()) + &kvs + &more).into_bytes()
            }
            Format::Simple | Format::Table => {
                let mut out = Vec::new();
                self.entries(&mut out, &answer.kvs);
                out
            }
        }
    }

    /// The answer to a write.
    pub fn put(&self, answer: &PutResponse) -> Vec<u8> {
        match self.format {
            Format::Json => line(&json::put(answer)).into_bytes(),
            Format::Protobuf => answer.encode_to_vec(),
            Format::Fields => {
                let before = answer.prev_kv.as_ref().map_or(String::new(), |kv| fields_of_entry("Prev", kv));
                (fields_of_header(answer.header.as_ref()) + &before).into_bytes()
            }
            Format::Simple | Format::Table => {
                let mut out = b"OK\n".to_vec();
                self.entries(&mut out, &answer.prev_kv);
                out
            }
        }
    }

    /// The answer to a deletion.
    pub fn delete(&self, answer: &DeleteRangeResponse) -> Vec<u8> {
        match self.format {
            Format::Json => line(&json::delete(answer)).into_bytes(),
            Format::Protobuf => answer.encode_to_vec(),
            Format::Fields => {
                let before: String = answer.prev_kvs.iter().map(|kv| fields_of_entry("Prev", kv)).collect();
                let deleted = format!("\"Deleted\" : {}\n", answer.deleted);
                (fields_of_header(answer.header.as_ref()) + &deleted + &before).into_bytes()
            }
            Format::Simple | Format::Table => {
                let mut out = format!("{}\n", answer.deleted).into_bytes();
                self.entries(&mut out, &answer.prev_kvs);
                out
            }
        }
    }

    /// The answer to a transaction.
    pub fn txn(&self, answer: &TxnResponse) -> Vec<u8> {
        let mut out = match self.format {
            Format::Json => return line(&json::txn(answer)).into_bytes(),
            Format::Protobuf => return answer.encode_to_vec(),
            Format::Fields => {
                fields_of_header(answer.header.as_ref()) + &format!("\"Succeeded\" : {}\n", answer.succeeded)
            }
            Format::Simple | Format::Table => {
                (if answer.succeeded { "SUCCESS\n" } else { "FAILURE\n" }).to_owned()
            }
        }
        .into_bytes();
        for response in &answer.responses {
            if self.format == Format::Simple {
                out.push(b'\n');
            }
            match &response.response {
                Some(Response::ResponseRange(answer)) => out.extend(self.range(answer)),
                Some(Response::ResponsePut(answer)) => out.extend(self.put(answer)),
                Some(Response::ResponseDeleteRange(answer)) => out.extend(self.delete(answer)),
                Some(Response::ResponseTxn(answer)) => out.extend(self.txn(answer)),
                None => {}
            }
        }
        out
    }
}

/// One JSON document and the end of the line.
pub fn line(value: &serde_json::Value) -> String {
    format!("{}\n", go::json(value))
}

/// The header as fields.
pub fn fields_of_header(header: Option<&ResponseHeader>) -> String {
    let header = header.copied().unwrap_or_default();
    format!(
        "\"ClusterID\" : {}\n\"MemberID\" : {}\n\"Revision\" : {}\n\"RaftTerm\" : {}\n",
        header.cluster_id, header.member_id, header.revision, header.raft_term
    )
}

/// An entry as fields, each name after `prefix`.
pub fn fields_of_entry(prefix: &str, kv: &KeyValue) -> String {
    format!(
        "\"{prefix}Key\" : {}\n\"{prefix}CreateRevision\" : {}\n\"{prefix}ModRevision\" : {}\n\"{prefix}Version\" : {}\n\"{prefix}Value\" : {}\n\"{prefix}Lease\" : {}\n",
        go::quote(&kv.key),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        go::quote(&kv.value),
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

    #[test]
    fn what_is_no_text_is_printed_as_it_is() {
        let kv = KeyValue { key: b"\xff\0"[..].into(), value: "v".into(), ..KeyValue::default() };
        let answer = RangeResponse { kvs: vec![kv], count: 1, ..RangeResponse::default() };
        let printer = |format, hex| Printer { format, hex, value_only: false };
        assert_eq!(printer(Format::Simple, false).range(&answer), b"\xff\0\nv\n");
        assert_eq!(printer(Format::Simple, true).range(&answer), b"\\xff\\x00\n\\x76\n");
        let fields = String::from_utf8_lossy(&printer(Format::Fields, false).range(&answer)).into_owned();
        assert!(fields.contains("\"Key\" : \"\\xff\\x00\"\n"), "{fields}");
        let message = printer(Format::Protobuf, false).range(&answer);
        assert_eq!(RangeResponse::decode(message.as_slice()).ok(), Some(answer));
    }
}
