//! Turns `proto/` into Rust messages and into tables of what they are made of,
//! without a `protoc` program.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;

/// Every file with messages; what they import is found by itself.
const FILES: [&str; 9] = [
    "etcdserverpb/auth.proto",
    "etcdserverpb/cluster.proto",
    "etcdserverpb/kv.proto",
    "etcdserverpb/lease.proto",
    "etcdserverpb/maintenance.proto",
    "etcdserverpb/watch.proto",
    "proa/store.proto",
    "v3electionpb/election.proto",
    "v3lockpb/lock.proto",
];

#[allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "this is how cargo is talked to")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let tables = Tables::of(&descriptors)?.render()?;
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptor.rs"), tables)?;
    prost_build::Config::new()
        // Keys and values are slices of the buffer they arrived in.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

/// What the generated tables are made from: all that the services use.
#[derive(Default)]
struct Tables {
    /// Rust text of the `Rpc` rows.
    rpcs: Vec<String>,
    /// Rust text of the fields, by message.
    messages: BTreeMap<String, String>,
    /// Rust text of the values, by enum.
    enums: BTreeMap<String, String>,
}

impl Tables {
    fn of(descriptors: &prost_types::FileDescriptorSet) -> Result<Self, Box<dyn Error>> {
        let mut all = Self::default();
        for file in &descriptors.file {
            // Where the file's text gives a JSON name, its location is on record: the
            // descriptor itself has one for every field, given or derived.
            let located = file.source_code_info.iter().flat_map(|info| &info.location);
            let given: BTreeSet<&[i32]> = located.map(|location| location.path.as_slice()).collect();
            for (number, message) in file.message_type.iter().enumerate() {
                all.add_message(file.package(), message, &[4, i32::try_from(number)?], &given)?;
            }
            for value in &file.enum_type {
                all.add_enum(file.package(), value)?;
            }
            for service in &file.service {
                for rpc in &service.method {
                    all.rpcs.push(format!(
                        "Rpc {{ service: {:?}, method: {:?}, request: &{}, answer: &{}, client_streams: {}, \
                         server_streams: {} }}",
                        format!("{}.{}", file.package(), service.name()),
                        rpc.name(),
                        ident(rpc.input_type()),
                        ident(rpc.output_type()),
                        rpc.client_streaming(),
                        rpc.server_streaming(),
                    ));
                }
            }
        }
        Ok(all)
    }

    fn add_enum(
        &mut self,
        scope: &str,
        value: &prost_types::EnumDescriptorProto,
    ) -> Result<(), Box<dyn Error>> {
        let mut text = String::new();
        for value in &value.value {
            write!(text, "({}, {:?}),", value.number(), value.name())?;
        }
        self.enums.insert(format!(".{scope}.{}", value.name()), text);
        Ok(())
    }

    fn add_message(
        &mut self,
        scope: &str,
        message: &prost_types::DescriptorProto,
        path: &[i32],
        given: &BTreeSet<&[i32]>,
    ) -> Result<(), Box<dyn Error>> {
        let name = format!("{scope}.{}", message.name());
        let mut text = String::new();
        for (number, field) in message.field.iter().enumerate() {
            // Field numbers of `DescriptorProto.field` and `FieldDescriptorProto.json_name`.
            let json_name_path = [path, &[2, i32::try_from(number)?, 10]].concat();
            let is_given = given.contains(json_name_path.as_slice());
            let printed = if is_given { field.json_name() } else { field.name() };
            write!(
                text,
                "Field {{ number: {}, name: {printed:?}, camel: {:?}, kind: {}, repeated: {}, oneof: {:?} }},",
                field.number(),
                camel(printed),
                kind(field)?,
                field.label() == prost_types::field_descriptor_proto::Label::Repeated,
                field.oneof_index,
            )?;
        }
        self.messages.insert(format!(".{name}"), text);
        for (number, inner) in message.nested_type.iter().enumerate() {
            let path = [path, &[3, i32::try_from(number)?]].concat();
            self.add_message(&name, inner, &path, given)?;
        }
        message.enum_type.iter().try_for_each(|value| self.add_enum(&name, value))
    }

    fn render(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        for (name, values) in &self.enums {
            writeln!(out, "#[allow(dead_code)] const {}: &[(i32, &str)] = &[{values}];", ident(name))?;
        }
        for (name, fields) in &self.messages {
            let plain = &name[1..];
            writeln!(
                out,
                "#[allow(dead_code)] static {}: Message = Message {{ name: {plain:?}, fields: &[{fields}] }};",
                ident(name)
            )?;
        }
        writeln!(out, "/// Every RPC of every service, in no particular order.")?;
        writeln!(out, "pub static RPCS: &[Rpc] = &[{}];", self.rpcs.join(","))?;
        Ok(out)
    }
}

/// The name of the table of `.package.Message`.
fn ident(name: &str) -> String {
    format!("TABLE{}", name.replace('.', "__").to_uppercase())
}

/// Source: protobuf's `ToJsonName`: underscores go, what follows is upper case.
fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut raise = false;
    for letter in name.chars() {
        match letter {
            '_' => raise = true,
            letter if raise => {
                out.push(letter.to_ascii_uppercase());
                raise = false;
            }
            letter => out.push(letter),
        }
    }
    out
}

fn kind(field: &prost_types::FieldDescriptorProto) -> Result<String, Box<dyn Error>> {
    use prost_types::field_descriptor_proto::Type;
    Ok(match field.r#type() {
        Type::Int32 => "Kind::Int32".to_owned(),
        Type::Int64 => "Kind::Int64".to_owned(),
        Type::Uint32 => "Kind::Uint32".to_owned(),
        Type::Uint64 => "Kind::Uint64".to_owned(),
        Type::Bool => "Kind::Bool".to_owned(),
        Type::String => "Kind::String".to_owned(),
        Type::Bytes => "Kind::Bytes".to_owned(),
        Type::Enum => format!("Kind::Enum({})", ident(field.type_name())),
        Type::Message => format!("Kind::Message(&{})", ident(field.type_name())),
        other => return Err(format!("{}: no JSON form for fields of type {other:?}", field.name()).into()),
    })
}
