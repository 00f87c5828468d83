//! A release as the server keeps it, and which payload a machine gets.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proa_update_model::{
    metadata::{Envelope, Release},
    omaha::{Package as OmahaPackage, PostInstall, Update},
};
use serde::{Deserialize, Serialize};

use crate::error::Refused;

/// Most places where one package can be fetched.
const CODEBASES_MAX: usize = 8;

/// What omahactl tells of a release.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NewRelease {
    /// The signed metadata, as the publisher wrote it.
    pub envelope: String,
    /// What the metadata does not say of its payloads, by name.
    pub packages: BTreeMap<String, NewPackage>,
}

/// What the protocol needs to know of a payload besides its metadata.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NewPackage {
    /// SHA-1 in base64.
    pub sha1: String,
    /// Where it can be fetched, when it is not on this server.
    #[serde(default)]
    pub codebase: String,
}

/// A release in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Its version.
    pub version: String,
    /// The oldest version that it can be installed from.
    pub minimum: String,
    /// Seconds since 1970 from which on machines refuse it.
    pub expires_unix_s: u64,
    /// When it was added.
    pub added_unix_s: u64,
    /// Its payloads, whole ones first.
    pub packages: Vec<Package>,
    /// The signed metadata.
    pub envelope: String,
}

/// A payload in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Package {
    /// The file's name.
    pub name: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// SHA-256 in hex digits.
    pub sha256: String,
    /// SHA-1 in base64.
    pub sha1: String,
    /// The version that it is the difference to; nothing when it is whole.
    pub from: String,
    /// Where it can be fetched besides this server.
    pub codebases: Vec<String>,
}

impl Stored {
    /// The record of a new release; `app` is where it was sent to.
    ///
    /// The signatures are not checked: machines do that, with keys that this
    /// server does not have to have.
    ///
    /// # Errors
    /// 400 when the metadata makes no sense or is of another application.
    pub fn new(app: &str, new: NewRelease, now_unix_s: u64) -> Result<Self, Refused> {
        let bad = |error: &dyn std::fmt::Display| Refused::bad(format!("release metadata: {error}"));
        let envelope = Envelope::parse(new.envelope.as_bytes()).map_err(|error| bad(&error))?;
        let release = Release::parse(&envelope.signed).map_err(|error| bad(&error))?;
        if proa_update_model::omaha::bare_id(&release.app) != app {
            return Err(bad(&format!("it is of application {}, not {app}", release.app)));
        }
        let package = |payload: &proa_update_model::metadata::Payload| {
            let told = new.packages.get(&payload.name).cloned().unwrap_or_default();
            let digest = STANDARD.decode(&told.sha1).map_or(0, |digest| digest.len());
            if digest != 20 {
                return Err(bad(&format!("the SHA-1 of {} is missing", payload.name)));
            }
            Ok(Package {
                name: payload.name.clone(),
                size_bytes: payload.size_bytes,
                sha256: payload.sha256.to_string(),
                sha1: told.sha1,
                from: payload.from.as_ref().map(|from| from.version.to_string()).unwrap_or_default(),
                codebases: Some(told.codebase).filter(|url| !url.is_empty()).into_iter().collect(),
            })
        };
        let mut packages: Vec<Package> = release.payloads.iter().map(package).collect::<Result<_, _>>()?;
        packages.sort_by_key(|package| !package.from.is_empty());
        Ok(Self {
            version: release.version.to_string(),
            minimum: release.minimum.to_string(),
            expires_unix_s: release.expires_unix_s,
            added_unix_s: now_unix_s,
            packages,
            envelope: new.envelope,
        })
    }

    /// This release, told of again: the places of its payloads add up.
    ///
    /// # Errors
    /// 409 when it is not the same release.
    pub fn merged(mut self, old: &Self) -> Result<Self, Refused> {
        let content = |release: &Self| -> Vec<(String, String)> {
            release.packages.iter().map(|package| (package.name.clone(), package.sha256.clone())).collect()
        };
        if content(&self) != content(old) {
            return Err(Refused::conflict(format!(
                "version {} is there with other payloads; remove it first, or publish under a new version",
                self.version
            )));
        }
        for (package, before) in self.packages.iter_mut().zip(&old.packages) {
            let known = before.codebases.iter().filter(|url| !package.codebases.contains(url));
            let known: Vec<String> = known.cloned().collect();
            package.codebases.extend(known);
            package.codebases.truncate(CODEBASES_MAX);
        }
        self.added_unix_s = old.added_unix_s;
        Ok(self)
    }

