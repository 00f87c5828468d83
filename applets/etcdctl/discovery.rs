//! `--discovery-srv`: the members by the SRV records of a domain.

use proa_etcd_client::srv::{Endpoint, clients};

/// Which members that were found are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All.
    Everybody,
    /// Those that speak TLS.
    Encrypted,
}

/// The client URLs of a domain's members; none when all were left out, each
/// with a word about it.
///
/// # Errors
/// Nothing was found, in etcdctl's words.
pub async fn endpoints(domain: &str, suffix: &str, trust: Trust) -> Result<Vec<String>, String> {
    let (kept, ignored) = sift(clients(domain, suffix).await?, trust);
    for url in ignored {
        eprintln!("ignoring discovered insecure endpoint {url:?}");
    }
    Ok(kept)
}

fn sift(found: Vec<Endpoint>, trust: Trust) -> (Vec<String>, Vec<String>) {
    let urls = found.into_iter().map(|endpoint| endpoint.url);
    urls.partition(|url| trust == Trust::Everybody || url.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_members_are_left_out_when_they_are_not_trusted() {
        let (plain, encrypted) = ("http://a:1".to_owned(), "https://b:1".to_owned());
        let found = [&plain, &encrypted].map(|url| Endpoint { url: url.clone(), priority: 0 });
        let all = vec![plain.clone(), encrypted.clone()];
        assert_eq!(sift(found.to_vec(), Trust::Everybody), (all, Vec::new()));
        assert_eq!(sift(found.to_vec(), Trust::Encrypted), (vec![encrypted], vec![plain]));
    }
}
