//! Nodes as placement sees them, clusters, and which of their members count as lost.

use std::time::{Duration, Instant};

use skerry_model::cluster::FAILOVER_AFTER;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{ClusterName, NodeRef, ProjectName, Taint};
use skerry_placement::{Cluster, Delta, Node};
use skerry_proto::store::v1 as stored;
use skerry_store::Entry;
use tracing::info;

use super::{Touched, World, gpus, read};
use crate::node::NodeView;
use crate::sight::Contact;

impl World {
    pub(super) fn take_cluster(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::ClusterRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        match &record {
            Some(record) => project.patience.insert(name.cluster.clone(), patience(&record.value)),
            None => project.patience.remove(&name.cluster),
        };
        let cluster = record.map(|record| Cluster { labels: record.value.meta.unwrap_or_default().labels });
        project.change(&name.project, Delta::Cluster(name.cluster.clone(), cluster), None, touched);
    }

    /// Whether a node counted as lost at the last look.
    pub(super) fn is_lost(&self, node: &NodeRef) -> bool {
        self.sights.get(&node.project).is_some_and(|sight| sight.is_lost(&node.node))
    }

    /// Looks which nodes are out of reach, and takes what follows to placement; answers whether anything does.
    pub(crate) fn look(&mut self, now: Instant, touched: &mut Touched) -> bool {
        let names: Vec<ProjectName> = self.projects.keys().cloned().collect();
        let mut any = false;
        for name in names {
            any |= self.look_at(&name, now, touched);
        }
        self.sights.retain(|name, _| self.projects.contains_key(name));
        any
    }

    fn look_at(&mut self, name: &ProjectName, now: Instant, touched: &mut Touched) -> bool {
        let Some(project) = self.projects.get(name) else { return false };
        let before = self.sights.remove(name);
        let has_clusters = !project.state.clusters.is_empty();
        if before.is_none() && !has_clusters {
            return false;
        }
        let mut sight = before.filter(|_| has_clusters).unwrap_or_default();
        if has_clusters {
            let nodes = project.state.nodes.keys().map(|node| {
                let contact = match project.nodes.get(node) {
                    Some(view) if self.is_connected(view) => Contact::Connected,
                    Some(NodeView { session: Some(_), .. }) => Contact::Broken,
                    Some(_) | None => Contact::Never,
                };
                // Who is in no cluster has nobody who could do its work.
                let patience = project.patience.get(&project.state.cluster_of(node));
                (node, contact, patience.copied().unwrap_or(Duration::MAX))
            });
            sight.look(now, nodes);
        }
        let changed: Vec<Delta> = project
            .state
            .nodes
            .iter()
            .filter(|(node, known)| known.lost != sight.is_lost(node))
            .map(|(node, known)| Delta::Node(node.clone(), Some(Node { lost: !known.lost, ..known.clone() })))
            .collect();
        if has_clusters {
            self.sights.insert(name.clone(), sight);
        }
        let any = !changed.is_empty();
        for delta in changed {
            if let Delta::Node(node, Some(known)) = &delta {
                let told =
                    if known.lost { "counts as lost: copies that may move do" } else { "is found again" };
                info!(project = %name, %node, "a node {told}");
            }
            self.project_mut(name).change(name, delta, None, touched);
        }
        any
    }
}

fn patience(record: &stored::ClusterRecord) -> Duration {
    let said = record.failover_after.as_ref().and_then(skerry_model::time::from_proto_duration);
    said.unwrap_or(FAILOVER_AFTER)
}

/// A node as placement sees it.
pub(super) fn node_of(record: stored::NodeRecord, status: Option<&stored::StatusRecord>) -> Node {
    let labels = record.meta.unwrap_or_default().labels;
    let joins = labels.get(CLUSTER_LABEL).and_then(|name| ClusterName::parse(name).ok());
    let taints = record.taints.iter().filter_map(Taint::from_stored).collect();
    with_status(
        Node { labels, joins, taints, cordoned: record.cordoned || record.drain, ..Node::default() },
        status,
    )
}

/// With what it tells of its machine, and of who has what there.
pub(super) fn with_status(node: Node, status: Option<&stored::StatusRecord>) -> Node {
    let machine = status.and_then(|status| status.machine.as_ref());
    let positive = |amount: i64| u64::try_from(amount).ok().filter(|amount| *amount > 0);
    Node {
        cpu_millis: machine.and_then(|m| positive(m.cpu_millis)),
        memory_bytes: machine.and_then(|m| positive(m.memory_bytes)),
        architecture: machine.map(|m| m.architecture.clone()).filter(|name| !name.is_empty()),
        gpus: machine.map(gpus::of_machine).unwrap_or_default(),
        held_gpus: status.map(|status| gpus::held(&status.instances)).unwrap_or_default(),
        ..node
    }
}
