//! `AppService`: decode, act on the store, answer from the hub.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{
    Etag, Mask, ResponseStream, Told, Tried, Tries, Watcher, check_metadata, mark, new_meta, page_args,
    parent_and_selector, reply, stream_of,
};
use skerry_daemon::Shutdown;
use skerry_model::{AppRef, AppSpec, ContentHash, Fault, ProjectName, RevisionRef, time};
use skerry_proto::scheduler::v1::app_service_server::AppService;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{self as pb, App, ChangeType};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec as WireSpec, Metadata};
use skerry_rpc::status_of;
use skerry_store::{Committed, Key, RequestMark, Store, Txn, Versioned};
use tonic::{Request, Response, Status};

use crate::events::AppEvents;
use crate::follow::Shared;
use crate::{instances, revisions};

/// What an update may name.
const MASK: [&str; 7] = [
    "metadata.labels",
    "metadata.labels.*",
    "metadata.annotations",
    "metadata.annotations.*",
    "spec",
    "spec.selector",
    "spec.services",
];
/// Bytes of one page: below what a message may have.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Apps {
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

/// A change of an app that was asked for.
struct Wanted<'a> {
    name: AppRef,
    app: &'a App,
    mask: Mask,
    mark: Option<RequestMark>,
    /// There may be none yet.
    may_create: bool,
    /// There may be one already.
    may_update: bool,
    validate_only: bool,
}

