//! `ConfigService`: decode, act on the store, answer from the hub.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{
    Etag, Mask, ResponseStream, Told, Tried, Tries, Watcher, check_metadata, mark, metadata_of, new_meta,
    page_args, parent_and_selector, reply, stream_of,
};
use skerry_daemon::Shutdown;
use skerry_model::config::ConfigSpec as Parsed;
use skerry_model::{Code, ConfigRef, ContentHash, Fault, ProjectName, time};
use skerry_proto::scheduler::v1::config_service_server::ConfigService;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{self as pb, Config, ConfigSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::keys::ConfigRevisionRef;
use skerry_store::{Committed, Key, RequestMark, Store, Txn, Versioned};
use tonic::{Request, Response, Status};

use crate::apps::change_type;
use crate::follow::Shared;

/// What an update may name.
const MASK: [&str; 7] = [
    "metadata.labels",
    "metadata.labels.*",
    "metadata.annotations",
    "metadata.annotations.*",
    "spec",
    "spec.data",
    "spec.binary_data",
];
/// Bytes of one page: below what a message may have.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Apps that a refusal names.
const USERS_NAMED: usize = 5;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Configs {
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

/// A change of a config that was asked for.
struct Wanted<'a> {
    name: ConfigRef,
    config: &'a Config,
    mask: Mask,
    mark: Option<RequestMark>,
    /// There may be none yet.
    may_create: bool,
    /// There may be one already.
    may_update: bool,
    validate_only: bool,
}

impl Configs {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { shared, store, shutdown }
    }

    async fn create(&self, request: &pb::CreateConfigRequest) -> Result<Config, Fault> {
        let project =
            ProjectName::parse_parent(&request.parent).map_err(|e| Fault::invalid_field("parent", e))?;
        let (config, name) = named(request.config.as_ref(), Some(&project))?;
        if name.project != project {
            return Err(Fault::invalid_field(
                "config.metadata.name",
                format!("`{name}` is not in {}", request.parent),
            ));
        }
        let mark = mark(
            &project,
            &request.request_id,
            "skerry.scheduler.v1.ConfigService/CreateConfig",
            request,
            &name,
        )?;
        let mask = Mask::parse(None, &MASK)?;
        let wanted = Wanted {
            name,
            config,
            mask,
            mark,
            may_create: true,
            may_update: false,
            validate_only: request.validate_only,
        };
        Ok(self.change(&wanted).await?.0)
    }

    async fn update(&self, request: &pb::UpdateConfigRequest) -> Result<(Config, Outcome), Fault> {
        let (config, name) = named(request.config.as_ref(), None)?;
        let mask = Mask::parse(request.update_mask.as_ref(), &MASK)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.scheduler.v1.ConfigService/UpdateConfig",
            request,
            &name,
        )?;
        let may_create = request.allow_missing;
        let wanted = Wanted {
            name,
            config,
            mask,
            mark,
            may_create,
            may_update: true,
            validate_only: request.validate_only,
        };
        self.change(&wanted).await
    }

    async fn change(&self, wanted: &Wanted<'_>) -> Result<(Config, Outcome), Fault> {
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
    ) -> Result<Tried<(Option<Committed>, Outcome, Config)>, Fault> {
        let key = Key::<stored::ConfigRecord>::of(&wanted.name);
        let before = self.store.get(&key).await?;
        let sent = wanted.config.metadata.clone().unwrap_or_default();
        match &before {
            Some(_) if !wanted.may_update => return Err(Fault::already_exists(&wanted.name)),
            None if !wanted.may_create => return Err(Fault::not_found(&wanted.name)),
            None if !sent.etag.is_empty() => return Err(Fault::stale_etag(&wanted.name)),
            Some(before) => Etag::check(&sent.etag, &wanted.name, before.mod_revision)?,
            None => {}
        }
        let mut spec = match &before {
            Some(before) => self.content(&wanted.name, &before.value).await?,
            None => ConfigSpec::default(),
        };
        let sent_spec = wanted.config.spec.clone().unwrap_or_default();
        if wanted.mask.covers("spec.data") {
            spec.data = sent_spec.data;
        }
        if wanted.mask.covers("spec.binary_data") {
            spec.binary_data = sent_spec.binary_data;
        }
        Parsed::from_proto(&spec)?;
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        let (record, outcome) = merged_record(wanted, before.as_ref(), &sent, &hash)?;
        if outcome == Outcome::Unchanged || wanted.validate_only {
            let etag = Etag { mod_revision: before.as_ref().map_or(0, |before| before.mod_revision) };
            let metadata = Some(metadata_of(&wanted.name, record.meta.as_ref(), etag));
            return Ok(Tried::Done((None, outcome, Config { metadata, spec: Some(spec) })));
        }
        let mut txn = match &before {
            Some(before) => Txn::new().when_same(before),
            None => Txn::new().when_absent(&key),
        };
        if before.as_ref().is_none_or(|before| before.value.hash != record.hash) {
            let create_time = Some(time::to_timestamp(SystemTime::now()));
            let content = stored::ConfigRevisionRecord { spec: bytes.into(), create_time };
            txn = txn.put(&Key::of(&ConfigRevisionRef { config: wanted.name.clone(), hash }), &content);
        }
        txn = txn.put(&key, &record);
        if let Some(mark) = &wanted.mark {
            txn = txn.request(mark.clone());
        }
        Tried::from_commit(self.store.commit(txn).await, |committed| {
            (Some(committed), outcome, Config::default())
        })
    }

    async fn content(&self, name: &ConfigRef, record: &stored::ConfigRecord) -> Result<ConfigSpec, Fault> {
        let hash = ContentHash::parse(&record.hash).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config: name.clone(), hash });
        // Gone only when the config was updated between the two reads, or deleted.
        let content = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?;
        ConfigSpec::decode(content.value.spec).map_err(|e| Fault::internal(format!("{name}: {e}")))
    }

    async fn read(&self, name: &ConfigRef) -> Result<Config, Fault> {
        let key = Key::<stored::ConfigRecord>::of(name);
        let record = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(name))?;
        let spec = self.content(name, &record.value).await?;
        let etag = Etag { mod_revision: record.mod_revision };
        Ok(Config { metadata: Some(metadata_of(name, record.value.meta.as_ref(), etag)), spec: Some(spec) })
    }

    async fn delete(&self, request: &pb::DeleteConfigRequest) -> Result<pb::DeleteConfigResponse, Fault> {
        let name = ConfigRef::parse(&request.name)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.scheduler.v1.ConfigService/DeleteConfig",
            request,
            &name,
        )?;
        if let Some(mark) = &mark
            && self.store.find_request(mark).await?.is_some()
        {
            return Ok(pb::DeleteConfigResponse {});
        }
        let key = Key::<stored::ConfigRecord>::of(&name);
        let mut tries = Tries::default();
        loop {
            let before = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(&name))?;
            Etag::check(&request.etag, &name, before.mod_revision)?;
            self.check_unused(&name)?;
            let mut txn = Txn::new().when_same(&before).delete(&key);
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
                    return Ok(pb::DeleteConfigResponse {});
                }
                Tried::Repeated => return Ok(pb::DeleteConfigResponse {}),
                Tried::Contended => tries.again(&name).await?,
            }
        }
    }

    /// An app created at the same moment may still come to mount it: its instances then wait with the reason `ConfigMissing`.
    fn check_unused(&self, name: &ConfigRef) -> Result<(), Fault> {
        let world = self.shared.world();
        let Some(project) = world.project(&name.project) else { return Ok(()) };
        let users: Vec<&str> = project
            .apps_that_mount(&name.config)
            .map(skerry_model::AppName::as_str)
            .take(USERS_NAMED)
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        let users = users.join(", ");
        let message = format!("{name} is mounted by {users}: remove it from there first");
        Err(Fault::new(Code::FailedPrecondition, "CONFIG_IN_USE", message).with("apps", users))
    }

    fn list(&self, request: &pb::ListConfigsRequest) -> Result<pb::ListConfigsResponse, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let page = page_args(request.page_size, &request.page_token)?;
        let page = self.shared.configs.list(&project, &selector, &page, PAGE_BYTES_MAX)?;
        Ok(pb::ListConfigsResponse {
            configs: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        })
    }

    async fn watch(
        &self,
        request: &pb::WatchConfigsRequest,
    ) -> Result<ResponseStream<pb::WatchConfigsResponse>, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let watcher =
            Watcher::start(Arc::clone(&self.shared.configs), &project, selector, &request.resource_version)
                .await?;
        Ok(stream_of(watcher, told, self.shutdown.wait()))
    }
}

