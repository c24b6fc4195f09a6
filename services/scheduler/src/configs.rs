//! `ConfigService`: what is a config's own in the ways of `skerry-api`, and the handlers.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{Call, Caused, Create, Delete, Kind, Mask, ResponseStream, Takes, Told, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::config::ConfigSpec as Parsed;
use skerry_model::{AppName, Code, ConfigRef, ContentHash, Fault, time};
use skerry_proto::scheduler::v1::config_service_server::ConfigService;
use skerry_proto::scheduler::v1::{self as pb, Config, ConfigSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::{Peer, status_of, trace};
use skerry_store::keys::{ConfigRevisionRef, Counted};
use skerry_store::{Key, Mirror, Store, Txn};
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::apps::{change_type, size_of};
use crate::follow::Shared;
use crate::world::ConfigUse;

/// Apps that a refusal names.
const USERS_NAMED: usize = 5;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Configs {
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

impl Configs {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { shared, store, shutdown }
    }
}

impl Kind for Configs {
    type Record = stored::ConfigRecord;
    type Spec = ConfigSpec;
    type Resource = Config;

    const FIELD: &'static str = "config";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.data", "spec.binary_data"];

    fn takes(config: &stored::ConfigRecord) -> Takes {
        Takes { one_of: Some(Counted::Configs), bytes: config.size_bytes }
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    fn meta(record: &mut stored::ConfigRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, name: &ConfigRef, record: &stored::ConfigRecord) -> Result<ConfigSpec, Fault> {
        let hash = ContentHash::parse(&record.hash).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config: name.clone(), hash });
        // Gone only when the config was updated between the two reads, or deleted.
        let content = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?;
        ConfigSpec::decode(content.value.spec).map_err(|e| Fault::internal(format!("{name}: {e}")))
    }

    fn merge(stored: Option<&ConfigSpec>, sent: &Config, mask: &Mask) -> Result<ConfigSpec, Fault> {
        let sent = sent.spec.clone().unwrap_or_default();
        let mut spec = stored.cloned().unwrap_or_default();
        if mask.covers("spec.data") {
            spec.data = sent.data;
        }
        if mask.covers("spec.binary_data") {
            spec.binary_data = sent.binary_data;
        }
        Parsed::from_proto(&spec)?;
        Ok(spec)
    }

    async fn write(
        &self,
        name: &ConfigRef,
        record: &mut stored::ConfigRecord,
        spec: &ConfigSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        record.hash = hash.to_string();
        record.size_bytes = size_of(&bytes);
        record.trace_parent = trace::trace_parent(&Span::current());
        record.trace_time = (!record.trace_parent.is_empty()).then(|| time::to_timestamp(SystemTime::now()));
        let create_time = Some(time::to_timestamp(SystemTime::now()));
        // No field of a config needs a feature of an agent yet.
        let requires = Vec::new();
        let content = stored::ConfigRevisionRecord { spec: bytes.into(), create_time, requires };
        Ok(txn.put(&Key::of(&ConfigRevisionRef { config: name.clone(), hash }), &content))
    }

    /// It must not be used. An app created at the same moment may still come to use it: its instances then wait with the reason
    /// `ConfigMissing`.
    fn remove(&self, name: &ConfigRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let world = self.shared.world();
        let Some(project) = world.project(&name.project) else { return Ok(txn) };
        let users: Vec<_> = project.apps_that_use(&name.config).take(USERS_NAMED).collect();
        if users.is_empty() { Ok(txn) } else { Err(in_use(name, &users)) }
    }

    fn show(&self, _: &ConfigRef, metadata: Metadata, spec: ConfigSpec) -> Config {
        Config { metadata: Some(metadata), spec: Some(spec) }
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
