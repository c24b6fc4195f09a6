//! What is told of enrolments: events in the ring of the node or of the token, beside what goes to the log.

use std::time::SystemTime;

use skerry_model::time;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{Event, event::Severity};
use skerry_store::keys::EventSource;
use skerry_store::{Key, ReadError, Store, Txn, Versioned};

/// Events that are kept of a node or a token, as gateways keep them.
const EVENTS_KEPT: usize = 64;

/// A ring of events, for adding to it.
pub(super) struct Ring {
    key: Key<stored::EventsRecord>,
    before: Option<Versioned<stored::EventsRecord>>,
}

impl Ring {
    pub(super) async fn read(store: &Store, source: EventSource) -> Result<Self, ReadError> {
        let key = Key::of(&source);
        let before = store.get(&key).await?;
        Ok(Self { key, before })
    }

    /// Adds an event in `txn`. What counts the events of the ring's own source, an agent's boot, is left as it is: this one counts for
    /// itself.
    pub(super) fn add(
        self,
        txn: Txn,
        severity: Severity,
        regarding: String,
        (reason, message): (&str, String),
    ) -> Txn {
        let mut ring = self.before.as_ref().map(|before| before.value.clone()).unwrap_or_default();
        ring.events.push(Event {
            time: Some(time::to_timestamp(SystemTime::now())),
            severity: severity.into(),
            reason: reason.to_owned(),
            message,
            regarding,
            source: "registry".to_owned(),
            boot_id: uuid::Uuid::new_v4().to_string(),
            sequence: 1,
            ..Event::default()
        });
        let excess = ring.events.len().saturating_sub(EVENTS_KEPT);
        ring.events.drain(..excess);
        let revision = self.before.map_or(0, |before| before.mod_revision);
        txn.when_unchanged(&self.key, revision).put(&self.key, &ring)
    }
}
