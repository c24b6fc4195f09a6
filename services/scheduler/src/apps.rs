//! `AppService`: what is observed of an app, what goes with it, and the handlers. What an app means is in `skerry-resources`.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, ResponseStream, Told, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::{AppRef, Fault, ProjectName};
use skerry_proto::scheduler::v1::app_service_server::AppService;
use skerry_proto::scheduler::v1::{self as pb, App, ChangeType};
use skerry_proto::store::v1 as stored;
use skerry_resources::{AppRules, rollouts};
use skerry_rpc::{Peer, status_of};
use skerry_store::keys::EventSource;
use skerry_store::{Key, Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use crate::follow::Shared;
use crate::{instances, revisions};

/// The handlers.
#[derive(Clone)]
pub(crate) struct Apps {
    rules: AppRules,
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

impl Apps {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { rules: AppRules::new(store.clone()), shared, store, shutdown }
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
    type Rules = AppRules;

    fn rules(&self) -> &AppRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    async fn caught_up(&self) -> Result<(), Fault> {
        self.shared.apps.wait_for(self.shared.mirror.snapshot().version()).await
    }

    /// Revisions go once no assignment refers to them: until then agents may still ask for them.
    fn remove(&self, name: &AppRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let txn = txn.delete(&Key::<stored::EventsRecord>::of(&EventSource::App(name.clone())));
        Ok(rollouts::forget(name, txn))
    }

    fn observed(&self, name: &AppRef, app: App) -> App {
        let status = self.shared.apps.get(&name.to_string()).and_then(|app| app.status.clone());
        App { status, ..app }
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
