//! What a server answers: for each application whether there is an update, and
//! where its payload is.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use super::{BadMessage, PROTOCOL, request::check_root, xml, xml::Element};

/// The status of what went well.
pub const OK: &str = "ok";
const NO_UPDATE: &str = "noupdate";

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Who answers.
    pub server: String,
    /// Seconds since the server's midnight.
    pub day_elapsed_s: u32,
    /// An answer for each application of the request, in its order.
    pub apps: Vec<AppResponse>,
}

/// The answer for one application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppResponse {
    /// As the client wrote it.
    pub app_id: String,
    /// [`OK`], or `error-unknownApplication` and the like.
    pub status: String,
    /// Whether a ping is acknowledged.
    pub ping: bool,
    /// The answer to the question for an update, if there was one.
    pub update_check: Option<CheckAnswer>,
    /// How many events are acknowledged.
    pub events: usize,
}

/// The answer to the question for an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckAnswer {
    /// Nothing is offered.
    NoUpdate {
        /// When to ask again, if the server has a wish.
        poll_interval_s: Option<u32>,
        /// Why not, for people. An attribute of ours.
        reason: String,
    },
    /// This is offered.
    Update(Box<Update>),
    /// The server cannot say: `error-internal` and the like.
    Error(String),
}

/// An update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// When to ask again, if the server has a wish.
    pub poll_interval_s: Option<u32>,
    /// Where packages can be fetched, the best first: a package's name is
    /// appended, after a `/` when there is none.
    pub codebases: Vec<String>,
    /// The version.
    pub version: String,
    /// Its payloads; a client here takes the first.
    pub packages: Vec<Package>,
    /// What to know of the first payload.
    pub post_install: PostInstall,
}

/// A payload that can be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// The file's name.
    pub name: String,
    /// SHA-1 in base64, which old clients want to see; trust nothing to it.
    pub sha1: String,
    /// Bytes.
    pub size_bytes: u64,
    /// SHA-256 in hex digits, or nothing.
    pub sha256_hex: String,
}

/// What a client does after the download; the attributes of the action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostInstall {
    /// SHA-256 of the payload, in base64.
    pub sha256: String,
    /// Whether the payload is a delta.
    pub is_delta: bool,
    /// Whether the client may try again at once.
    pub disable_back_off: bool,
    /// How often a URL may fail before the next one is tried.
    pub failures_per_url_max: Option<u32>,
    /// The signed release metadata, as JSON. An attribute of ours.
    pub release_metadata: Option<Vec<u8>>,
}

impl PostInstall {
    fn element(&self) -> Element {
        let action = Element::new("action")
            .with("event", "postinstall")
            .with("sha256", &self.sha256)
            .with("needsadmin", "false")
            .with("IsDeltaPayload", self.is_delta.to_string());
        let action =
            if self.disable_back_off { action.with("DisablePayloadBackoff", "true") } else { action };
        let action = match self.failures_per_url_max {
            Some(count) => action.with("MaxFailureCountPerUrl", count.to_string()),
            None => action,
        };
        match &self.release_metadata {
            Some(metadata) => action.with("ReleaseMetadata", URL_SAFE_NO_PAD.encode(metadata)),
            None => action,
        }
    }

    fn read(action: &Element) -> Result<Self, BadMessage> {
        let bad = |attribute, problem| BadMessage::Attribute { element: "action", attribute, problem };
        let sha256 = action.text("sha256");
        if STANDARD.decode(&sha256).map_or(0, |digest| digest.len()) != 32 {
            return Err(bad("sha256", "give the SHA-256 of the payload in base64"));
        }
        let release_metadata = match action.get("ReleaseMetadata") {
            None => None,
            Some(text) => {
                let bare = text.trim_end_matches('=');
                let bytes = URL_SAFE_NO_PAD.decode(bare);
                Some(bytes.map_err(|_| bad("ReleaseMetadata", "give the envelope in base64url"))?)
            }
        };
        Ok(Self {
            sha256,
            is_delta: action.is_on("IsDeltaPayload"),
            disable_back_off: action.is_on("DisablePayloadBackoff"),
            failures_per_url_max: action.get("MaxFailureCountPerUrl").and_then(|text| text.parse().ok()),
            release_metadata,
        })
    }
}

impl Package {
    fn element(&self) -> Element {
        Element::new("package")
            .with("name", &self.name)
            .with("hash", &self.sha1)
            .with("size", self.size_bytes.to_string())
            .with("required", "true")
            .with_some("hash_sha256", &self.sha256_hex)
    }

    fn read(package: &Element) -> Result<Self, BadMessage> {
        let bad = |attribute, problem| BadMessage::Attribute { element: "package", attribute, problem };
        let name = package.text("name");
        if name.is_empty() {
            return Err(bad("name", "it is missing"));
        }
        let size_bytes = package.get("size").and_then(|text| text.parse().ok());
        Ok(Self {
            name,
            sha1: package.text("hash"),
            size_bytes: size_bytes.ok_or_else(|| bad("size", "give a number of bytes"))?,
            sha256_hex: package.text("hash_sha256"),
        })
    }
}

