//! Which GPUs there are, how they are, and what is booked on them: from the store, so that each replica answers for all.

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use skerry_api::{Hub, Resource, ResponseStream, Told, Watcher, page_args, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, NodeRef};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{
    Changes, Cursor, Entry, Family, Key, Mirror, MirrorConfig, Prefix, Record, Snapshot, Store, WaitError,
};
use tonic::{Request, Response, Status};

use crate::group::{gpu_name, parse_gpu};
use crate::select::{Labels, Selection};
use node::gpus_of;

/// A GPU, with what it is chosen by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) gpu: pb::Gpu,
    /// `projects/<project>/nodes/<node>`.
    pub(crate) node: String,
    /// The node's.
    pub(crate) labels: Labels,
}

impl Resource for Held {
    type Selector = Selection;

    fn metadata(&self) -> Option<&Metadata> {
        None
    }

    fn size_bytes(&self) -> usize {
        prost::Message::encoded_len(&self.gpu)
    }

    fn matches(&self, selection: &Selection) -> bool {
        selection.means(self)
    }
}

/// All GPUs of the fleet.
pub(crate) struct Inventory {
    store: Store,
    mirror: Mirror,
    hub: Arc<Hub<Held>>,
    shutdown: Shutdown,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    /// The names of a node's GPUs.
    of_node: BTreeMap<NodeRef, BTreeSet<String>>,
    /// The nodes whose last session names a gateway: they look different when it comes or goes.
    of_gateway: BTreeMap<String, BTreeSet<NodeRef>>,
}

impl Inventory {
    /// Follows the store until the end. Answers once it has read it.
    pub(crate) async fn start(store: &Store, shutdown: &Shutdown) -> Result<Arc<Self>, WaitError> {
        let mirrored = MirrorConfig::new()
            .family::<stored::NodeRecord>()
            .family::<stored::SessionRecord>()
            .family::<stored::StatusRecord>()
            .family::<stored::AssignmentRecord>()
            .family::<stored::GatewayRecord>()
            .family::<stored::ProjectRecord>();
        let mirror = Mirror::start(store, mirrored);
        mirror.ready().await?;
        let inventory = Arc::new(Self {
            store: store.clone(),
            mirror,
            hub: Arc::default(),
            shutdown: shutdown.clone(),
            index: Mutex::default(),
        });
        inventory.take(None);
        let (follower, ending) = (Arc::clone(&inventory), shutdown.clone());
        shutdown.spawn(async move {
            skerry_api::follow(&follower.mirror, ending.wait(), |cursor| follower.take(cursor)).await;
        });
        Ok(inventory)
    }

    /// The names of all that are meant, in order. NOT_FOUND: there is no such project.
    pub(crate) async fn select(&self, selection: &Selection) -> Result<Vec<String>, Fault> {
        self.known(selection).await?;
        let all = self.hub.snapshot();
        let below = all.range(selection.prefix.clone()..);
        let below = below.take_while(|(name, _)| name.starts_with(&selection.prefix));
        Ok(below.filter(|(_, held)| selection.means(held)).map(|(name, _)| name.clone()).collect())
    }

    /// The parts of a GPU, as far as it is there.
    pub(crate) fn parts(&self, gpu: &str) -> Vec<String> {
        let held = self.hub.get(gpu);
        let device = held.as_ref().and_then(|held| held.gpu.device.as_ref());
        device.into_iter().flat_map(|device| &device.mig_devices).map(|part| part.uuid.clone()).collect()
    }

    /// Labels of GPUs by name, for metrics: what is booked on them.
    pub(crate) fn all(&self) -> skerry_api::Listed<Held> {
        self.hub.snapshot()
    }

    async fn known(&self, selection: &Selection) -> Result<(), Fault> {
        skerry_api::known_project(&self.store, &self.mirror, &selection.project).await
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.mirror.changes(cursor);
        let snapshot = &delta.snapshot;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match delta.changes {
            Changes::Since(changes) if changes.is_empty() => {}
            Changes::Since(changes) => {
                let mut touched = BTreeSet::new();
                for change in &changes {
                    index.touch(change.key(), change.old.as_deref(), change.new.as_deref(), &mut touched);
                }
                let mut updates = Vec::new();
                for node in touched {
                    let now: BTreeMap<String, Held> = held(snapshot, &node).collect();
                    let names = now.keys().cloned().collect::<BTreeSet<_>>();
                    let before = index.of_node.insert(node.clone(), names.clone()).unwrap_or_default();
                    if names.is_empty() {
                        index.of_node.remove(&node);
                    }
                    updates.extend(before.difference(&names).map(|gone| (gone.clone(), None)));
                    updates.extend(now.into_iter().map(|(name, held)| (name, Some(held))));
                }
                self.hub.publish(updates, snapshot);
            }
            Changes::Resync => {
                *index = Index::default();
                for entry in snapshot.entries(&Prefix::<stored::SessionRecord>::all()) {
                    index.touch(&entry.key, None, Some(entry), &mut BTreeSet::new());
                }
                let mut all = BTreeMap::new();
                for entry in snapshot.entries(&Prefix::<stored::StatusRecord>::all()) {
                    let Some(node) = name_of::<stored::StatusRecord>(&entry.key) else { continue };
                    let now: Vec<_> =
                        held(snapshot, &node).map(|(name, held)| (name, Arc::new(held))).collect();
                    index.of_node.insert(node, now.iter().map(|(name, _)| name.clone()).collect());
                    all.extend(now);
                }
                self.hub.reset(all, snapshot);
            }
        }
        delta.cursor
    }
}

