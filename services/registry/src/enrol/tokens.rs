//! `TokenService`: leave for machines to enrol.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_api::{Caused, Etag, Tries, admit, audit, known_project, metadata_of, page_size, reply};
use skerry_daemon::Shutdown;
use skerry_identity::token::Token;
use skerry_model::meta::{CLUSTER_LABEL, LABELS_MAX, check_annotations, check_labels};
use skerry_model::{AppName, ClusterName, ClusterRef, Code, Fault, ProjectName, Violations, time};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::token_service_server::TokenService;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_resources::named_cluster;
use skerry_store::keys::{EventSource, TokenId, TokenName};
use skerry_store::{Act, Key, PageRequest, PageToken, Prefix, Store, Txn, TxnError, Versioned};
use tonic::{Request, Response, Status};

use super::TOKENS_MAX;
use super::decide::{MACHINES_MAX, labels_of};
use super::template::Template;
use crate::authority::Issuer;
use crate::follow::Shared;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a token is good where nothing is said.
const TTL_DEFAULT: Duration = DAY;
/// Shortest and longest.
const TTL_MIN: Duration = Duration::from_secs(60);
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How long a token that has expired is still shown.
const KEPT: Duration = DAY;
/// Between two looks for tokens that can go.
const SWEEP_PERIOD: Duration = Duration::from_secs(10 * 60);
/// Most apps of a token.
const SYSTEM_APPS_MAX: usize = LABELS_MAX;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Tokens {
    shared: Arc<Shared>,
    store: Store,
    issuer: Issuer,
}

impl Tokens {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, issuer: Issuer) -> Self {
        Self { shared, store, issuer }
    }

    async fn create(
        &self,
        request: &pb::CreateTokenRequest,
        caused: &Caused,
    ) -> Result<pb::CreateTokenResponse, Fault> {
        let project = ProjectName::parse_parent(&request.parent);
        let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
        let now = SystemTime::now();
        let mut record = record_of(request, now)?;
        let held = self.shared.mirror.snapshot();
        if held.entries(&Prefix::<stored::TokenRecord>::project(&project)).count() >= TOKENS_MAX {
            let message = format!("{project} has {TOKENS_MAX} tokens: delete some (skerry token delete)");
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_TOKENS", message));
        }
        let roots = self.issuer.roots()?;
        // While one root follows another the former: servers present it with either of their certificates, the newer only with the new one.
        let pin = roots.roots().last().expect("a bundle has a root").pin();
        let token = Token::generate(pin).map_err(|error| Fault::internal(error.to_string()))?;
        record.hash = bytes::Bytes::copy_from_slice(token.hash().as_bytes());
        let id = TokenId::parse(token.id().as_str()).expect("an id of ours");
        let name = TokenName { project, id };
        let key = Key::<stored::TokenRecord>::of(&name);
        let cluster = ClusterName::parse(&record.cluster).ok();
        let cluster = cluster.map(|cluster| ClusterRef { project: name.project.clone(), cluster });
        let mut tries = Tries::default();
        let done = loop {
            let act = caused.of_resource(&name.project, full_name(&name), AuditOutcome::Created);
            let txn = Txn::new().when_absent(&key).put(&key, &record).audit(act);
            let txn = match &cluster {
                Some(cluster) => named_cluster(&self.store, cluster, txn).await?,
                None => txn,
            };
            match self.store.commit(admit(&self.store, &name.project, &[], txn).await?).await {
                Ok(done) => break done,
                Err(TxnError::Conflict(_)) => tries.again(&name.project).await?,
                Err(error) => return Err(error.into()),
            }
        };
        // Who asks for it next shall find it.
        self.shared.mirror.wait_for(&done).await?;
        tracing::info!(token = %name.id, project = %name.project, uses_max = record.uses_max, "a token was made");
        let etag = Etag { mod_revision: done.revision };
        Ok(pb::CreateTokenResponse {
            token: Some(show(&name, record, etag)),
            text: token.reveal().to_string(),
        })
    }

    async fn list(&self, request: &pb::ListTokensRequest) -> Result<pb::ListTokensResponse, Fault> {
        let project = ProjectName::parse_parent(&request.parent);
        let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
        known_project(&self.store, &self.shared.mirror, &project).await?;
        let token = match request.page_token.as_str() {
            "" => None,
            text => Some(PageToken::parse(text).map_err(|error| Fault::invalid_field("page_token", error))?),
        };
        let page = PageRequest { size: page_size(request.page_size)?, token };
        let page = self.store.list(&Prefix::<stored::TokenRecord>::project(&project), &page).await?;
        let shown = |read: Versioned<stored::TokenRecord>| {
            show(&read.key.name(), read.value, Etag { mod_revision: read.mod_revision })
        };
        Ok(pb::ListTokensResponse {
            tokens: page.items.into_iter().map(shown).collect(),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
        })
    }

    async fn delete(
        &self,
        request: &pb::DeleteTokenRequest,
        caused: &Caused,
    ) -> Result<pb::DeleteTokenResponse, Fault> {
        let name = parse_name(&request.name)?;
        let key = Key::<stored::TokenRecord>::of(&name);
        let act = caused.of_resource(&name.project, full_name(&name), AuditOutcome::Deleted);
        match self.store.commit(remove(&name).when_exists(&key).audit(act)).await {
            Ok(_) => {
                tracing::info!(token = %name.id, project = %name.project, "a token was struck out");
                Ok(pb::DeleteTokenResponse {})
            }
            Err(TxnError::Conflict(_)) => Err(Fault::not_found(&request.name)),
            Err(error) => Err(error.into()),
        }
    }
}