    /// The payload for a machine that runs `version`: the difference to exactly
    /// that when it can apply one, else a whole one; only what can be fetched.
    pub fn choose(
        &self,
        version: &str,
        delta_okay: bool,
        can_fetch: impl Fn(&Package) -> bool,
    ) -> Option<&Package> {
        let fits = |package: &&Package| delta_okay && !version.is_empty() && package.from == version;
        let difference = self.packages.iter().find(|package| fits(package) && can_fetch(package));
        difference
            .or_else(|| self.packages.iter().find(|package| package.from.is_empty() && can_fetch(package)))
    }

    /// The offer of one payload. `here` is this server's own place for it.
    pub fn offer(&self, package: &Package, here: Option<String>, poll_interval_s: Option<u32>) -> Update {
        let sha256 = proa_update_model::hash::unhex(&package.sha256).unwrap_or_default();
        Update {
            poll_interval_s,
            codebases: here.into_iter().chain(package.codebases.iter().cloned()).collect(),
            version: self.version.clone(),
            packages: vec![OmahaPackage {
                name: package.name.clone(),
                sha1: package.sha1.clone(),
                size_bytes: package.size_bytes,
                sha256_hex: package.sha256.clone(),
            }],
            post_install: PostInstall {
                sha256: STANDARD.encode(sha256),
                is_delta: !package.from.is_empty(),
                // Machines here keep their own account of failures.
                disable_back_off: true,
                failures_per_url_max: None,
                release_metadata: Some(self.envelope.clone().into_bytes()),
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn package(name: &str, from: &str) -> Package {
        Package {
            name: name.into(),
            size_bytes: 1,
            sha256: "00".repeat(32),
            sha1: String::new(),
            from: from.into(),
            codebases: Vec::new(),
        }
    }

    fn stored() -> Stored {
        Stored {
            version: "2.0".into(),
            minimum: "0".into(),
            expires_unix_s: 0,
            added_unix_s: 1,
            packages: vec![package("full", ""), package("d1", "1.0"), package("d2", "1.1")],
            envelope: "{}".into(),
        }
    }

    #[test]
    fn a_difference_is_only_for_its_version() {
        #[rustfmt::skip]
        let rows = [
            ("1.0",   true,  "",     Some("d1")),
            ("1.1",   true,  "",     Some("d2")),
            ("1.0.0", true,  "",     Some("full")),
            ("1.0",   false, "",     Some("full")),
            ("0.9",   true,  "",     Some("full")),
            ("",      true,  "",     Some("full")),
            ("1.0",   true,  "d1",   Some("full")),
            ("0.9",   true,  "full", None),
            ("1.0",   true,  "full", Some("d1")),
        ];
        for (version, delta_okay, missing, want) in rows {
            let stored = stored();
            let got = stored.choose(version, delta_okay, |package| package.name != missing);
            assert_eq!(got.map(|package| package.name.as_str()), want, "{version} {delta_okay} {missing}");
        }
    }

    #[test]
    fn places_add_up_and_content_stays() {
        let mut again = stored();
        again.added_unix_s = 9;
        again.packages[0].codebases = vec!["http://b/".into()];
        let mut old = stored();
        old.packages[0].codebases = vec!["http://a/".into(), "http://b/".into()];
        let merged = again.clone().merged(&old).unwrap();
        assert_eq!(merged.packages[0].codebases, ["http://b/", "http://a/"]);
        assert_eq!(merged.added_unix_s, 1);
        old.packages[1].sha256 = "11".repeat(32);
        assert_eq!(again.merged(&old).unwrap_err().status, http::StatusCode::CONFLICT);
    }
}