impl Apps {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { shared, store, shutdown }
    }

    async fn create(&self, request: &pb::CreateAppRequest) -> Result<App, Fault> {
        let project =
            ProjectName::parse_parent(&request.parent).map_err(|e| Fault::invalid_field("parent", e))?;
        let (app, name) = named(request.app.as_ref(), Some(&project))?;
        if name.project != project {
            return Err(Fault::invalid_field(
                "app.metadata.name",
                format!("`{name}` is not in {}", request.parent),
            ));
        }
        let mark =
            mark(&project, &request.request_id, "skerry.scheduler.v1.AppService/CreateApp", request, &name)?;
        let mask = Mask::parse(None, &MASK)?;
        let wanted = Wanted {
            name,
            app,
            mask,
            mark,
            may_create: true,
            may_update: false,
            validate_only: request.validate_only,
        };
        Ok(self.change(&wanted).await?.0)
    }

    async fn update(&self, request: &pb::UpdateAppRequest) -> Result<(App, Outcome), Fault> {
        let (app, name) = named(request.app.as_ref(), None)?;
        let mask = Mask::parse(request.update_mask.as_ref(), &MASK)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.scheduler.v1.AppService/UpdateApp",
            request,
            &name,
        )?;
        let may_create = request.allow_missing;
        let wanted = Wanted {
            name,
            app,
            mask,
            mark,
            may_create,
            may_update: true,
            validate_only: request.validate_only,
        };
        self.change(&wanted).await
    }

    async fn change(&self, wanted: &Wanted<'_>) -> Result<(App, Outcome), Fault> {
        if let Some(mark) = &wanted.mark
            && self.store.find_request(mark).await?.is_some()
        {
            return Ok((self.read(&wanted.name).await?, Outcome::Unchanged));
        }
        let mut tries = Tries::default();
        loop {
            match self.try_change(wanted).await? {
                Tried::Done((Some(committed), outcome, _)) => {
                    self.shared
                        .mirror
                        .wait_for(&committed)
                        .await
                        .map_err(|e| Fault::unavailable(e.to_string()))?;
                    return Ok((self.read(&wanted.name).await?, outcome));
                }
                Tried::Done((None, outcome, resource)) => return Ok((resource, outcome)),
                Tried::Repeated => return Ok((self.read(&wanted.name).await?, Outcome::Unchanged)),
                Tried::Contended => tries.again(&wanted.name).await?,
            }
        }
    }

    /// One try: reads, merges, checks, writes. Without a commit nothing had to be written.
    async fn try_change(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<Tried<(Option<Committed>, Outcome, App)>, Fault> {
        let key = Key::<stored::AppRecord>::of(&wanted.name);
        let before = self.store.get(&key).await?;
        let sent = wanted.app.metadata.clone().unwrap_or_default();
        match &before {
            Some(_) if !wanted.may_update => return Err(Fault::already_exists(&wanted.name)),
            None if !wanted.may_create => return Err(Fault::not_found(&wanted.name)),
            None if !sent.etag.is_empty() => return Err(Fault::stale_etag(&wanted.name)),
            Some(before) => Etag::check(&sent.etag, &wanted.name, before.mod_revision)?,
            None => {}
        }
        let old_spec = match &before {
            Some(before) => Some(self.current_spec(&wanted.name, &before.value).await?),
            None => None,
        };
        let spec = merged_spec(wanted, old_spec.as_ref())?;
        AppSpec::from_proto(&spec)?;
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        let (record, outcome) = merged_record(wanted, before.as_ref(), &sent, &hash)?;
        if outcome == Outcome::Unchanged || wanted.validate_only {
            let etag = Etag { mod_revision: before.as_ref().map_or(0, |before| before.mod_revision) };
            let metadata = Some(skerry_api::metadata_of(&wanted.name, record.meta.as_ref(), etag));
            let status = self.shared.apps.get(&wanted.name.to_string()).and_then(|app| app.status.clone());
            return Ok(Tried::Done((None, outcome, App { metadata, spec: Some(spec), status })));
        }
        let mut txn = match &before {
            Some(before) => Txn::new().when_same(before),
            None => Txn::new().when_absent(&key),
        };
        if before.as_ref().is_none_or(|before| before.value.revision != record.revision) {
            let revision = stored::RevisionRecord {
                spec: bytes.into(),
                number: record.revision_number,
                create_time: Some(time::to_timestamp(SystemTime::now())),
            };
            txn = txn.put(&Key::of(&RevisionRef { app: wanted.name.clone(), hash }), &revision);
            let events = AppEvents::read(&self.store, &wanted.name).await?;
            let (reason, number) =
                (if before.is_some() { "Updated" } else { "Created" }, record.revision_number);
            txn = events.add(txn, reason, format!("revision {number} ({}) is current", hash.short()));
        }
        txn = txn.put(&key, &record);
        if let Some(mark) = &wanted.mark {
            txn = txn.request(mark.clone());
        }
        Tried::from_commit(self.store.commit(txn).await, |committed| {
            (Some(committed), outcome, App::default())
        })
    }

    async fn current_spec(&self, name: &AppRef, record: &stored::AppRecord) -> Result<WireSpec, Fault> {
        let hash =
            ContentHash::parse(&record.revision).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app: name.clone(), hash });
        // Gone only when the app was updated between the two reads, or deleted.
        let revision = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?;
        WireSpec::decode(revision.value.spec).map_err(|e| Fault::internal(format!("{name}: {e}")))
    }

    /// An app with its spec as the store has it now, and its status as this replica knows it.
    async fn read(&self, name: &AppRef) -> Result<App, Fault> {
        let key = Key::<stored::AppRecord>::of(name);
        let record = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(name))?;
        let spec = self.current_spec(name, &record.value).await?;
        let etag = Etag { mod_revision: record.mod_revision };
        let metadata = Some(skerry_api::metadata_of(name, record.value.meta.as_ref(), etag));
        let status = self.shared.apps.get(&name.to_string()).and_then(|app| app.status.clone());
        Ok(App { metadata, spec: Some(spec), status })
    }

    async fn delete(&self, request: &pb::DeleteAppRequest) -> Result<pb::DeleteAppResponse, Fault> {
        let name = AppRef::parse(&request.name)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.scheduler.v1.AppService/DeleteApp",
            request,
            &name,
        )?;
        if let Some(mark) = &mark
            && self.store.find_request(mark).await?.is_some()
        {
            return Ok(pb::DeleteAppResponse {});
        }
        let key = Key::<stored::AppRecord>::of(&name);
        let events = Key::<stored::EventsRecord>::of(&skerry_store::keys::EventSource::App(name.clone()));
        let mut tries = Tries::default();
        loop {
            let before = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(&name))?;
            Etag::check(&request.etag, &name, before.mod_revision)?;
            // Revisions go once no assignment refers to them: until then agents may still ask for them.
            let mut txn = Txn::new().when_same(&before).delete(&key).delete(&events);
            if let Some(mark) = &mark {
                txn = txn.request(mark.clone());
            }
            match Tried::from_commit(self.store.commit(txn).await, |committed| committed)? {
                Tried::Done(committed) => {
                    self.shared
                        .mirror
                        .wait_for(&committed)
                        .await
                        .map_err(|e| Fault::unavailable(e.to_string()))?;
                    return Ok(pb::DeleteAppResponse {});
                }
                Tried::Repeated => return Ok(pb::DeleteAppResponse {}),
                Tried::Contended => tries.again(&name).await?,
            }
        }
    }

    fn list(&self, request: &pb::ListAppsRequest) -> Result<pb::ListAppsResponse, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let page = page_args(request.page_size, &request.page_token)?;
        let page = self.shared.apps.list(&project, &selector, &page, PAGE_BYTES_MAX)?;
        Ok(pb::ListAppsResponse {
            apps: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        })
    }

    async fn watch(
        &self,
        request: &pb::WatchAppsRequest,
    ) -> Result<ResponseStream<pb::WatchAppsResponse>, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let watcher =
            Watcher::start(Arc::clone(&self.shared.apps), &project, selector, &request.resource_version)
                .await?;
        Ok(stream_of(watcher, told, self.shutdown.wait()))
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

