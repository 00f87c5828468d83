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
    from(&|name| setting(args, name), checked_domain(args))
}

/// As [`files`], for the destination of a mirror, by the flags that begin with
/// `dest-`: what is shown to one cluster is no business of another.
///
/// # Errors
/// As [`files`].
pub fn destination(args: &Args) -> Result<Option<TlsFiles>, Failure> {
    from(&|name| args.get(&format!("dest-{name}")).map(str::to_owned), None)
}

fn from(
    setting: &dyn Fn(&str) -> Option<String>,
    server_name: Option<String>,
) -> Result<Option<TlsFiles>, Failure> {
    let path = |name: &str| setting(name).filter(|path| !path.is_empty()).map(PathBuf::from);
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
        trusts_anybody: setting("insecure-skip-tls-verify").is_some_and(|value| is_true(&value)),
        server_name,
        ..TlsFiles::default()
    };
    let is_wanted = files.server_name.is_some()
        || files.trusted_ca.is_some()
        || files.identity.is_some()
        || files.trusts_anybody
        || setting("insecure-transport").is_some_and(|value| !is_true(&value));
    Ok(is_wanted.then_some(files))
}

/// Whether members that were found must speak TLS with a certificate for the domain:
/// `--insecure-discovery=false`.
pub fn checks_domain(args: &Args) -> bool {
    setting(args, "insecure-discovery").is_some_and(|value| !is_true(&value))
}

/// The domain that members must have a certificate for. Source: etcdctl's
/// `clientConfigFromCmd`: only when discovery is not trusted as it is.
fn checked_domain(args: &Args) -> Option<String> {
    setting(args, "discovery-srv").filter(|domain| checks_domain(args) && !domain.is_empty())
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
            ("--discovery-srv=x",                                    false),
            ("--insecure-discovery=false",                           false),
            ("--discovery-srv=x --insecure-discovery=false",         true),
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
