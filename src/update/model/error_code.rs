//! What a client says went wrong: the `errorcode` of an Omaha event.

use std::fmt;

/// The flags that a client adds to a code: developer mode, resumed, test
/// image, test URL.
const FLAGS: u32 = 0xf << 28;
/// Where HTTP statuses begin: 2404 is the status 404.
const HTTP_STATUS: u32 = 2000;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)+) => {
        /// An error code of update_engine, by its number in the protocol.
        ///
        /// Source: CoreOS update_engine, `action_processor.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
            /// The server answered with this HTTP status.
            HttpStatus(u16),
            /// A number that has no meaning here.
            Other(u32),
        }

        impl ErrorCode {
            /// The number in the protocol.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)+
                    Self::HttpStatus(status) => HTTP_STATUS + u32::from(status),
                    Self::Other(number) => number,
                }
            }

            /// The code of a number; the client's flags are taken off.
            pub fn from_number(number: u32) -> Self {
                match number & !FLAGS {
                    $($number => Self::$name,)+
                    status @ 2100..2600 => Self::HttpStatus((status - HTTP_STATUS) as u16),
                    number => Self::Other(number),
                }
            }
        }

        impl fmt::Display for ErrorCode {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => out.write_str($text),)+
                    Self::HttpStatus(status) => write!(out, "the server answered {status}"),
                    Self::Other(number) => write!(out, "error {number}"),
                }
            }
        }
    };
}

codes! {
    /// No error.
    Success = 0, "no error";
    /// Anything that has no number of its own.
    Generic = 1, "error";
    /// The request to the update server failed.
    Request = 2, "the request to the update server failed";
    /// The answer could not be followed.
    ResponseHandler = 3, "the answer of the update server cannot be followed";
    /// A copy from slot to slot failed.
    Copy = 4, "copying from the running slot failed";
    /// What runs after the last byte was written failed.
    PostInstall = 5, "the step after the install failed";
    /// The slot could not be opened.
    InstallDeviceOpen = 7, "the slot cannot be opened";
    /// The kernel's place could not be opened.
    KernelDeviceOpen = 8, "the kernel's place cannot be opened";
    /// The payload did not arrive.
    DownloadTransfer = 9, "the payload did not arrive";
    /// The payload is not the one that was announced.
    PayloadHash = 10, "the payload has another hash than announced";
    /// The payload's size is not the announced one.
    PayloadSize = 11, "the payload has another size than announced";
    /// The payload's signature is wrong.
    PayloadVerification = 12, "the payload's signature is wrong";
    /// What was written is not the new system.
    NewPartitionInfo = 13, "what was written is not the new system";
    /// The slot could not be written.
    Write = 14, "the slot cannot be written";
    /// What was read back is not what was to be written.
    NewRootVerification = 15, "what was read back is not the new system";
    /// The kernel read back is not what was to be written.
    NewKernelVerification = 16, "what was read back is not the new kernel";
    /// A delta has to be signed.
    SignedDeltaExpected = 17, "the delta is not signed";
    /// The public key cannot be used.
    PublicKeyVerification = 18, "the public key cannot be used";
    /// The engine's own state cannot be used.
    StateInitialisation = 20, "the updater's state cannot be used";
    /// The payload is none.
    BadMagic = 21, "the payload is none";
    /// The manifest has no signature.
    SignatureMissing = 22, "the payload has no signature";
    /// The manifest makes no sense.
    ManifestParse = 23, "the payload's manifest makes no sense";
    /// The metadata's signature is wrong.
    MetadataSignature = 24, "the release metadata is not signed by a trusted key";
    /// The metadata's signature could not be checked.
    MetadataSignatureVerification = 25, "the signature of the release metadata cannot be checked";
    /// The metadata's signature is not that of the metadata.
    MetadataSignatureMismatch = 26, "the signature is not that of the release metadata";
    /// The hash of an operation could not be checked.
    OperationHashVerification = 27, "the hash of an operation cannot be checked";
    /// An operation could not be done.
    OperationExecution = 28, "an operation cannot be done";
    /// The data of an operation is not the one meant.
    OperationHashMismatch = 29, "the data of an operation has another hash than announced";
    /// The update server's answer is empty.
    EmptyResponse = 30, "the update server's answer is empty";
    /// The update server's answer is no XML.
    XmlParse = 31, "the update server's answer is no XML";
    /// The manifest's size is not the announced one.
    MetadataSize = 32, "the manifest has another size than announced";
    /// The form of the metadata's signature is wrong.
    MetadataSignatureForm = 33, "the signature of the release metadata has no good form";
    /// The update server's answer makes no sense.
    ResponseInvalid = 34, "the update server's answer makes no sense";
    /// This machine's policy says no.
    IgnoredPolicy = 35, "this machine's policy says no";
    /// This machine's policy says later.
    DeferredPolicy = 36, "this machine's policy says later";
    /// HTTP itself failed.
    Http = 37, "the transfer failed";
    /// An operation has no hash.
    OperationHashMissing = 38, "an operation has no hash";
    /// There is no signed metadata.
    MetadataSignatureMissing = 39, "there is no signed release metadata";
    /// It is too early to try this payload again.
    DeferredBackOff = 40, "it is too early to try this payload again";
    /// The policy of measured boot could not be fetched.
    PolicyFetch = 42, "the boot policy cannot be fetched";
    /// The policy of measured boot could not be set.
    PolicySet = 43, "the boot policy cannot be set";
    /// The machine is back on the old version after a restart.
    Rollback = 44, "the new version did not boot well; the machine is back on the old one";
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn every_number_comes_back() {
        for number in 0..3000 {
            assert_eq!(ErrorCode::from_number(number).number(), number);
        }
        assert_eq!(ErrorCode::from_number(44), ErrorCode::Rollback);
        assert_eq!(ErrorCode::from_number(2404), ErrorCode::HttpStatus(404));
    }

    #[test]
    fn flags_of_the_client_are_taken_off() {
        assert_eq!(ErrorCode::from_number(1 << 30 | 12), ErrorCode::PayloadVerification);
        assert_eq!(ErrorCode::from_number(u32::MAX), ErrorCode::Other(u32::MAX >> 4));
    }
}
