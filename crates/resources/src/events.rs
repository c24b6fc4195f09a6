//! Events of apps: written in the transaction of the change that they tell of.

use std::time::SystemTime;

use skerry_model::{AppRef, time};
use skerry_proto::store::v1::EventsRecord;
use skerry_proto::types::v1::{Event, event};
use skerry_store::keys::EventSource;
use skerry_store::{Key, ReadError, Store, Txn, Versioned};

/// Events that are kept of an app.
const EVENTS_KEPT: usize = 64;
/// Longest message of an event.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The ring of an app's events, for adding to it.
#[derive(Debug)]
pub struct AppEvents {
    key: Key<EventsRecord>,
    stored: Option<Versioned<EventsRecord>>,
    app: AppRef,
}

impl AppEvents {
    /// Reads the ring.
    pub async fn read(store: &Store, app: &AppRef) -> Result<Self, ReadError> {
        let key = Key::of(&EventSource::App(app.clone()));
        let stored = store.get(&key).await?;
        Ok(Self { key, stored, app: app.clone() })
    }

    /// Adds an event in `txn`. `uid` is the app's: what counts its events begins and ends with it.
    pub fn add(self, txn: Txn, uid: &str, reason: &str, message: String) -> Txn {
        self.tell(txn, uid, event::Severity::Normal, reason, message)
    }

    /// The same for what somebody may want to look at.
    pub fn warn(self, txn: Txn, uid: &str, reason: &str, message: String) -> Txn {
        self.tell(txn, uid, event::Severity::Warning, reason, message)
    }

    fn tell(self, txn: Txn, uid: &str, severity: event::Severity, reason: &str, mut message: String) -> Txn {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        let mut record = self.stored.as_ref().map(|stored| stored.value.clone()).unwrap_or_default();
        uid.clone_into(&mut record.boot_id);
        record.sequence += 1;
        record.events.push(Event {
            time: Some(time::to_timestamp(SystemTime::now())),
            severity: severity.into(),
            reason: reason.to_owned(),
            message,
            regarding: self.app.to_string(),
            source: "scheduler".to_owned(),
            boot_id: record.boot_id.clone(),
            sequence: record.sequence,
            ..Event::default()
        });
        let excess = record.events.len().saturating_sub(EVENTS_KEPT);
        record.events.drain(..excess);
        let txn = match &self.stored {
            Some(stored) => txn.when_same(stored),
            None => txn.when_absent(&self.key),
        };
        txn.put(&self.key, &record)
    }
}
