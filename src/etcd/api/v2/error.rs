//! What a v2 request can be refused with.

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $code:literal $status:literal $text:literal;)+) => {
        /// The number of a v2 error.
        ///
        /// Source: etcd's v2 error codes, their texts and HTTP status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum V2Code {
            $($(#[$doc])+ $name = $code,)+
        }

        impl V2Code {
            /// Every code there is.
            pub const ALL: &[V2Code] = &[$(V2Code::$name,)+];

            /// The `errorCode` of the JSON body.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The `message` of the JSON body.
            pub const fn text(self) -> &'static str {
                match self { $(V2Code::$name => $text,)+ }
            }

            /// The HTTP status of the answer.
            pub const fn status(self) -> u16 {
                match self { $(V2Code::$name => $status,)+ }
            }
        }
    };
}

codes! {
    /// No node at this path.
    KeyNotFound = 100 404 "Key not found";
    /// A comparison found another value or index.
    TestFailed = 101 412 "Compare failed";
    /// A file was needed, a directory is there.
    NotFile = 102 403 "Not a file";
    /// A directory was needed, a file is there.
    NotDir = 104 400 "Not a directory";
    /// The node exists.
    NodeExist = 105 412 "Key already exists";
    /// The root cannot be changed.
    RootReadOnly = 107 400 "Root is read only";
    /// The directory has children.
    DirNotEmpty = 108 403 "Directory not empty";
    /// Rights are missing.
    Unauthorized = 110 401 "The request requires user authentication";
    /// `prevValue` is there and empty.
    PrevValueRequired = 201 400 "PrevValue is Required in POST form";
    /// `ttl` is no number.
    TtlNotANumber = 202 400 "The given TTL in POST form is not a number";
    /// `prevIndex` or `waitIndex` is no number.
    IndexNotANumber = 203 400 "The given index in POST form is not a number";
    /// A field that cannot be read.
    InvalidField = 209 400 "Invalid field";
    /// A form that cannot be read.
    InvalidForm = 210 400 "Invalid POST form";
    /// A value together with `refresh`.
    RefreshValue = 211 400 "Value provided on refresh";
    /// `refresh` without `ttl`.
    RefreshTtlRequired = 212 400 "A TTL must be provided on refresh";
    /// The cluster could not do it.
    RaftInternal = 300 500 "Raft Internal Error";
    /// The history that was asked for is gone.
    EventIndexCleared = 401 400 "The event in requested index is outdated and cleared";
}

/// A refusal that a client of the v2 API can see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({})", code.text(), cause.escape_ascii())]
pub struct V2Error {
    /// Why.
    pub code: V2Code,
    /// What it is about: a path, a comparison, a field.
    pub cause: Vec<u8>,
    /// The v2 index at that time; 0 when the store was not asked.
    pub index: u64,
}

impl V2Error {
    /// A refusal of the request itself, before the store was asked.
    pub fn of_request(code: V2Code, cause: impl Into<Vec<u8>>) -> Self {
        Self { code, cause: cause.into(), index: 0 }
    }
}
