//! The flags that say how members are reached: with TLS or without.

use std::path::PathBuf;

use proa_etcd_client::tls::TlsFiles;

use super::args::{Args, is_true};
use super::failure::Failure;
use super::setting;

/// What to dial with; `None` when nothing was said about TLS.
///
/// # Errors
/// A certificate without its key, or the other way round.
pub fn files(args: &Args) -> Result<Option<TlsFiles>, Failure> {
    let path = |name: &str| setting(args, name).map(PathBuf::from);
    let identity = match (path("cert"), path("key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        // Source: etcd's `TLSInfo.baseConfig`.
        (certificate, key) => {
            let show = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
            let (certificate, key) = (show(certificate), show(key));
            return Err(Failure::flag(format!(
                "KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]"
            )));
        }
    };
    let files = TlsFiles {
        trusted_ca: path("cacert"),
        identity,
        trusts_anybody: setting(args, "insecure-skip-tls-verify").is_some_and(|value| is_true(&value)),
        ..TlsFiles::default()
    };
    let is_wanted = files.trusted_ca.is_some()
        || files.identity.is_some()
        || files.trusts_anybody
        || setting(args, "insecure-transport").is_some_and(|value| !is_true(&value));
    Ok(is_wanted.then_some(files))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn tls_is_spoken_when_anything_is_said_about_it() {
        #[rustfmt::skip]
        let rows = [
            ("",                                                     false),
            ("--insecure-transport=true",                            false),
            ("--insecure-transport=false",                           true),
            ("--cacert=a",                                           true),
            ("--cert=a --key=b",                                     true),
            ("--insecure-skip-tls-verify",                           true),
        ];
        for (line, want) in rows {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let args = Args::parse(&words, &[]).unwrap();
            assert_eq!(files(&args).unwrap().is_some(), want, "{line}");
        }
        let args = Args::parse(&["--cert=a".to_owned()], &[]).unwrap();
        let refusal = files(&args).unwrap_err();
        assert_eq!(refusal.text, "KeyFile and CertFile must both be present[key: , cert: a]");
    }
}
