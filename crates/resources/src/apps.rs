//! What an app is: its spec, its revisions, the rollout that a change of it begins.

use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{Mask, Rules, Takes};
use skerry_model::{AppRef, AppSpec, ContentHash, Fault, RevisionRef, feature, time};
use skerry_proto::scheduler::v1::App;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec as WireSpec, Metadata, ServiceSpec};
use skerry_rpc::trace;
use skerry_store::keys::Counted;
use skerry_store::{Key, Store, Txn};
use tracing::Span;

use crate::events::AppEvents;
use crate::rollouts;

/// The rules of apps.
#[derive(Debug, Clone)]
pub struct AppRules {
    store: Store,
}

impl AppRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Rules for AppRules {
    type Record = stored::AppRecord;
    type Spec = WireSpec;
    type Resource = App;

    const FIELD: &'static str = "app";
    const SPEC_PATHS: &'static [&'static str] =
        &["spec", "spec.selector", "spec.services", "spec.rollout", "spec.system"];

    fn takes(app: &stored::AppRecord) -> Takes {
        Takes { one_of: Some(Counted::Apps), bytes: app.size_bytes }
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::AppRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    /// Of the current revision, with how it is rolled out.
    async fn spec(&self, name: &AppRef, record: &stored::AppRecord) -> Result<WireSpec, Fault> {
        let hash =
            ContentHash::parse(&record.revision).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app: name.clone(), hash });
        // Gone only when the app was updated between the two reads, or deleted.
        let revision = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?;
        let spec = WireSpec::decode(revision.value.spec);
        let spec = spec.map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        Ok(WireSpec { rollout: record.rollout.clone(), ..spec })
    }

    fn merge(stored: Option<&WireSpec>, sent: &App, mask: &Mask) -> Result<WireSpec, Fault> {
        if stored.is_none() && sent.spec.is_none() {
            return Err(Fault::invalid_field("spec", "say what shall run"));
        }
        let sent = sent.spec.clone().unwrap_or_default();
        let mut spec = stored.cloned().unwrap_or_default();
        if mask.covers("spec.selector") {
            spec.selector = sent.selector;
        }
        if mask.covers("spec.services") {
            let before = std::mem::replace(&mut spec.services, sent.services);
            keep_restart_times(&before, &mut spec.services);
        }
        if mask.covers("spec.rollout") {
            spec.rollout = sent.rollout;
        }
        if mask.covers("spec.system") {
            spec.system = sent.system;
        }
        AppSpec::from_proto(&spec)?;
        Ok(spec)
    }

    /// The spec becomes the current revision, and an event tells so. How it is rolled out is no part of that: changed alone, it makes none.
    async fn write(
        &self,
        name: &AppRef,
        record: &mut stored::AppRecord,
        spec: &WireSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let bytes = WireSpec { rollout: None, ..spec.clone() }.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        record.rollout.clone_from(&spec.rollout);
        record.size_bytes = size_of(&spec.encode_to_vec());
        let current = ContentHash::parse(&record.revision).ok();
        let spreads = spec.rollout.is_some();
        if current == Some(hash) {
            return Ok(if spreads { txn } else { rollouts::end_at_once(name, record, txn) });
        }
        let txn = match current {
            Some(current) if spreads => {
                rollouts::spread(&self.store, name, record, (current, hash), txn).await?
            }
            _ => rollouts::end_at_once(name, record, txn),
        };
        let reason = if record.revision.is_empty() { "Created" } else { "Updated" };
        record.revision = hash.to_string();
        record.revision_number += 1;
        let number = record.revision_number;
        let uid = record.meta.as_ref().map_or("", |meta| meta.uid.as_str());
        record.trace_parent = trace::trace_parent(&Span::current());
        record.trace_time = (!record.trace_parent.is_empty()).then(|| time::to_timestamp(SystemTime::now()));
        let revision = stored::RevisionRecord {
            spec: bytes.into(),
            number,
            create_time: Some(time::to_timestamp(SystemTime::now())),
            requires: feature::of_app(&AppSpec::from_proto(spec)?).into_iter().map(str::to_owned).collect(),
            app_uid: uid.to_owned(),
            rejected: String::new(),
        };
        let events = AppEvents::read(&self.store, name).await?;
        let txn = events.add(txn, uid, reason, format!("revision {number} ({}) is current", hash.short()));
        Ok(txn.put(&Key::of(&RevisionRef { app: name.clone(), hash }), &revision))
    }

    fn resource(metadata: Metadata, spec: WireSpec) -> App {
        App { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}

/// Bytes that count against a project's quota.
pub(crate) fn size_of(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// A manifest that says nothing of restarts undoes none, and causes none.
pub fn keep_restart_times(before: &[ServiceSpec], services: &mut [ServiceSpec]) {
    for service in services.iter_mut().filter(|service| service.restart_time.is_none()) {
        let old = before.iter().find(|old| old.name == service.name);
        service.restart_time = old.and_then(|old| old.restart_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, restarted: Option<i64>) -> ServiceSpec {
        let restart_time = restarted.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        ServiceSpec { name: name.into(), restart_time, ..Default::default() }
    }

    #[test]
    fn a_restart_stays_unless_another_is_named() {
        let before = [service("a", Some(1)), service("b", Some(2)), service("c", None)];
        let mut sent = [service("b", None), service("a", Some(3)), service("c", None), service("d", None)];
        keep_restart_times(&before, &mut sent);
        assert_eq!(
            sent,
            [service("b", Some(2)), service("a", Some(3)), service("c", None), service("d", None)]
        );
    }
}
