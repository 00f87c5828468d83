//! What a client sends: who it is, whether it asks for an update, and what has
//! happened to it.

use super::{BadMessage, PROTOCOL, xml, xml::Element};
use crate::error_code::ErrorCode;

/// Longest reason of a failure, in characters: the last lines of a log.
pub const REASON_CHARACTERS_MAX: usize = 512;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The updater and its version, as `update_engine-0.4.10`.
    pub updater: String,
    /// `scheduler`, or `ondemandupdate` when a person asked.
    pub install_source: String,
    /// The system that asks.
    pub os: Os,
    /// What it is made of; a machine here sends one.
    pub apps: Vec<AppRequest>,
}

/// The system that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Os {
    /// The name of its version: `Chateau` for CoreOS.
    pub version: String,
    /// `CoreOS`, `Proa`.
    pub platform: String,
    /// `VERSION_MACHINE`.
    pub service_pack: String,
}

/// One application of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppRequest {
    /// Which application, as the client wrote it: see [`super::bare_id`].
    pub app_id: String,
    /// The version that runs.
    pub version: String,
    /// The group or channel that it follows.
    pub track: String,
    /// The group that it followed before.
    pub from_track: String,
    /// This boot.
    pub boot_id: String,
    /// The kind of machine, as `ec2`.
    pub oem: String,
    /// The version of what the OEM adds.
    pub oem_version: String,
    /// The version that was installed first.
    pub aleph_version: String,
    /// Which machine.
    pub machine_id: String,
    /// A name that people gave it.
    pub machine_alias: String,
    /// `en-US`.
    pub lang: String,
    /// `amd64-usr`.
    pub board: String,
    /// The hardware.
    pub hardware_class: String,
    /// Whether a delta can be applied.
    pub delta_okay: bool,
    /// Whether the client says that it lives; `active` says whether it was used.
    pub ping: Option<bool>,
    /// Whether it asks for an update.
    pub update_check: Option<UpdateCheck>,
    /// What has happened, in order.
    pub events: Vec<Event>,
}

/// The question for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateCheck {
    /// Only versions that start with this are wanted.
    pub target_version_prefix: String,
}

/// A kind of event, by its number in the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventType(pub u32);

impl EventType {
    /// The update is installed (result 1), or runs after a restart (result 2).
    pub const UPDATE_COMPLETE: Self = Self(3);
    /// The download begins.
    pub const DOWNLOAD_STARTED: Self = Self(13);
    /// The download is complete.
    pub const DOWNLOAD_FINISHED: Self = Self(14);
    /// Installed, in the words of Nebraska's clients.
    pub const INSTALLED: Self = Self(800);
}

/// How an event ended, by its number in the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventResult(pub u32);

impl EventResult {
    /// It failed.
    pub const ERROR: Self = Self(0);
    /// It succeeded.
    pub const SUCCESS: Self = Self(1);
    /// It succeeded, and the machine was restarted.
    pub const SUCCESS_REBOOT: Self = Self(2);
    /// It was put off.
    pub const DEFERRED: Self = Self(9);
}

/// Something that happened to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventType,
    /// How it ended.
    pub result: EventResult,
    /// What went wrong; `None` when nothing is said.
    pub error_code: Option<u32>,
    /// The version that ran before; `0.0.0.0` when there was none.
    pub previous_version: String,
    /// The version that is being installed.
    pub next_version: String,
    /// The version that failed. An attribute of ours.
    pub failed_version: String,
    /// Why, in words of at most [`REASON_CHARACTERS_MAX`] characters. An
    /// attribute of ours.
    pub reason: String,
}

impl Event {
    /// The error's meaning, if one is told.
    pub fn error(&self) -> Option<ErrorCode> {
        self.error_code.map(ErrorCode::from_number)
    }

    fn element(&self) -> Element {
        let reason: String = self.reason.chars().take(REASON_CHARACTERS_MAX).collect();
        let event = Element::new("event")
            .with("eventtype", self.kind.0.to_string())
            .with("eventresult", self.result.0.to_string());
        let event = match self.error_code {
            Some(code) => event.with("errorcode", code.to_string()),
            None => event,
        };
        event
            .with_some("previousversion", &self.previous_version)
            .with_some("nextversion", &self.next_version)
            .with_some("failedversion", &self.failed_version)
            .with_some("reason", &reason)
    }

    fn read(event: &Element) -> Result<Self, BadMessage> {
        Ok(Self {
            kind: EventType(number(event, "eventtype")?.unwrap_or(0)),
            result: EventResult(number(event, "eventresult")?.unwrap_or(0)),
            error_code: number(event, "errorcode")?,
            previous_version: event.text("previousversion"),
            next_version: event.text("nextversion"),
            failed_version: event.text("failedversion"),
            reason: event.text("reason").chars().take(REASON_CHARACTERS_MAX).collect(),
        })
    }
}

