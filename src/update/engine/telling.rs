//! Telling the update server what happened, and the store what failed.

use proa_update_model::{
    engine::Trouble,
    error_code::ErrorCode,
    omaha::{self, EventResult, EventType},
};

use crate::{daemon::Updater, offer::Offer};

impl Updater {
    /// Tells the server of a step; one that is not heard of is no reason to stop.
    pub(crate) async fn say(&mut self, kind: EventType, offer: &Offer) {
        self.kept.report(&omaha::Event {
            kind,
            result: EventResult::SUCCESS,
            next_version: offer.version.clone(),
            ..omaha::Event::default()
        });
        self.tell_server().await;
    }

    pub(crate) async fn report_trouble(&mut self, trouble: &Trouble) {
        let is_of_the_server = matches!(trouble.code, ErrorCode::Http | ErrorCode::HttpStatus(_));
        let version = self.offer.take().map(|offer| offer.version).unwrap_or_default();
        if !is_of_the_server || !version.is_empty() {
            self.kept.report(&omaha::Event {
                kind: EventType::UPDATE_COMPLETE,
                result: EventResult::ERROR,
                error_code: Some(trouble.code.number()),
                next_version: version,
                reason: trouble.reason.clone(),
                ..omaha::Event::default()
            });
            self.tell_server().await;
        }
    }

    pub(crate) async fn tell_server(&mut self) {
        if self.config.server.is_none() || self.kept.reports.is_empty() {
            return;
        }
        let reports: Vec<omaha::Event> = self.kept.reports.iter().map(Into::into).collect();
        let mut http = self.http.clone();
        match self.asker().tell(&mut http, reports).await {
            Ok(()) => self.kept.reports.clear(),
            Err(error) => tracing::debug!("{}", proa_base::cli::chain(&error)),
        }
        self.http = http;
        self.keep_or_tell();
    }

    /// Tells store and server what they do not know yet.
    pub(crate) async fn tell_what_is_unknown(&mut self) {
        let unknown: Vec<_> =
            self.kept.failures.iter().filter(|failure| failure.is_to_store).cloned().collect();
        for failure in unknown {
            match self.store.tell(&failure).await {
                Ok(()) => self.kept.failures.told_store(&failure.root_hash),
                Err(error) => tracing::debug!("the store is not told yet: {error}"),
            }
        }
        self.tell_server().await;
    }
}