impl Update {
    /// The order of the elements is the original's: its clients look for
    /// paths, others read from the top.
    fn fill(&self, check: Element) -> Element {
        let url = |base: &String| Element::new("url").with("codebase", base);
        let urls = self.codebases.iter().fold(Element::new("urls"), |urls, base| urls.holding(url(base)));
        let packages = self.packages.iter().map(Package::element);
        let packages = packages.fold(Element::new("packages"), Element::holding);
        let actions = Element::new("actions").holding(self.post_install.element());
        let manifest =
            Element::new("manifest").with("version", &self.version).holding(packages).holding(actions);
        check.holding(urls).holding(manifest)
    }

    fn read(check: &Element) -> Result<Self, BadMessage> {
        let manifest = check.child("manifest").ok_or(BadMessage::NoElement("manifest"))?;
        let packages = manifest.child("packages").ok_or(BadMessage::NoElement("packages"))?;
        let packages: Vec<Package> = packages.all("package").map(Package::read).collect::<Result<_, _>>()?;
        let actions = manifest.child("actions").ok_or(BadMessage::NoElement("actions"))?;
        let action = actions.all("action").find(|action| action.get("event") == Some("postinstall"));
        let urls = check.child("urls").ok_or(BadMessage::NoElement("urls"))?;
        let codebases: Vec<String> = urls.all("url").map(|url| url.text("codebase")).collect();
        if packages.is_empty() {
            return Err(BadMessage::NoElement("package"));
        }
        if codebases.is_empty() {
            return Err(BadMessage::NoElement("url"));
        }
        Ok(Self {
            poll_interval_s: poll_interval(check),
            codebases,
            version: manifest.text("version"),
            packages,
            post_install: PostInstall::read(action.ok_or(BadMessage::NoElement("action"))?)?,
        })
    }

    /// Where a package can be fetched, the best place first.
    pub fn urls(&self, package: &Package) -> Vec<String> {
        let join = |base: &String| {
            let slash = if base.ends_with('/') { "" } else { "/" };
            format!("{base}{slash}{}", package.name)
        };
        self.codebases.iter().map(join).collect()
    }
}

fn poll_interval(check: &Element) -> Option<u32> {
    check.get("PollInterval").and_then(|text| text.parse().ok())
}

impl CheckAnswer {
    fn element(&self) -> Element {
        let check = Element::new("updatecheck");
        let polling = |check: Element, interval: Option<u32>| match interval {
            Some(seconds) => check.with("PollInterval", seconds.to_string()),
            None => check,
        };
        match self {
            Self::NoUpdate { poll_interval_s, reason } => {
                polling(check.with("status", NO_UPDATE), *poll_interval_s).with_some("reason", reason)
            }
            Self::Update(update) => update.fill(polling(check.with("status", OK), update.poll_interval_s)),
            Self::Error(status) => check.with("status", status),
        }
    }

    fn read(check: &Element) -> Result<Self, BadMessage> {
        match check.get("status") {
            Some(OK) => Ok(Self::Update(Box::new(Update::read(check)?))),
            Some(NO_UPDATE) => {
                Ok(Self::NoUpdate { poll_interval_s: poll_interval(check), reason: check.text("reason") })
            }
            Some(error) if error.starts_with("error-") => Ok(Self::Error(error.to_owned())),
            Some(_) | None => Err(BadMessage::Attribute {
                element: "updatecheck",
                attribute: "status",
                problem: "give ok, noupdate or error-...",
            }),
        }
    }
}

impl AppResponse {
    fn element(&self) -> Element {
        let mut app = Element::new("app").with("appid", &self.app_id).with("status", &self.status);
        let well = |name: &str| Element::new(name).with("status", OK);
        if self.ping {
            app = app.holding(well("ping"));
        }
        app = (0..self.events).fold(app, |app, _| app.holding(well("event")));
        match &self.update_check {
            Some(check) => app.holding(check.element()),
            None => app,
        }
    }

    fn read(app: &Element) -> Result<Self, BadMessage> {
        let is_well = |element: &Element| element.get("status") == Some(OK);
        Ok(Self {
            app_id: app.text("appid"),
            status: app.text("status"),
            ping: app.child("ping").is_some_and(is_well),
            update_check: app.child("updatecheck").map(CheckAnswer::read).transpose()?,
            events: app.all("event").filter(|event| is_well(event)).count(),
        })
    }
}

impl Response {
    /// The response as a document.
    pub fn render(&self) -> String {
        let day = Element::new("daystart").with("elapsed_seconds", self.day_elapsed_s.to_string());
        let response =
            Element::new("response").with("protocol", PROTOCOL).with("server", &self.server).holding(day);
        self.apps.iter().fold(response, |response, app| response.holding(app.element())).render()
    }

    /// Reads a response.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn parse(document: &[u8]) -> Result<Self, BadMessage> {
        let root = xml::parse(document)?;
        check_root(&root, "response")?;
        let day = root.child("daystart").and_then(|day| day.get("elapsed_seconds"));
        Ok(Self {
            server: root.text("server"),
            day_elapsed_s: day.and_then(|text| text.parse().ok()).unwrap_or(0),
            apps: root.all("app").map(AppResponse::read).collect::<Result<_, _>>()?,
        })
    }
}
