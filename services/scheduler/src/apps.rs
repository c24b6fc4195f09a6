//! `AppService`: what is an app's own in the ways of `skerry-api`, and the handlers.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{Call, Caused, Create, Delete, Kind, Mask, ResponseStream, Takes, Told, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::{AppRef, AppSpec, ContentHash, Fault, ProjectName, RevisionRef, feature, time};
use skerry_proto::scheduler::v1::app_service_server::AppService;
use skerry_proto::scheduler::v1::{self as pb, App, ChangeType};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec as WireSpec, Metadata, ServiceSpec};
use skerry_rpc::{Peer, status_of, trace};
use skerry_store::keys::{Counted, EventSource};
use skerry_store::{Key, Mirror, Store, Txn};
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::events::AppEvents;
use crate::follow::Shared;
use crate::{instances, revisions, rollouts};

/// The handlers.
#[derive(Clone)]
pub(crate) struct Apps {
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

impl Apps {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { shared, store, shutdown }
    }

    /// NOT_FOUND if the project of `parent` is not there. What is no name is refused by who reads it.
    async fn known_project(&self, parent: &str) -> Result<(), Fault> {
        match ProjectName::of_resource(parent) {
            Ok(project) => skerry_api::known_project(&self.store, &self.shared.mirror, &project).await,
            Err(_) => Ok(()),
        }
    }
}

impl Kind for Apps {
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

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
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

    /// Revisions go once no assignment refers to them: until then agents may still ask for them.
    fn remove(&self, name: &AppRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let txn = txn.delete(&Key::<stored::EventsRecord>::of(&EventSource::App(name.clone())));
        Ok(rollouts::forget(name, txn))
    }

    fn show(&self, name: &AppRef, metadata: Metadata, spec: WireSpec) -> App {
        let status = self.shared.apps.get(&name.to_string()).and_then(|app| app.status.clone());
        App { metadata: Some(metadata), spec: Some(spec), status }
    }
}

/// Bytes that count against a project's quota.
pub(crate) fn size_of(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// A manifest that says nothing of restarts undoes none, and causes none.
pub(crate) fn keep_restart_times(before: &[ServiceSpec], services: &mut [ServiceSpec]) {
    for service in services.iter_mut().filter(|service| service.restart_time.is_none()) {
        let old = before.iter().find(|old| old.name == service.name);
        service.restart_time = old.and_then(|old| old.restart_time);
    }
}

fn told(told: &Told<App>) -> pb::WatchAppsResponse {
    let (app, resource_version) = told.parts();
    pb::WatchAppsResponse {
        r#type: change_type(told).into(),
        app: app.map(|app| App::clone(app)),
        resource_version,
    }
}

pub(crate) fn change_type<T>(told: &Told<T>) -> ChangeType {
    match told {
        Told::Added(..) => ChangeType::Added,
        Told::Modified(..) => ChangeType::Modified,
        Told::Deleted(..) => ChangeType::Deleted,
        Told::Bookmark(_) => ChangeType::Bookmark,
    }
}

#[tonic::async_trait]
impl AppService for Apps {
    async fn create_app(
        &self,
        request: Request<pb::CreateAppRequest>,
    ) -> Result<Response<pb::CreateAppResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.AppService/CreateApp";
        let create = Create {
            parent: &request.parent,
            resource: request.app.as_ref(),
            validate_only: request.validate_only,
        };
        let app =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(app.map(|app| pb::CreateAppResponse { app: Some(app) }))
    }

    async fn get_app(
        &self,
        request: Request<pb::GetAppRequest>,
    ) -> Result<Response<pb::GetAppResponse>, Status> {
        let app = async { skerry_api::read(self, &AppRef::parse(&request.get_ref().name)?).await };
        reply(app.await.map(|app| pb::GetAppResponse { app: Some(app) }))
    }

    async fn list_apps(
        &self,
        request: Request<pb::ListAppsRequest>,
    ) -> Result<Response<pb::ListAppsResponse>, Status> {
        let pb::ListAppsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shared.apps, parent, label_selector, *page_size, page_token).await;
        reply(page.map(|page| pb::ListAppsResponse {
            apps: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchAppsStream = ResponseStream<pb::WatchAppsResponse>;

    async fn watch_apps(
        &self,
        request: Request<pb::WatchAppsRequest>,
    ) -> Result<Response<Self::WatchAppsStream>, Status> {
        let pb::WatchAppsRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shared.apps, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn update_app(
        &self,
        request: Request<pb::UpdateAppRequest>,
    ) -> Result<Response<pb::UpdateAppResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.AppService/UpdateApp";
        let update = Update {
            resource: request.app.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(app, outcome)| pb::UpdateAppResponse { app: Some(app), outcome: outcome.into() }))
    }

    async fn delete_app(
        &self,
        request: Request<pb::DeleteAppRequest>,
    ) -> Result<Response<pb::DeleteAppResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.AppService/DeleteApp";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteAppResponse {}))
    }

    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        let listed = async {
            self.known_project(&request.get_ref().parent).await?;
            instances::list(&self.shared, request.get_ref())
        };
        reply(listed.await)
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ListRevisionsRequest>,
    ) -> Result<Response<pb::ListRevisionsResponse>, Status> {
        let listed = async {
            self.known_project(&request.get_ref().parent).await?;
            revisions::list(&self.shared, request.get_ref())
        };
        reply(listed.await)
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
