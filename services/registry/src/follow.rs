//! Keeps the nodes that clients see in step with the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use skerry_api::Hub;
use skerry_daemon::Shutdown;
use skerry_model::{ClusterRef, NodeRef};
use skerry_proto::registry::v1::{Cluster, Node};
use skerry_proto::store::v1 as stored;
use skerry_resources::stored_cluster;
use skerry_store::{
    Changes, Cursor, Entry, Family, Key, Mirror, MirrorConfig, Prefix, Record, Snapshot, Store,
};

use tracing::warn;

use crate::keys::Keys;
use crate::view::node_of;

/// What the tasks and handlers of a registry share.
pub(crate) struct Shared {
    pub(crate) nodes: Arc<Hub<Node>>,
    /// Without what is observed of them.
    pub(crate) clusters: Arc<Hub<Cluster>>,
    pub(crate) mirror: Mirror,
    pub(crate) keys: Keys,
    /// The nodes whose last session names a gateway: they look different when it comes or goes.
    of_gateway: Mutex<BTreeMap<String, BTreeSet<NodeRef>>>,
}

impl Shared {
    pub(crate) fn new(store: &Store) -> Self {
        let mirrored = MirrorConfig::new()
            .family::<stored::NodeRecord>()
            .family::<stored::ClusterRecord>()
            .family::<stored::SessionRecord>()
            .family::<stored::StatusRecord>()
            .family::<stored::AssignmentRecord>()
            .family::<stored::GatewayRecord>()
            .family::<stored::TokenRecord>()
            .family::<stored::EnrollmentRecord>()
            .family::<stored::MemberRecord>()
            // What is listed is of projects that are there.
            .family::<stored::ProjectRecord>()
            .family::<stored::LeaderRecord>();
        let mirror = Mirror::start(store, mirrored);
        Self {
            nodes: Arc::default(),
            clusters: Arc::default(),
            mirror,
            keys: Keys::default(),
            of_gateway: Mutex::default(),
        }
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.mirror.changes(cursor);
        let snapshot = &delta.snapshot;
        let now = SystemTime::now();
        match delta.changes {
            Changes::Since(changes) if changes.is_empty() => {}
            Changes::Since(changes) => {
                let mut touched = BTreeSet::new();
                for change in &changes {
                    self.touch(change.key(), change.old.as_deref(), change.new.as_deref(), &mut touched);
                }
                let nodes: Vec<_> =
                    touched.iter().map(|name| (name.to_string(), self.node(snapshot, name, now))).collect();
                self.nodes.publish(nodes, snapshot);
                let clusters =
                    changes.iter().filter_map(|change| name_of::<stored::ClusterRecord>(change.key()));
                let clusters: Vec<_> =
                    clusters.map(|name| (name.to_string(), cluster(snapshot, &name))).collect();
                self.clusters.publish(clusters, snapshot);
            }
            Changes::Resync => {
                self.index_sessions(snapshot);
                self.index_keys(snapshot);
                let records = Prefix::<stored::NodeRecord>::all();
                let names =
                    snapshot.entries(&records).filter_map(|entry| name_of::<stored::NodeRecord>(&entry.key));
                let nodes = names
                    .filter_map(|name| Some((name.to_string(), Arc::new(self.node(snapshot, &name, now)?))))
                    .collect();
                self.nodes.reset(nodes, snapshot);
                let records = Prefix::<stored::ClusterRecord>::all();
                let names = snapshot
                    .entries(&records)
                    .filter_map(|entry| name_of::<stored::ClusterRecord>(&entry.key));
                let clusters = names
                    .filter_map(|name| Some((name.to_string(), Arc::new(cluster(snapshot, &name)?))))
                    .collect();
                self.clusters.reset(clusters, snapshot);
            }
        }
        delta.cursor
    }

    fn node(&self, snapshot: &Snapshot, name: &NodeRef, now: SystemTime) -> Option<Node> {
        node_of(snapshot, name, self.nodes.get(&name.to_string()).as_deref(), now)
    }

    /// Notes the nodes that one changed key may make look different.
    fn touch(&self, key: &str, old: Option<&Entry>, new: Option<&Entry>, touched: &mut BTreeSet<NodeRef>) {
        match Family::of_key(key) {
            Some(Family::Nodes) => {
                let Some(name) = name_of::<stored::NodeRecord>(key) else { return };
                self.keys.changed(&name, old, new);
                touched.insert(name);
            }
            Some(Family::Status) => touched.extend(name_of::<stored::StatusRecord>(key)),
            Some(Family::Assignments) => touched.extend(name_of::<stored::AssignmentRecord>(key)),
            Some(Family::Sessions) => {
                let Some(name) = name_of::<stored::SessionRecord>(key) else { return };
                self.reindex(&name, old, new);
                touched.insert(name);
            }
            Some(Family::Gateways) => {
                let Ok(key) = Key::<stored::GatewayRecord>::parse(key) else { return };
                let index = self.of_gateway.lock().unwrap_or_else(PoisonError::into_inner);
                touched.extend(index.get(&key.name().to_string()).into_iter().flatten().cloned());
            }
            _ => {}
        }
    }

    fn reindex(&self, name: &NodeRef, old: Option<&Entry>, new: Option<&Entry>) {
        let gateway =
            |entry: Option<&Entry>| Some(entry?.decode::<stored::SessionRecord>().ok()?.value.gateway);
        let mut index = self.of_gateway.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gateway) = gateway(old)
            && let Some(nodes) = index.get_mut(&gateway)
        {
            nodes.remove(name);
            if nodes.is_empty() {
                index.remove(&gateway);
            }
        }
        if let Some(gateway) = gateway(new) {
            index.entry(gateway).or_default().insert(name.clone());
        }
    }

    fn index_keys(&self, snapshot: &Snapshot) {
        self.keys.clear();
        for entry in snapshot.entries(&Prefix::<stored::NodeRecord>::all()) {
            if let Some(name) = name_of::<stored::NodeRecord>(&entry.key) {
                self.keys.changed(&name, None, Some(entry));
            }
        }
    }

    fn index_sessions(&self, snapshot: &Snapshot) {
        self.of_gateway.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for entry in snapshot.entries(&Prefix::<stored::SessionRecord>::all()) {
            if let Some(name) = name_of::<stored::SessionRecord>(&entry.key) {
                self.reindex(&name, None, Some(entry));
            }
        }
    }
}

fn cluster(snapshot: &Snapshot, name: &ClusterRef) -> Option<Cluster> {
    let record = snapshot.get(&Key::<stored::ClusterRecord>::of(name)).unwrap_or_else(|error| {
        warn!(%error, "a record that does not decode is passed over");
        None
    });
    Some(stored_cluster(name, &record?))
}

fn name_of<R: Record>(key: &str) -> Option<R::Name> {
    Some(Key::<R>::parse(key).ok()?.name())
}

/// Follows the store until the end.
pub(crate) async fn follow(shared: Arc<Shared>, shutdown: Shutdown) {
    skerry_api::follow(&shared.mirror, shutdown.wait(), |cursor| shared.take(cursor)).await;
}
