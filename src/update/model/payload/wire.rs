//! The protobuf messages of a payload, with the field numbers of update_engine.
//!
//! Written by hand: the original's file has dozens of messages of which a reader
//! of our payloads meets six. Fields that are not named here are skipped when
//! they are read.

/// A run of blocks of 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Extent {
    /// The first of them.
    #[prost(uint64, tag = "1")]
    pub start_block: u64,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub num_blocks: u64,
}

/// One step that writes some blocks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstallOperation {
    /// The number of a [`super::manifest::Kind`].
    #[prost(uint32, required, tag = "1")]
    pub kind: u32,
    /// Where its data is, in bytes from the end of the manifest.
    #[prost(uint64, tag = "2")]
    pub data_offset: u64,
    /// How many bytes of data it has.
    #[prost(uint64, tag = "3")]
    pub data_length: u64,
    /// What is copied from the old system.
    #[prost(message, repeated, tag = "4")]
    pub src_extents: Vec<Extent>,
    /// What is written.
    #[prost(message, repeated, tag = "6")]
    pub dst_extents: Vec<Extent>,
    /// SHA-256 of its data; empty when it has none.
    #[prost(bytes = "vec", tag = "8")]
    pub data_sha256_hash: Vec<u8>,
}

/// The data area of a slot.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PartitionInfo {
    /// Its bytes: whole blocks.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Its SHA-256.
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
}

/// What the hash tree of the new system is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VerityInfo {
    /// Blocks of data.
    #[prost(uint64, tag = "1")]
    pub data_blocks: u64,
    /// The salt, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub salt: Vec<u8>,
    /// The root hash, 32 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub root_hash: Vec<u8>,
}

/// What a payload does.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeltaArchiveManifest {
    /// Its steps, in the order of what they write.
    #[prost(message, repeated, tag = "1")]
    pub partition_operations: Vec<InstallOperation>,
    /// Bytes of a block: 4096.
    #[prost(uint32, tag = "3")]
    pub block_size: u32,
    /// Where the signatures are, in bytes from the end of the manifest.
    #[prost(uint64, tag = "4")]
    pub signatures_offset: u64,
    /// How many bytes they have.
    #[prost(uint64, tag = "5")]
    pub signatures_size: u64,
    /// The system that the payload is the difference to; not there in a full one.
    #[prost(message, optional, tag = "8")]
    pub old_partition_info: Option<PartitionInfo>,
    /// The system that it makes.
    #[prost(message, optional, tag = "9")]
    pub new_partition_info: Option<PartitionInfo>,
    /// The new system's hash tree. An extension of ours.
    #[prost(message, optional, tag = "1001")]
    pub verity: Option<VerityInfo>,
}

/// One signature.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Signature {
    /// Which of update_engine's keys it is by; not looked at.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// RSA, PKCS #1 v1.5, SHA-256.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// What stands at the end of a payload.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Signatures {
    /// One by each key.
    #[prost(message, repeated, tag = "1")]
    pub signatures: Vec<Signature>,
}