/// The app of a request and its name; a short name is taken in `project`.
fn named<'a>(app: Option<&'a App>, project: Option<&ProjectName>) -> Result<(&'a App, AppRef), Fault> {
    let app = app.ok_or_else(|| Fault::invalid_field("app", "name the app"))?;
    let text = app.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    let name = match project {
        Some(project) => AppRef::parse_in(project, text),
        None => AppRef::parse(text),
    };
    Ok((app, name.map_err(|e| Fault::invalid_field("app.metadata.name", e))?))
}

/// The stored spec with what the mask names taken from what was sent.
fn merged_spec(wanted: &Wanted<'_>, stored: Option<&WireSpec>) -> Result<WireSpec, Fault> {
    let sent = wanted.app.spec.clone();
    let Some(stored) = stored else {
        return sent.ok_or_else(|| Fault::invalid_field("spec", "say what shall run"));
    };
    let sent_or_empty = sent.clone().unwrap_or_default();
    let mut spec = stored.clone();
    if wanted.mask.covers("spec.selector") {
        spec.selector = sent_or_empty.selector;
    }
    if wanted.mask.covers("spec.services") {
        spec.services = sent_or_empty.services;
    }
    Ok(spec)
}

/// The record after the change, and what the change amounts to.
fn merged_record(
    wanted: &Wanted<'_>,
    before: Option<&Versioned<stored::AppRecord>>,
    sent: &Metadata,
    hash: &ContentHash,
) -> Result<(stored::AppRecord, Outcome), Fault> {
    let Some(before) = before else {
        let meta = new_meta(sent, SystemTime::now());
        check_metadata(&meta)?;
        return Ok((
            stored::AppRecord { meta: Some(meta), revision: hash.to_string(), revision_number: 1 },
            Outcome::Created,
        ));
    };
    let mut record = before.value.clone();
    let mut meta = record.meta.take().unwrap_or_default();
    wanted.mask.merge_map("metadata.labels", &mut meta.labels, &sent.labels);
    wanted.mask.merge_map("metadata.annotations", &mut meta.annotations, &sent.annotations);
    check_metadata(&meta)?;
    if record.revision != hash.to_string() {
        record.revision = hash.to_string();
        record.revision_number += 1;
        meta.generation += 1;
    }
    record.meta = Some(meta);
    let outcome = if record == before.value { Outcome::Unchanged } else { Outcome::Updated };
    Ok((record, outcome))
}

#[tonic::async_trait]
impl AppService for Apps {
    async fn create_app(
        &self,
        request: Request<pb::CreateAppRequest>,
    ) -> Result<Response<pb::CreateAppResponse>, Status> {
        let app = self.create(request.get_ref()).await;
        reply(app.map(|app| pb::CreateAppResponse { app: Some(app) }))
    }

    async fn get_app(
        &self,
        request: Request<pb::GetAppRequest>,
    ) -> Result<Response<pb::GetAppResponse>, Status> {
        let name = AppRef::parse(&request.get_ref().name).map_err(|e| status_of(&e.into()))?;
        reply(self.read(&name).await.map(|app| pb::GetAppResponse { app: Some(app) }))
    }

    async fn list_apps(
        &self,
        request: Request<pb::ListAppsRequest>,
    ) -> Result<Response<pb::ListAppsResponse>, Status> {
        reply(self.list(request.get_ref()))
    }

    type WatchAppsStream = ResponseStream<pb::WatchAppsResponse>;

    async fn watch_apps(
        &self,
        request: Request<pb::WatchAppsRequest>,
    ) -> Result<Response<Self::WatchAppsStream>, Status> {
        reply(self.watch(request.get_ref()).await)
    }

    async fn update_app(
        &self,
        request: Request<pb::UpdateAppRequest>,
    ) -> Result<Response<pb::UpdateAppResponse>, Status> {
        let done = self.update(request.get_ref()).await;
        reply(done.map(|(app, outcome)| pb::UpdateAppResponse { app: Some(app), outcome: outcome.into() }))
    }

    async fn delete_app(
        &self,
        request: Request<pb::DeleteAppRequest>,
    ) -> Result<Response<pb::DeleteAppResponse>, Status> {
        reply(self.delete(request.get_ref()).await)
    }

    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        reply(instances::list(&self.shared, request.get_ref()))
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ListRevisionsRequest>,
    ) -> Result<Response<pb::ListRevisionsResponse>, Status> {
        reply(revisions::list(&self.shared, request.get_ref()))
    }
}