fn full_name(name: &TokenName) -> String {
    format!("{}/tokens/{}", name.project.parent(), name.id)
}

/// The same, of the registry's own accord.
fn remove_expired(name: &TokenName) -> Txn {
    let by = audit::itself("registry");
    let act = Act::new(by, "sweep", name.project.clone(), full_name(name), AuditOutcome::Deleted);
    remove(name).audit(act.detail("it had expired"))
}

/// The token and its events go.
fn remove(name: &TokenName) -> Txn {
    Txn::new()
        .delete(&Key::<stored::TokenRecord>::of(name))
        .delete(&Key::<stored::EventsRecord>::of(&EventSource::Token(name.clone())))
}

fn parse_name(text: &str) -> Result<TokenName, Fault> {
    let parts: Vec<&str> = text.split('/').collect();
    let found = match parts.as_slice() {
        ["projects", project, "tokens", id] if skerry_identity::token::TokenId::parse(id).is_some() => {
            ProjectName::parse(project).ok().zip(TokenId::parse(id).ok())
        }
        _ => None,
    };
    let (project, id) = found.ok_or_else(|| {
        Fault::invalid_field("name", "not a token's name: projects/<project>/tokens/<id> is wanted")
    })?;
    Ok(TokenName { project, id })
}

/// The record of a new token, without its hash. Pure.
fn record_of(request: &pb::CreateTokenRequest, now: SystemTime) -> Result<stored::TokenRecord, Fault> {
    let token = request.token.clone().unwrap_or_default();
    let mut wrong = Violations::new();
    let ttl = match &request.ttl {
        None => TTL_DEFAULT,
        Some(ttl) => time::from_proto_duration(ttl).unwrap_or_default(),
    };
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        wrong.add("ttl", "a token is good for 1 minute to 366 days");
    }
    let sent = token.metadata.unwrap_or_default();
    check_labels("token.metadata.labels", &sent.labels, &mut wrong);
    check_annotations("token.metadata.annotations", &sent.annotations, &mut wrong);
    check_labels("token.node_labels", &token.node_labels, &mut wrong);
    if !token.cluster.is_empty() {
        wrong.check("token.cluster", ClusterName::parse(&token.cluster));
    }
    if token.node_labels.contains_key(CLUSTER_LABEL) {
        wrong.add(
            format!("token.node_labels.{CLUSTER_LABEL}"),
            "name the cluster as the token's own: --cluster",
        );
    }
    if token.system_apps.len() > SYSTEM_APPS_MAX {
        wrong.add("token.system_apps", format!("at most {SYSTEM_APPS_MAX} apps"));
    }
    for (index, app) in token.system_apps.iter().enumerate().take(SYSTEM_APPS_MAX) {
        wrong.check(format!("token.system_apps[{index}]"), AppName::parse(app));
    }
    if !token.node_name_template.is_empty() {
        let field = "token.node_name_template";
        let template = wrong.check(field, Template::parse(&token.node_name_template));
        if template.is_some_and(|template| !template.varies()) && token.uses_max != 1 {
            wrong.add(field, "all nodes would have one name: put {serial}, {machine_id}, {host} or {n} into it, or allow one use");
        }
    }
    let uses = usize::try_from(token.uses_max).unwrap_or(usize::MAX);
    if token.once_per_machine && uses > MACHINES_MAX {
        let why =
            format!("a token that takes each machine once remembers {MACHINES_MAX} at most: make several");
        wrong.add("token.uses_max", why);
    }
    let record = stored::TokenRecord {
        meta: Some(stored::Meta {
            uid: uuid::Uuid::new_v4().to_string(),
            create_time: Some(time::to_timestamp(now)),
            generation: 1,
            labels: sent.labels,
            annotations: sent.annotations,
        }),
        hash: bytes::Bytes::new(),
        uses_max: token.uses_max,
        uses: 0,
        expire_time: Some(time::to_timestamp(now + ttl)),
        node_labels: token.node_labels,
        node_name_template: token.node_name_template,
        once_per_machine: token.once_per_machine,
        machines: Vec::new(),
        cluster: token.cluster,
        system_apps: token.system_apps,
    };
    let count = labels_of(&record).len();
    if count > LABELS_MAX {
        let why = format!(
            "with the cluster and the system apps a node would have {count} labels: at most {LABELS_MAX}"
        );
        wrong.add("token.node_labels", why);
    }
    wrong.finish(Some(record))
}

