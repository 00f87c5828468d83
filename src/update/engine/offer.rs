//! Asking the update server, and what of its answer may be believed: nothing but
//! what is signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proa_update_model::{
    boot_record::BootRecord,
    error_code::ErrorCode,
    hash::Sha256,
    kept::Kept,
    metadata::{self, Downgrade, KeySet, Machine, Refusal},
    omaha::{
        AppRequest, CheckAnswer, DOCUMENT_BYTES_MAX, Event, Os, Request, Response, Update, UpdateCheck,
        bare_id,
    },
    payload::Expected,
    version::Version,
};

use crate::{
    error::{Error, file},
    http::{Http, Url},
    settings::Config,
    state,
};

/// Most URLs of one payload that are tried.
const URLS_MAX: usize = 8;
/// What a server says that does not know the machine's group. Source: Nebraska, `omaha`.
const UNKNOWN_GROUP: &str = "error-unknownApplicationOrGroup";
/// Most bytes of a key set in the image.
const KEYS_BYTES_MAX: usize = 64 << 10;

/// A release that may be installed, and where its payload is.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its version.
    pub version: String,
    /// Where the payload is, the best place first.
    pub urls: Vec<Url>,
    /// What is signed about the payload.
    pub expected: Expected,
    /// Whether it is the difference to what runs.
    pub is_difference: bool,
}

/// What the server said.
#[derive(Debug)]
pub enum Answer {
    /// There is nothing.
    Nothing {
        /// When to ask again, if the server has a wish.
        poll_after: Option<Duration>,
    },
    /// There is this; nothing of it is checked yet.
    Something(Box<Update>),
}

/// Who asks.
pub struct Asker<'a> {
    /// The settings.
    pub config: &'a Config,
    /// What runs.
    pub record: &'a BootRecord,
    /// This boot.
    pub boot_id: &'a str,
    /// The version that was installed first.
    pub aleph_version: &'a str,
    /// Whether no difference is wanted.
    pub whole_only: bool,
}