fn number(event: &Element, attribute: &'static str) -> Result<Option<u32>, BadMessage> {
    let Some(text) = event.get(attribute) else { return Ok(None) };
    let bad = |_| BadMessage::Attribute { element: "event", attribute, problem: "give a whole number" };
    // Some clients write the flags of an error code as a sign.
    let number = text.parse::<i64>().map_err(bad)?;
    Ok(Some(number as u32))
}

impl AppRequest {
    fn element(&self) -> Element {
        let mut app = Element::new("app")
            .with("appid", &self.app_id)
            .with("version", &self.version)
            .with("track", &self.track)
            .with_some("from_track", &self.from_track)
            .with_some("bootid", &self.boot_id)
            .with_some("oem", &self.oem)
            .with_some("oemversion", &self.oem_version)
            .with_some("alephversion", &self.aleph_version)
            .with_some("machineid", &self.machine_id)
            .with_some("machinealias", &self.machine_alias)
            .with_some("lang", &self.lang)
            .with_some("board", &self.board)
            .with_some("hardware_class", &self.hardware_class)
            .with("delta_okay", self.delta_okay.to_string());
        if let Some(active) = self.ping {
            app = app.holding(Element::new("ping").with("active", u8::from(active).to_string()));
        }
        if let Some(check) = &self.update_check {
            let check =
                Element::new("updatecheck").with_some("targetversionprefix", &check.target_version_prefix);
            app = app.holding(check);
        }
        self.events.iter().fold(app, |app, event| app.holding(event.element()))
    }

    fn read(app: &Element) -> Result<Self, BadMessage> {
        let app_id = app.text("appid");
        if app_id.is_empty() {
            let problem = "it is missing; give the application's id";
            return Err(BadMessage::Attribute { element: "app", attribute: "appid", problem });
        }
        let target_version_prefix = |check: &Element| check.text("targetversionprefix");
        Ok(Self {
            app_id,
            version: app.text("version"),
            track: app.text("track"),
            from_track: app.text("from_track"),
            boot_id: app.text("bootid"),
            oem: app.text("oem"),
            oem_version: app.text("oemversion"),
            aleph_version: app.text("alephversion"),
            machine_id: app.text("machineid"),
            machine_alias: app.text("machinealias"),
            lang: app.text("lang"),
            board: app.text("board"),
            hardware_class: app.text("hardware_class"),
            delta_okay: app.is_on("delta_okay"),
            ping: app.child("ping").map(|ping| ping.is_on("active")),
            update_check: app
                .child("updatecheck")
                .map(|check| UpdateCheck { target_version_prefix: target_version_prefix(check) }),
            events: app.all("event").map(Event::read).collect::<Result<_, _>>()?,
        })
    }
}

impl Request {
    /// The request as a document.
    pub fn render(&self) -> String {
        let os = Element::new("os")
            .with("version", &self.os.version)
            .with("platform", &self.os.platform)
            .with("sp", &self.os.service_pack);
        let request = Element::new("request")
            .with("protocol", PROTOCOL)
            .with("version", &self.updater)
            .with("updaterversion", &self.updater)
            .with("installsource", &self.install_source)
            .with("ismachine", "1")
            .holding(os);
        self.apps.iter().fold(request, |request, app| request.holding(app.element())).render()
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn parse(document: &[u8]) -> Result<Self, BadMessage> {
        let root = xml::parse(document)?;
        check_root(&root, "request")?;
        let os = root.child("os");
        let of_os = |name: &str| os.map(|os| os.text(name)).unwrap_or_default();
        let updater = match root.text("updaterversion") {
            empty if empty.is_empty() => root.text("version"),
            updater => updater,
        };
        Ok(Self {
            updater,
            install_source: root.text("installsource"),
            os: Os { version: of_os("version"), platform: of_os("platform"), service_pack: of_os("sp") },
            apps: root.all("app").map(AppRequest::read).collect::<Result<_, _>>()?,
        })
    }
}

/// Whether this is the document that is wanted.
///
/// # Errors
/// [`BadMessage::OtherRoot`] and [`BadMessage::OtherProtocol`].
pub fn check_root(root: &Element, wanted: &'static str) -> Result<(), BadMessage> {
    if root.name != wanted {
        return Err(BadMessage::OtherRoot { found: root.name.chars().take(64).collect(), wanted });
    }
    match root.get("protocol") {
        Some(PROTOCOL) => Ok(()),
        other => Err(BadMessage::OtherProtocol(other.unwrap_or_default().chars().take(64).collect())),
    }
}