fn told(told: &Told<Config>) -> pb::WatchConfigsResponse {
    let (config, resource_version) = told.parts();
    pb::WatchConfigsResponse {
        r#type: change_type(told).into(),
        config: config.map(|config| Config::clone(config)),
        resource_version,
    }
}

/// The config of a request and its name; a short name is taken in `project`.
fn named<'a>(
    config: Option<&'a Config>,
    project: Option<&ProjectName>,
) -> Result<(&'a Config, ConfigRef), Fault> {
    let config = config.ok_or_else(|| Fault::invalid_field("config", "name the config"))?;
    let text = config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    let name = match project {
        Some(project) => ConfigRef::parse_in(project, text),
        None => ConfigRef::parse(text),
    };
    Ok((config, name.map_err(|e| Fault::invalid_field("config.metadata.name", e))?))
}

/// The record after the change, and what the change amounts to.
fn merged_record(
    wanted: &Wanted<'_>,
    before: Option<&Versioned<stored::ConfigRecord>>,
    sent: &Metadata,
    hash: &ContentHash,
) -> Result<(stored::ConfigRecord, Outcome), Fault> {
    let Some(before) = before else {
        let meta = new_meta(sent, SystemTime::now());
        check_metadata(&meta)?;
        return Ok((stored::ConfigRecord { meta: Some(meta), hash: hash.to_string() }, Outcome::Created));
    };
    let mut record = before.value.clone();
    let mut meta = record.meta.take().unwrap_or_default();
    wanted.mask.merge_map("metadata.labels", &mut meta.labels, &sent.labels);
    wanted.mask.merge_map("metadata.annotations", &mut meta.annotations, &sent.annotations);
    check_metadata(&meta)?;
    if record.hash != hash.to_string() {
        record.hash = hash.to_string();
        meta.generation += 1;
    }
    record.meta = Some(meta);
    let outcome = if record == before.value { Outcome::Unchanged } else { Outcome::Updated };
    Ok((record, outcome))
}

