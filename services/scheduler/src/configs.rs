//! `ConfigService`: when a config may go, and the handlers. What a config means is in `skerry-resources`.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, ResponseStream, Told, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::{AppName, Code, ConfigRef, Fault};
use skerry_proto::scheduler::v1::config_service_server::ConfigService;
use skerry_proto::scheduler::v1::{self as pb, Config};
use skerry_resources::ConfigRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use crate::apps::change_type;
use crate::follow::Shared;
use crate::world::ConfigUse;

/// Apps that a refusal names.
const USERS_NAMED: usize = 5;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Configs {
    rules: ConfigRules,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

impl Configs {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { rules: ConfigRules::new(store), shared, shutdown }
    }
}

impl Kind for Configs {
    type Rules = ConfigRules;

    fn rules(&self) -> &ConfigRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    async fn caught_up(&self) -> Result<(), Fault> {
        self.shared.configs.wait_for(self.shared.mirror.snapshot().version()).await
    }

    /// It must not be used. An app created at the same moment may still come to use it: its instances then wait with the reason
    /// `ConfigMissing`.
    fn remove(&self, name: &ConfigRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let world = self.shared.world();
        let Some(project) = world.project(&name.project) else { return Ok(txn) };
        let users: Vec<_> = project.apps_that_use(&name.config).take(USERS_NAMED).collect();
        if users.is_empty() { Ok(txn) } else { Err(in_use(name, &users)) }
    }
}

fn in_use(name: &ConfigRef, users: &[(&AppName, ConfigUse)]) -> Fault {
    let how = if users.iter().all(|(_, how)| *how == ConfigUse::Mounted) { "mounted" } else { "used" };
    let users = users.iter().map(|(app, _)| app.as_str()).collect::<Vec<_>>().join(", ");
    let message = format!("{name} is {how} by {users}: remove it from there first");
    Fault::new(Code::FailedPrecondition, "CONFIG_IN_USE", message).with("apps", users)
}

fn told(told: &Told<Config>) -> pb::WatchConfigsResponse {
    let (config, resource_version) = told.parts();
    pb::WatchConfigsResponse {
        r#type: change_type(told).into(),
        config: config.map(|config| Config::clone(config)),
        resource_version,
    }
}

#[tonic::async_trait]
impl ConfigService for Configs {
    async fn create_config(
        &self,
        request: Request<pb::CreateConfigRequest>,
    ) -> Result<Response<pb::CreateConfigResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.ConfigService/CreateConfig";
        let create = Create {
            parent: &request.parent,
            resource: request.config.as_ref(),
            validate_only: request.validate_only,
        };
        let config =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(config.map(|config| pb::CreateConfigResponse { config: Some(config) }))
    }

    async fn get_config(
        &self,
        request: Request<pb::GetConfigRequest>,
    ) -> Result<Response<pb::GetConfigResponse>, Status> {
        let config = async { skerry_api::read(self, &ConfigRef::parse(&request.get_ref().name)?).await };
        reply(config.await.map(|config| pb::GetConfigResponse { config: Some(config) }))
    }

    async fn list_configs(
        &self,
        request: Request<pb::ListConfigsRequest>,
    ) -> Result<Response<pb::ListConfigsResponse>, Status> {
        let pb::ListConfigsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shared.configs, parent, label_selector, *page_size, page_token)
                .await;
        reply(page.map(|page| pb::ListConfigsResponse {
            configs: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchConfigsStream = ResponseStream<pb::WatchConfigsResponse>;

    async fn watch_configs(
        &self,
        request: Request<pb::WatchConfigsRequest>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        let pb::WatchConfigsRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shared.configs, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn update_config(
        &self,
        request: Request<pb::UpdateConfigRequest>,
    ) -> Result<Response<pb::UpdateConfigResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.ConfigService/UpdateConfig";
        let update = Update {
            resource: request.config.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(config, outcome)| pb::UpdateConfigResponse {
            config: Some(config),
            outcome: outcome.into(),
        }))
    }

    async fn delete_config(
        &self,
        request: Request<pb::DeleteConfigRequest>,
    ) -> Result<Response<pb::DeleteConfigResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.ConfigService/DeleteConfig";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteConfigResponse {}))
    }
}
