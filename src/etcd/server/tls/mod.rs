//! What is known of a client from its TLS connection.

/// The common name of the certificate that a client has proven to own. It
/// travels in a request's extensions, and is a user's name to [`crate::auth`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(pub String);
