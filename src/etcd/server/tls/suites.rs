//! Versions and cipher suites by etcd's names.

use proa_etcd_client::tls::{TlsError, VERSIONS as ALL, provider as usual};
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// `--tls-min-version=TLS1.3`.
    Only13,
    /// `--tls-max-version=TLS1.2`.
    Only12,
}

impl Versions {
    /// The versions between two bounds, each `""`, `TLS1.2` or `TLS1.3`.
    ///
    /// # Errors
    /// Bounds with nothing between them.
    pub fn between(min: &str, max: &str) -> Result<Self, TlsError> {
        match (min, max) {
            ("TLS1.3", "TLS1.2") => Err(TlsError::Setting(
                "--tls-min-version: TLS1.3 is above --tls-max-version, which is TLS1.2".to_owned(),
            )),
            ("TLS1.3", _) => Ok(Self::Only13),
            (_, "TLS1.2") => Ok(Self::Only12),
            (_, _) => Ok(Self::Both),
        }
    }

    pub(super) fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Both => ALL,
            Self::Only13 => &ALL[..1],
            Self::Only12 => &ALL[1..],
        }
    }
}

/// Checks the value of `--tls-min-version` and `--tls-max-version`.
///
/// # Errors
/// What would be right.
pub fn check_version(value: &str) -> Result<(), String> {
    match value {
        "" | "TLS1.2" | "TLS1.3" => Ok(()),
        _ => Err("give TLS1.2 or TLS1.3".to_owned()),
    }
}

/// Checks the value of `--cipher-suites`.
///
/// # Errors
/// What would be right.
pub fn check_suites(value: &str) -> Result<(), String> {
    let names: Vec<String> =
        value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    provider(&names).map(drop).map_err(|error| error.to_string())
}

/// The cryptography with the suites of TLS 1.2 that are named, all when none is.
///
/// Those of TLS 1.3 are always on, as in Go, which has no choice of them.
pub(super) fn provider(names: &[String]) -> Result<CryptoProvider, TlsError> {
    let all = CryptoProvider::clone(&usual());
    if names.is_empty() {
        return Ok(all);
    }
    let known = all.cipher_suites.clone();
    let mut chosen: Vec<SupportedCipherSuite> =
        known.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
    for name in names {
        let Some(suite) = known.iter().find(|suite| is_named(suite.suite(), name)) else {
            let names: Vec<String> = known.iter().map(|suite| name_of(suite.suite())).collect();
            return Err(TlsError::Setting(format!(
                "unexpected TLS cipher suite {name:?}; there are {}",
                names.join(", ")
            )));
        };
        if suite.tls13().is_none() {
            chosen.push(*suite);
        }
    }
    Ok(CryptoProvider { cipher_suites: chosen, ..all })
}

/// The name that IANA and Go have for a suite; the library's differs for TLS 1.3.
fn name_of(suite: CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// Go also has names of two suites without the hash at their end.
fn is_named(suite: CipherSuite, name: &str) -> bool {
    let full = name_of(suite);
    full == name || (name.ends_with("CHACHA20_POLY1305") && full == format!("{name}_SHA256"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_gos_names() {
        let chosen = |names: &str| {
            let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
            let suites = provider(&names).unwrap().cipher_suites;
            suites.iter().filter(|suite| suite.tls13().is_none()).count()
        };
        #[rustfmt::skip]
        let rows = [
            ("",                                                                                       6),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",                                                  1),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",                                                   1),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",          2),
            ("TLS_AES_128_GCM_SHA256",                                                                 0),
        ];
        for (names, want) in rows {
            assert_eq!(chosen(names), want, "{names}");
        }
        let refusal = check_suites("TLS_RSA_WITH_AES_128_CBC_SHA").unwrap_err();
        assert!(
            refusal.starts_with("unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\""),
            "{refusal}"
        );
    }

    #[test]
    fn versions_lie_between_the_bounds() {
        #[rustfmt::skip]
        let rows = [
            ("",       "",       Some(Versions::Both)),
            ("TLS1.2", "TLS1.3", Some(Versions::Both)),
            ("TLS1.3", "",       Some(Versions::Only13)),
            ("TLS1.2", "TLS1.2", Some(Versions::Only12)),
            ("TLS1.3", "TLS1.2", None),
        ];
        for (min, max, want) in rows {
            assert_eq!(Versions::between(min, max).ok(), want, "{min} to {max}");
        }
        assert!(check_version("TLS1.1").is_err());
    }
}