/// A token as it is shown: without what its secret could be known by.
fn show(name: &TokenName, record: stored::TokenRecord, etag: Etag) -> pb::Token {
    let name = full_name(name);
    pb::Token {
        metadata: Some(metadata_of(&name, record.meta.as_ref(), etag)),
        uses_max: record.uses_max,
        uses: record.uses,
        expire_time: record.expire_time,
        node_labels: record.node_labels,
        node_name_template: record.node_name_template,
        once_per_machine: record.once_per_machine,
        cluster: record.cluster,
        system_apps: record.system_apps,
    }
}

/// Deletes tokens that expired a day ago, until the end.
pub(crate) async fn sweep(shared: Arc<Shared>, store: Store, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SWEEP_PERIOD) => {}
        }
        let (snapshot, now) = (shared.mirror.snapshot(), SystemTime::now());
        let all = Prefix::<stored::TokenRecord>::all();
        let over: Vec<_> =
            snapshot.iter(&all).filter_map(Result::ok).filter(|read| can_go(&read.value, now)).collect();
        let txns = over.iter().map(|read| remove_expired(&read.key.name()).when_same(read)).collect();
        for error in store.commit_all(txns, None).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a token that has expired stays for now");
        }
    }
}

/// Whether a token expired so long ago that it is no longer shown.
fn can_go(record: &stored::TokenRecord, now: SystemTime) -> bool {
    let expired = record.expire_time.as_ref().and_then(time::from_timestamp);
    expired.is_none_or(|expired| now >= expired + KEPT)
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.TokenService/CreateToken", &request);
        reply(self.create(request.get_ref(), &caused).await)
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    async fn delete_token(
        &self,
        request: Request<pb::DeleteTokenRequest>,
    ) -> Result<Response<pb::DeleteTokenResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.TokenService/DeleteToken", &request);
        reply(self.delete(request.get_ref(), &caused).await)
    }
}
