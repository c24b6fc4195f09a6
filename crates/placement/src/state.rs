//! The whole problem: everything that decides, and how it can change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::app::UpdateBounds;
use skerry_model::{
    AppName, AppSpec, ClusterName, ConfigName, ContentHash, GpuBooking, GpuId, InstanceName, NodeName,
    SealId, SecretName, SecretVersion, Taint,
};

use crate::books::Placed;
use crate::cluster::ClusterPlan;
use crate::gpu::Gpu;
use crate::reach::Reach;
use crate::solution::Solution;

/// A node, as far as placement cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The cluster that it is in. Absent, or where there is none of that name: one of its own, which has its name.
    pub joins: Option<ClusterName>,
    /// It keeps what it runs and gets nothing new.
    pub cordoned: bool,
    /// Instances that it gives up: they go to another member, or wait for one that takes them.
    pub leaving: BTreeSet<InstanceName>,
    /// What keeps services off it.
    pub taints: Vec<Taint>,
    /// The machine's architecture, as Docker names it; absent: not known yet.
    pub architecture: Option<String>,
    /// It cannot be reached, for so long that what it ran is wanted elsewhere.
    pub lost: bool,
    /// Thousandths of a processor; absent: not known yet, no bound.
    pub cpu_millis: Option<u64>,
    /// Bytes; absent: not known yet, no bound.
    pub memory_bytes: Option<u64>,
    /// Names the key to which its secrets are sealed; absent: it has none, and so gets none.
    pub seal: Option<SealId>,
    /// Its GPUs. Empty: it has none, or has not told of them yet.
    pub gpus: BTreeMap<GpuId, Gpu>,
    /// What copies that run there have of them, as it told last. A copy of a former revision, or one that is being stopped, may have what nobody is assigned any more.
    pub held_gpus: BTreeMap<InstanceName, Vec<GpuBooking>>,
}

/// A cluster that nodes can be in, as far as placement cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A secret as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its values.
    pub version: SecretVersion,
    /// Why they cannot be sealed to anybody. Who has them keeps them.
    pub unreadable: Option<String>,
}

/// An app: what each cluster shall have of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// For every cluster that `elsewhere` does not name.
    pub base: Wanted,
    /// Other revisions that some clusters have while a rollout is under way.
    pub others: BTreeMap<ContentHash, Wanted>,
    /// Which revision those clusters have.
    pub elsewhere: Arc<BTreeMap<ClusterName, ContentHash>>,
}

/// An app in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Hash of the spec.
    pub revision: ContentHash,
    /// The spec.
    pub spec: Arc<AppSpec>,
    /// Current content of each config that it mounts; one that does not exist is absent.
    pub configs: BTreeMap<ConfigName, ContentHash>,
    /// Each secret that it uses; one that does not exist is absent.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// By what nodes take an update back while nobody is there to decide. Absent: nothing is said.
    pub bounds: Option<UpdateBounds>,
}

impl From<Wanted> for App {
    /// The same for all clusters.
    fn from(base: Wanted) -> Self {
        Self { base, others: BTreeMap::new(), elsewhere: Arc::default() }
    }
}

impl App {
    /// Each revision that some cluster may have.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Wanted> {
        std::iter::once(&self.base).chain(self.others.values())
    }

    /// What a cluster shall have. The one place that knows.
    pub fn wanted(&self, cluster: &ClusterName) -> &Wanted {
        let revision = self.elsewhere.get(cluster);
        revision.and_then(|revision| self.others.get(revision)).unwrap_or(&self.base)
    }
}

impl Wanted {
    /// Whether it is the same to placement as another one: the spec is what the revision says.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.revision == other.revision
            && self.configs == other.configs
            && self.secrets == other.secrets
            && self.bounds == other.bounds
    }
}

/// Everything that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Nodes of one project.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Clusters of the same project that nodes can be in.
    pub clusters: BTreeMap<ClusterName, Cluster>,
    /// Apps of the same project.
    pub apps: BTreeMap<AppName, App>,
    /// What each node is assigned now, by instance name.
    pub previous: BTreeMap<NodeName, Vec<Placed>>,
}

impl State {
    /// The cluster of a node. The one place that knows.
    pub fn cluster_of(&self, name: &NodeName) -> ClusterName {
        let joined = self.nodes.get(name).and_then(|node| node.joins.as_ref());
        match joined.filter(|joined| self.clusters.contains_key(*joined)) {
            Some(joined) => joined.clone(),
            None => ClusterName::from(name.clone()),
        }
    }

    /// The labels of a cluster that has this member: of a cluster of one those of its node.
    pub fn labels_of(&self, cluster: &ClusterName, member: &NodeName) -> Option<&BTreeMap<String, String>> {
        let own = || self.nodes.get(member).map(|node| &node.labels);
        self.clusters.get(cluster).map(|cluster| &cluster.labels).or_else(own)
    }

    /// Whether an app of this spec goes to a cluster, which has this plan.
    pub fn goes_to(&self, cluster: &ClusterName, plan: &ClusterPlan, app: &AppName, spec: &AppSpec) -> bool {
        let first = plan.nodes.keys().next();
        let Some(labels) = first.and_then(|first| self.labels_of(cluster, first)) else { return false };
        let members = plan.nodes.keys().filter_map(|member| self.nodes.get(member));
        Reach::of(app, spec, labels, members.map(|node| &node.labels)).is_some()
    }

    /// The plan of a node.
    pub fn plan_of<'a>(&self, solution: &'a Solution, node: &NodeName) -> Option<&'a [Placed]> {
        solution.get(&self.cluster_of(node))?.nodes.get(node).map(Vec::as_slice)
    }
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// A node is new, changed or gone.
    Node(NodeName, Option<Node>),
    /// A cluster is new, changed or gone.
    Cluster(ClusterName, Option<Cluster>),
    /// An app is new, changed or gone.
    App(AppName, Option<App>),
    /// What a node is assigned changed.
    Previous(NodeName, Vec<Placed>),
}