impl Index {
    /// Notes the nodes whose GPUs may look different after a change of a key.
    fn touch(
        &mut self,
        key: &str,
        old: Option<&Entry>,
        new: Option<&Entry>,
        touched: &mut BTreeSet<NodeRef>,
    ) {
        match Family::of_key(key) {
            Some(Family::Nodes) => touched.extend(name_of::<stored::NodeRecord>(key)),
            Some(Family::Status) => touched.extend(name_of::<stored::StatusRecord>(key)),
            Some(Family::Assignments) => touched.extend(name_of::<stored::AssignmentRecord>(key)),
            Some(Family::Sessions) => {
                let Some(name) = name_of::<stored::SessionRecord>(key) else { return };
                let gateway = |entry: Option<&Entry>| {
                    Some(entry?.decode::<stored::SessionRecord>().ok()?.value.gateway)
                };
                if let Some(nodes) = gateway(old).and_then(|gateway| self.of_gateway.get_mut(&gateway)) {
                    nodes.remove(&name);
                }
                if let Some(gateway) = gateway(new) {
                    self.of_gateway.entry(gateway).or_default().insert(name.clone());
                }
                self.of_gateway.retain(|_, nodes| !nodes.is_empty());
                touched.insert(name);
            }
            Some(Family::Gateways) => {
                let Ok(key) = Key::<stored::GatewayRecord>::parse(key) else { return };
                touched.extend(self.of_gateway.get(&key.name().to_string()).into_iter().flatten().cloned());
            }
            _ => {}
        }
    }
}

fn held(snapshot: &Snapshot, node: &NodeRef) -> impl Iterator<Item = (String, Held)> {
    gpus_of(snapshot, node).into_iter().map(|held| (held.gpu.name.clone(), held))
}

fn name_of<R: Record>(key: &str) -> Option<R::Name> {
    Some(Key::<R>::parse(key).ok()?.name())
}

pub(crate) fn get(
    inventory: &Inventory,
    request: &Request<pb::GetGpuRequest>,
) -> Result<Response<pb::GetGpuResponse>, Status> {
    let name = &request.get_ref().name;
    let found = parse_gpu("name", name).and_then(|(node, uuid)| {
        let found = inventory.hub.get(&gpu_name(&node.to_string(), uuid));
        found.ok_or_else(|| Fault::not_found(name))
    });
    reply(found.map(|held| pb::GetGpuResponse { gpu: Some(held.gpu.clone()) }))
}

pub(crate) async fn list(
    inventory: &Inventory,
    request: Request<pb::ListGpusRequest>,
) -> Result<Response<pb::ListGpusResponse>, Status> {
    let pb::ListGpusRequest { parent, page_size, page_token, selector } = request.get_ref();
    let page = async {
        let selection = Selection::parse(parent, selector.as_ref())?;
        inventory.known(&selection).await?;
        let page = page_args(*page_size, page_token)?;
        inventory.hub.list(&selection.prefix, &selection, &page, skerry_api::PAGE_BYTES_MAX)
    };
    reply(page.await.map(|page| pb::ListGpusResponse {
        gpus: page.items.into_iter().map(|held| held.gpu).collect(),
        next_page_token: page.next_page_token,
        resource_version: page.resource_version,
    }))
}

pub(crate) async fn watch(
    inventory: &Inventory,
    request: Request<pb::WatchGpusRequest>,
) -> Result<Response<ResponseStream<pb::WatchGpusResponse>>, Status> {
    let pb::WatchGpusRequest { parent, resource_version, selector } = request.get_ref();
    let stream = async {
        let selection = Selection::parse(parent, selector.as_ref())?;
        inventory.known(&selection).await?;
        let (hub, prefix) = (Arc::clone(&inventory.hub), selection.prefix.clone());
        let watcher = Watcher::start(hub, prefix, selection, resource_version).await?;
        Ok(skerry_api::stream_of(watcher, told, inventory.shutdown.wait()))
    };
    reply(stream.await)
}

fn told(told: &Told<Held>) -> pb::WatchGpusResponse {
    let (held, resource_version) = told.parts();
    let change = match told {
        Told::Added(..) => pb::ChangeType::Added,
        Told::Modified(..) => pb::ChangeType::Modified,
        Told::Deleted(..) => pb::ChangeType::Deleted,
        Told::Bookmark(_) => pb::ChangeType::Bookmark,
    };
    pb::WatchGpusResponse { r#type: change.into(), gpu: held.map(|held| held.gpu.clone()), resource_version }
}

pub(crate) async fn allocations(
    inventory: &Inventory,
    request: Request<pb::ListAllocationsRequest>,
) -> Result<Response<pb::ListAllocationsResponse>, Status> {
    let pb::ListAllocationsRequest { parent, page_size, page_token, selector } = request.get_ref();
    let page = async {
        let selection = Selection::parse(parent, selector.as_ref())?;
        inventory.known(&selection).await?;
        let page = page_args(*page_size, page_token)?;
        // Pages are of GPUs: of each all bookings, of which there are few.
        inventory.hub.list(&selection.prefix, &selection, &page, skerry_api::PAGE_BYTES_MAX)
    };
    reply(page.await.map(|page| {
        let allocations = page.items.into_iter().filter_map(|held| held.gpu.status);
        pb::ListAllocationsResponse {
            allocations: allocations.flat_map(|status| status.allocations).collect(),
            next_page_token: page.next_page_token,
        }
    }))
}