#[tonic::async_trait]
impl ConfigService for Configs {
    async fn create_config(
        &self,
        request: Request<pb::CreateConfigRequest>,
    ) -> Result<Response<pb::CreateConfigResponse>, Status> {
        let config = self.create(request.get_ref()).await;
        reply(config.map(|config| pb::CreateConfigResponse { config: Some(config) }))
    }

    async fn get_config(
        &self,
        request: Request<pb::GetConfigRequest>,
    ) -> Result<Response<pb::GetConfigResponse>, Status> {
        let read = async { self.read(&ConfigRef::parse(&request.get_ref().name)?).await };
        reply(read.await.map(|config| pb::GetConfigResponse { config: Some(config) }))
    }

    async fn list_configs(
        &self,
        request: Request<pb::ListConfigsRequest>,
    ) -> Result<Response<pb::ListConfigsResponse>, Status> {
        reply(self.list(request.get_ref()))
    }

    type WatchConfigsStream = ResponseStream<pb::WatchConfigsResponse>;

    async fn watch_configs(
        &self,
        request: Request<pb::WatchConfigsRequest>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        reply(self.watch(request.get_ref()).await)
    }

    async fn update_config(
        &self,
        request: Request<pb::UpdateConfigRequest>,
    ) -> Result<Response<pb::UpdateConfigResponse>, Status> {
        let done = self.update(request.get_ref()).await;
        reply(done.map(|(config, outcome)| pb::UpdateConfigResponse {
            config: Some(config),
            outcome: outcome.into(),
        }))
    }

    async fn delete_config(
        &self,
        request: Request<pb::DeleteConfigRequest>,
    ) -> Result<Response<pb::DeleteConfigResponse>, Status> {
        reply(self.delete(request.get_ref()).await)
    }
}
