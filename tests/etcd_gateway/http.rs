//! HTTP/1.1 as far as these tests need it, over a plain socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::etcd::PATIENCE;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// All headers, names in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks for JSON by POST.
pub fn post(url: &str, path: &str, body: &str) -> Answer {
    ask(url, "POST", path, &[], body)
}

/// Sends one request and reads its answer to the end.
pub fn ask(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (mut reader, status, head) = send(url, method, path, headers, body);
    let mut text = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        while let Some(chunk) = read_chunk(&mut reader) {
            text.extend(chunk);
        }
    } else {
        reader.read_to_end(&mut text).unwrap();
    }
    Answer { status, head, body: String::from_utf8(text).unwrap() }
}

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn write(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a large body does not read it all.
    let _ = stream.write_all(body.as_bytes());
}

fn send(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (BufReader<TcpStream>, u16, String) {
    let mut stream = connect(url);
    write(&mut stream, method, path, headers, body);
    let mut reader = BufReader::new(stream);
    let (status, head) = read_head(&mut reader);
    (reader, status, head)
}

fn read_head(reader: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the answer ends in its headers: {head:?}");
    }
    (head[9..12].parse().unwrap(), head.to_lowercase())
}

fn read_chunk(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = String::new();
    reader.read_line(&mut length).unwrap();
    let length = usize::from_str_radix(length.trim(), 16).unwrap();
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).unwrap();
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}

/// A request whose answer takes its time; given up when dropped.
pub struct Stream {
    reader: BufReader<TcpStream>,
    /// Whether the answer comes in chunks, once its head was read.
    is_chunked: Option<bool>,
    held: Vec<u8>,
}

impl Stream {
    pub fn open(url: &str, path: &str, body: &str) -> Self {
        let mut stream = connect(url);
        write(&mut stream, "POST", path, &[], body);
        Self { reader: BufReader::new(stream), is_chunked: None, held: Vec::new() }
    }

    /// A request whose body is sent bit by bit.
    pub fn open_to_send(url: &str, path: &str) -> Self {
        let mut stream = connect(url);
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Self { reader: BufReader::new(stream), is_chunked: None, held: Vec::new() }
    }

    /// Sends some more of the body.
    pub fn send(&mut self, piece: &str) {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        self.reader.get_mut().write_all(chunk.as_bytes()).unwrap();
    }

    /// The next line as JSON; waits for it.
    pub fn next_line(&mut self) -> Value {
        let reader = &mut self.reader;
        let is_chunked = *self
            .is_chunked
            .get_or_insert_with(|| read_head(reader).1.contains("transfer-encoding: chunked"));
        if !is_chunked {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            return serde_json::from_str(&text).unwrap();
        }
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            self.held.extend(read_chunk(&mut self.reader).expect("another line"));
        }
    }
}
