//! `release add`: what the metadata says is held against the files before
//! anything is sent.

use std::{collections::BTreeMap, fs, path::Path};

use http::Method;
use proa_update_model::metadata::{ENVELOPE_BYTES_MAX, Envelope, Release};
use proa_update_server::{NewPackage, NewRelease, client, digests_of_file};

use super::{Error, Remote, args};

const USAGE: &str = "release add FILE... --metadata FILE [--codebase URL]";

pub async fn add(remote: &Remote, args: &args::Release, files: &[&str]) -> Result<String, Error> {
    let path = args.metadata.as_deref().ok_or(Error::Usage(USAGE))?;
    let (envelope, release) = read(path)?;
    let files = named(&release, files)?;
    let mut packages = BTreeMap::new();
    for payload in &release.payloads {
        let file = files.get(&payload.name).ok_or_else(|| Error::NoFile(payload.name.clone()))?;
        let file = Path::new(file);
        let digests =
            digests_of_file(file).map_err(|source| Error::File { path: file.to_owned(), source })?;
        let want = format!("{} bytes with SHA-256 {}", payload.size_bytes, payload.sha256);
        let have = format!("{} bytes with SHA-256 {}", digests.size_bytes, digests.sha256);
        if have != want {
            return Err(Error::OtherFile { path: file.to_owned(), have, want });
        }
        let codebase = args.codebase.clone().unwrap_or_default();
        packages.insert(payload.name.clone(), NewPackage { sha1: digests.sha1, codebase });
    }
    if args.codebase.is_none() {
        for payload in &release.payloads {
            let name = payload.name.replace('+', "%2B");
            let query = format!("sha256={}&size={}", payload.sha256, payload.size_bytes);
            let target = format!("/api/v1/packages/{name}?{query}");
            client::upload(&remote.endpoint, &target, Path::new(files[&payload.name])).await?;
        }
    }
    let body = serde_json::to_value(NewRelease { envelope, packages }).expect("a release becomes JSON");
    let done = remote.call(Method::POST, "releases", Some(&body)).await?;
    let again = if done["is_new"] == false { " again" } else { "" };
    Ok(format!("added release {}{again} with {} payloads\n", release.version, release.payloads.len()))
}

fn read(path: &Path) -> Result<(String, Release), Error> {
    let bad = |text: String| Error::Metadata { path: path.to_owned(), text };
    let failed = |source| Error::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > ENVELOPE_BYTES_MAX as u64 {
        return Err(bad(format!("larger than {ENVELOPE_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let envelope = Envelope::parse(text.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let release = Release::parse(&envelope.signed).map_err(|error| bad(error.to_string()))?;
    Ok((text, release))
}

/// The files by the names of the payloads that they are.
fn named<'a>(release: &Release, files: &[&'a str]) -> Result<BTreeMap<String, &'a str>, Error> {
    let mut named = BTreeMap::new();
    for file in files {
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file);
        if release.payload(name).is_none() {
            return Err(Error::Stranger(name.to_owned()));
        }
        named.insert(name.to_owned(), *file);
    }
    Ok(named)
}
