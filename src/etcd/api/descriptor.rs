//! What the messages and services are made of, as tables: for code that handles
//! messages it does not know by type.
//!
//! The build makes them from `proto/`, so that they cannot be of another mind
//! than the Rust types.

/// One kind of message.
#[derive(Debug)]
pub struct Message {
    /// Package and name: `etcdserverpb.RangeRequest`.
    pub name: &'static str,
    /// In the order of the `.proto` file.
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in etcd's own `.proto` file, which JSON answers carry.
    pub name: &'static str,
    /// The same in camel case, which JSON requests may use instead.
    pub camel: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it holds any number of them.
    pub repeated: bool,
    /// The group of fields of its message of which only one is set.
    pub oneof: Option<i32>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `bool`.
    Bool,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// An enum: number and name of each value.
    Enum(&'static [(i32, &'static str)]),
    /// A message.
    Message(&'static Message),
}

/// One method of one service.
#[derive(Debug)]
pub struct Rpc {
    /// Package and name of the service: `etcdserverpb.KV`.
    pub service: &'static str,
    /// Name of the method: `Range`.
    pub method: &'static str,
    /// What it is asked.
    pub request: &'static Message,
    /// What it answers.
    pub answer: &'static Message,
    /// Whether it is asked any number of times.
    pub client_streams: bool,
    /// Whether it answers any number of times.
    pub server_streams: bool,
}

impl Kind {
    /// The word for it in `.proto` files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Enum(_) => "enum",
            Self::Message(message) => message.name,
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/descriptor.rs"));