impl Asker<'_> {
    fn request(&self, events: Vec<Event>, check: Option<UpdateCheck>, by_person: bool) -> Request {
        let machine = std::env::consts::ARCH;
        let version = self.record.version.clone();
        let app = AppRequest {
            app_id: self.config.app_id.clone(),
            version: version.clone(),
            track: self.config.group.clone(),
            boot_id: self.boot_id.to_owned(),
            aleph_version: self.aleph_version.to_owned(),
            machine_id: self.config.machine_id.clone(),
            machine_alias: self.config.machine_alias.clone(),
            lang: "en-US".to_owned(),
            board: if machine == "aarch64" { "arm64-usr" } else { "amd64-usr" }.to_owned(),
            delta_okay: !self.whole_only,
            ping: check.is_some().then_some(true),
            update_check: check,
            events,
            ..AppRequest::default()
        };
        Request {
            updater: concat!("update_engine-", env!("CARGO_PKG_VERSION")).to_owned(),
            install_source: if by_person { "ondemandupdate" } else { "scheduler" }.to_owned(),
            os: Os {
                version: "Proa".to_owned(),
                platform: "Proa".to_owned(),
                service_pack: format!("{version}_{machine}"),
            },
            apps: vec![app],
        }
    }

    async fn exchange(&self, http: &mut Http, request: Request) -> Result<Response, Error> {
        let server = self.config.server.as_ref().ok_or_else(|| Error::Policy {
            code: ErrorCode::IgnoredPolicy,
            text:
                "no update server is set: give SERVER=URL in /etc/proa/update.conf, or update.server=URL on \
                   the kernel command line"
                    .to_owned(),
        })?;
        let body = http.post(server, request.render(), DOCUMENT_BYTES_MAX).await?;
        Ok(Response::parse(&body)?)
    }

    /// Tells the server what has happened.
    ///
    /// # Errors
    /// Then it was perhaps not told.
    pub async fn tell(&self, http: &mut Http, events: Vec<Event>) -> Result<(), Error> {
        self.exchange(http, self.request(events, None, false)).await.map(drop)
    }

    /// Asks for an update, and tells what has happened by the way.
    ///
    /// # Errors
    /// Of the transfer, and answers that are none.
    pub async fn ask(&self, http: &mut Http, events: Vec<Event>, by_person: bool) -> Result<Answer, Error> {
        let request = self.request(events, Some(UpdateCheck::default()), by_person);
        let response = self.exchange(http, request).await?;
        let ours = bare_id(&self.config.app_id);
        let mut apps = response.apps.into_iter();
        let Some(app) = apps.find(|app| bare_id(&app.app_id) == ours) else {
            return Err(Error::Server("nothing about this application".to_owned()));
        };
        match app.update_check {
            // A status of the application is told where there is no better one.
            Some(CheckAnswer::Error(_)) | None if app.status == UNKNOWN_GROUP => {
                let group = &self.config.group;
                let what = "GROUP= in update.conf or update.group= on the kernel command line names another";
                Err(Error::Server(format!("{UNKNOWN_GROUP}: it has no group {group:?}; {what}")))
            }
            Some(CheckAnswer::Error(_)) | None if app.status != "ok" => Err(Error::Server(app.status)),
            Some(CheckAnswer::Error(status)) => Err(Error::Server(status)),
            Some(CheckAnswer::NoUpdate { poll_interval_s, reason }) => {
                if by_person && !reason.is_empty() {
                    tracing::info!("the update server offers nothing: {reason}");
                }
                let poll_after = poll_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
                Ok(Answer::Nothing { poll_after })
            }
            Some(CheckAnswer::Update(update)) => Ok(Answer::Something(update)),
            None => Err(Error::Server("nothing about an update".to_owned())),
        }
    }

    /// What of `update` may be installed here; `kept` gets the keys that are
    /// trusted from now on, and has to be kept before the offer is used.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Policy`].
    pub fn check(&self, update: &Update, kept: &mut Kept, source_bytes: u64) -> Result<Offer, Error> {
        let policy = |code, text: &str| Error::Policy { code, text: text.to_owned() };
        let envelope = update.post_install.release_metadata.as_deref().ok_or_else(|| {
            policy(ErrorCode::MetadataSignatureMissing, "the offer has no signed release metadata")
        })?;
        let running: Version = self.record.version.parse().map_err(|error| Error::Content {
            path: self.config.boot_record.clone(),
            wrong: format!("{error}"),
        })?;
        let image = image_keys(self.config)?;
        let trusted = match &kept.keys {
            Some(keys) if keys.epoch >= image.epoch => keys.clone(),
            Some(_) | None => image,
        };
        let machine = Machine {
            app: &self.config.app_id,
            running: &running,
            now_unix_s: self.now_unix_s(kept),
            downgrade: Downgrade::Refused,
        };
        let accepted = metadata::verify(envelope, &trusted, &machine).map_err(|refusal| match refusal {
            Refusal::Expired { now_unix_s, .. } if is_of_a_clock_ahead(now_unix_s) => policy(
                refusal.error_code(),
                &format!(
                    "{refusal}, as this machine's clock was once; was that wrong, \
                     update_engine_client -reset_status forgets it"
                ),
            ),
            refusal => Error::Refused(refusal),
        })?;
        if accepted.keys != trusted {
            kept.keys = Some(accepted.keys);
        }
        let release = accepted.release;
        let package = update.packages.first().expect("an update has a package");
        let payload = release.payload(&package.name).ok_or_else(|| {
            policy(ErrorCode::ResponseInvalid, "the offered payload is not one of the release's")
        })?;
        if payload.size_bytes != package.size_bytes {
            return Err(policy(
                ErrorCode::PayloadSize,
                "the offered payload has another size than is signed",
            ));
        }
        if payload.from.as_ref().is_some_and(|from| from.root_hash != self.record.root_hash) {
            return Err(Error::OtherSystem);
        }
        let urls = update.urls(package).into_iter().take(URLS_MAX);
        let urls: Result<Vec<Url>, _> = urls.map(|url| Url::parse(&url)).collect();
        let urls = urls.map_err(|error| policy(ErrorCode::ResponseInvalid, &error.to_string()))?;
        let expected = release.expected(payload, source_bytes);
        let version = release.version.as_str().to_owned();
        Ok(Offer { version, urls, expected, is_difference: payload.from.is_some() })
    }

    /// Seconds since 1970, and not before anything that is known to have been: a
    /// machine without a battery wakes up in 1970, where no release has expired.
    fn now_unix_s(&self, kept: &Kept) -> u64 {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let built = std::fs::metadata(&self.config.keys_file).and_then(|keys| keys.modified());
        let built = built.map_or(0, since);
        since(SystemTime::now()).max(built).max(u64::try_from(kept.latest_unix_s).unwrap_or(0))
    }
}

/// Whether this is a time that the clock of this machine has not reached yet.
fn is_of_a_clock_ahead(unix_s: u64) -> bool {
    UNIX_EPOCH + Duration::from_secs(unix_s) > SystemTime::now()
}

/// The key set in the image.
fn image_keys(config: &Config) -> Result<KeySet, Error> {
    let path = &config.keys_file;
    let bytes = state::read(path, KEYS_BYTES_MAX).map_err(file("read", path))?;
    let missing = || Error::Content { path: path.clone(), wrong: "there are no keys to trust".to_owned() };
    let bytes = bytes.ok_or_else(missing)?;
    KeySet::parse(&bytes).map_err(|error| Error::Content { path: path.clone(), wrong: error.to_string() })
}

/// Whether what is kept of a transfer is of this offer.
pub fn is_same(transfer: &proa_update_model::kept::Transfer, offer: &Offer, slot: u32) -> bool {
    let same = |a: Sha256, b: Sha256| a == b;
    transfer.slot == slot
        && same(transfer.root_hash, offer.expected.root_hash)
        && same(transfer.payload_sha256, offer.expected.sha256)
}
