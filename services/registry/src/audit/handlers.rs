//! The handlers of `AuditService`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt as _;
use skerry_api::{ResponseStream, page_size, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, ProjectName};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::audit_service_server::AuditService;
use skerry_proto::store::v1 as stored;
use skerry_rpc::status_of;
use skerry_store::keys::ChainId;
use skerry_store::{Key, Mirror, MirrorConfig, MirrorWake, Prefix, Store, Versioned};
use tonic::{Request, Response, Status};

use super::filter::{Place, Wanted, moment_of};
use super::reader::{CHAINS_MAX, CHUNK, chain_of, last_before, page, range};

/// Records of one part of a chain.
const PART: u64 = 1000;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Audit {
    store: Store,
    /// Follows the heads of all chains: what wakes those who watch.
    heads: Arc<Mirror>,
    shutdown: Shutdown,
}

impl Audit {
    pub(crate) fn new(store: &Store, shutdown: Shutdown) -> Self {
        let heads = Mirror::start(store, MirrorConfig::new().family::<stored::AuditHead>());
        Self { store: store.clone(), heads: Arc::new(heads), shutdown }
    }

    async fn list(
        &self,
        request: &pb::ListAuditRecordsRequest,
    ) -> Result<pb::ListAuditRecordsResponse, Fault> {
        let wanted = Wanted::parse(&request.parent, request.filter.clone())?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(Place::parse(token)?),
        };
        let size = page_size(request.page_size)?;
        let (records, next) = page(&self.store, &wanted, size, after.as_ref()).await?;
        let next_page_token = next.map(|next| next.to_token()).unwrap_or_default();
        Ok(pb::ListAuditRecordsResponse { records, next_page_token })
    }

    async fn watch(&self, request: &pb::WatchAuditRecordsRequest) -> Result<Watching, Fault> {
        let wanted = Wanted::parse(&request.parent, request.filter.clone())?;
        self.heads.ready().await.map_err(|error| Fault::unavailable(error.to_string()))?;
        let mut seen = BTreeMap::new();
        for head in self.store.audit_heads(CHAINS_MAX).await? {
            let at = match wanted.since {
                Some(since) => last_before(&self.store, &head, |entry| moment_of(entry) >= since).await?,
                None => head.value.sequence,
            };
            seen.insert(head.key.name(), at);
        }
        let wake = self.heads.subscribe();
        Ok(Watching { audit: self.clone(), wanted, seen, read: VecDeque::new(), wake })
    }

    async fn read(&self, request: &pb::ReadAuditChainRequest) -> Result<pb::ReadAuditChainResponse, Fault> {
        of_installation(&request.parent)?;
        let chain = ChainId::parse(&request.chain).map_err(|e| Fault::invalid_field("chain", e))?;
        let key = Key::<stored::AuditHead>::of(&chain);
        let gone = || Fault::not_found(format!("the audit chain {chain}"));
        let mut head = self.store.get(&key).await?.ok_or_else(gone)?;
        let first = request.after_sequence.max(head.value.removed_sequence).saturating_add(1);
        // One more than the head says: a head that was set back is something to tell.
        let last = head.value.sequence.saturating_add(1).min(first.saturating_add(PART - 1));
        let read = range(&self.store, &chain, first, last).await?;
        let records: Vec<_> = read.into_iter().map(|read| read.record).collect();
        if records.last().is_some_and(|last| last.sequence > head.value.sequence) {
            // Or it was written since the head was read.
            head = self.store.get(&key).await?.ok_or_else(gone)?;
        }
        Ok(pb::ReadAuditChainResponse { chain: Some(chain_of(&head)), records })
    }
}

/// All chains are shown to who is admin of the installation: the layer has held the caller against the project that is named.
fn of_installation(parent: &str) -> Result<(), Fault> {
    let project = ProjectName::parse_parent(parent).map_err(|e| Fault::invalid_field("parent", e))?;
    if project.is_system() {
        return Ok(());
    }
    Err(Fault::invalid_field("parent", "chains have records of all projects: name `projects/system`"))
}

/// A watch: what each chain was shown up to.
struct Watching {
    audit: Audit,
    wanted: Wanted,
    seen: BTreeMap<ChainId, u64>,
    read: VecDeque<pb::AuditRecord>,
    wake: MirrorWake,
}

impl Watching {
    async fn next(&mut self) -> Result<pb::AuditRecord, Fault> {
        loop {
            if let Some(record) = self.read.pop_front() {
                return Ok(record);
            }
            if !self.look().await? && !self.wake.changed().await {
                return Err(Fault::unavailable("the store is no longer followed: connect again"));
            }
        }
    }

    /// Reads a part of what is new; false: nothing is.
    async fn look(&mut self) -> Result<bool, Fault> {
        let snapshot = self.audit.heads.snapshot();
        let all = Prefix::<stored::AuditHead>::all();
        let is_new = |head: &Versioned<stored::AuditHead>| {
            head.value.sequence > self.seen.get(&head.key.name()).copied().unwrap_or_default()
        };
        let Some(head) = snapshot.iter(&all).filter_map(Result::ok).find(is_new) else { return Ok(false) };
        let chain = head.key.name();
        let seen = self.seen.entry(chain.clone()).or_default();
        let first = (*seen).max(head.value.removed_sequence) + 1;
        let last = head.value.sequence.min(first + CHUNK - 1);
        let read = range(&self.audit.store, &chain, first, last).await?;
        *seen = last;
        let wanted = |read: &super::reader::Read| self.wanted.matches(&read.entry);
        self.read.extend(read.into_iter().filter(wanted).map(|read| read.record));
        Ok(true)
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_records(
        &self,
        request: Request<pb::ListAuditRecordsRequest>,
    ) -> Result<Response<pb::ListAuditRecordsResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    type WatchAuditRecordsStream = ResponseStream<pb::WatchAuditRecordsResponse>;

    async fn watch_audit_records(
        &self,
        request: Request<pb::WatchAuditRecordsRequest>,
    ) -> Result<Response<Self::WatchAuditRecordsStream>, Status> {
        let watching = self.watch(request.get_ref()).await.map_err(|fault| status_of(&fault))?;
        let records = futures_util::stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(record) => {
                    Some((Ok(pb::WatchAuditRecordsResponse { record: Some(record) }), Some(watching)))
                }
                Err(fault) => Some((Err(status_of(&fault)), None)),
            }
        });
        let stream: Self::WatchAuditRecordsStream = Box::pin(records.take_until(self.shutdown.wait()));
        Ok(Response::new(stream))
    }

    async fn list_audit_chains(
        &self,
        request: Request<pb::ListAuditChainsRequest>,
    ) -> Result<Response<pb::ListAuditChainsResponse>, Status> {
        let chains = async {
            of_installation(&request.get_ref().parent)?;
            Ok(self.store.audit_heads(CHAINS_MAX).await?.iter().map(chain_of).collect())
        };
        reply(chains.await.map(|chains| pb::ListAuditChainsResponse { chains }))
    }

    async fn read_audit_chain(
        &self,
        request: Request<pb::ReadAuditChainRequest>,
    ) -> Result<Response<pb::ReadAuditChainResponse>, Status> {
        reply(self.read(request.get_ref()).await)
    }
}
