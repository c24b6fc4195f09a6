//! The whole problem and its answer, and the incremental step from one to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::app::UpdateBounds;
use skerry_model::{
    AppName, AppSpec, ClusterName, ConfigName, ContentHash, InstanceName, NodeName, SealId, SecretName,
    SecretVersion, Taint,
};

use crate::books::Placed;
use crate::cluster::{ClusterPlan, Member, Unplaced, plan};
use crate::reach::Reach;

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
    /// What a cluster shall have. The one place that knows.
    pub fn wanted(&self, cluster: &ClusterName) -> &Wanted {
        let revision = self.elsewhere.get(cluster);
        revision.and_then(|revision| self.others.get(revision)).unwrap_or(&self.base)
    }
}

impl Wanted {
    /// Whether it is the same to placement as another one: the spec is what the revision says.
    fn is_same(&self, other: &Self) -> bool {
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

    fn plan(&self, cluster: &ClusterName, members: &BTreeSet<NodeName>) -> ClusterPlan {
        let member = |name| {
            let (name, node) = self.nodes.get_key_value(name)?;
            let previous = self.previous.get(name).map_or(&[][..], Vec::as_slice);
            Some(Member { name, node, previous })
        };
        let labels = members.first().and_then(|first| self.labels_of(cluster, first));
        let members: Vec<Member<'_>> = members.iter().filter_map(member).collect();
        labels.map(|labels| plan(cluster, labels, &members, &self.apps)).unwrap_or_default()
    }
}

/// The plan of each cluster that has members.
pub type Solution = BTreeMap<ClusterName, ClusterPlan>;

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

/// What came of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Nodes whose plan is another one.
    pub nodes: BTreeSet<NodeName>,
    /// Apps that have something else there, or other reasons why not.
    pub apps: BTreeSet<AppName>,
}

/// The plan of every cluster.
pub fn solve(state: &State) -> Solution {
    let clusters = by_cluster(state, state.nodes.keys());
    clusters
        .into_iter()
        .map(|(name, members)| {
            let plan = state.plan(&name, &members);
            (name, plan)
        })
        .collect()
}

/// Takes one change into `state` and `solution`; answers what changed.
pub fn apply(state: &mut State, solution: &mut Solution, delta: Delta) -> Changed {
    match delta {
        Delta::Node(name, node) => {
            let before = state.cluster_of(&name);
            match node {
                Some(node) => state.nodes.insert(name.clone(), node),
                None => state.nodes.remove(&name),
            };
            let touched = [before, state.cluster_of(&name)].into();
            refresh(state, solution, &touched, [name])
        }
        Delta::Cluster(name, cluster) => {
            let (was, is) = (state.clusters.contains_key(&name), cluster.is_some());
            // Who is meant by the name, as a member or as a cluster of one.
            let named = |(at, node): &(&NodeName, &Node)| {
                was != is && (node.joins.as_ref() == Some(&name) || at.as_str() == name.as_str())
            };
            let nodes: Vec<NodeName> = state.nodes.iter().filter(named).map(|(at, _)| at.clone()).collect();
            let mut touched: BTreeSet<ClusterName> = nodes.iter().map(|at| state.cluster_of(at)).collect();
            match cluster {
                Some(cluster) => state.clusters.insert(name.clone(), cluster),
                None => state.clusters.remove(&name),
            };
            touched.extend(nodes.iter().map(|at| state.cluster_of(at)));
            touched.insert(name);
            refresh(state, solution, &touched, nodes)
        }
        Delta::Previous(name, placed) => {
            if placed.is_empty() {
                state.previous.remove(&name);
            } else {
                state.previous.insert(name.clone(), placed);
            }
            refresh(state, solution, &[state.cluster_of(&name)].into(), [])
        }
        Delta::App(name, app) => {
            let before = match &app {
                Some(app) => state.apps.insert(name.clone(), app.clone()),
                None => state.apps.remove(&name),
            };
            let is_touched = |(cluster, plan): &(&ClusterName, &ClusterPlan)| {
                let goes = |wanted: &&Wanted| state.goes_to(cluster, plan, &name, &wanted.spec);
                let before = before.as_ref().map(|app| app.wanted(cluster)).filter(goes);
                let after = app.as_ref().map(|app| app.wanted(cluster)).filter(goes);
                // A step of a rollout changes few of many: who is to have the same as before is not planned anew.
                match (before, after) {
                    (Some(before), Some(after)) => !before.is_same(after),
                    (None, None) => false,
                    (Some(_), None) | (None, Some(_)) => true,
                }
            };
            let touched: BTreeSet<ClusterName> =
                solution.iter().filter(is_touched).map(|(cluster, _)| cluster.clone()).collect();
            refresh(state, solution, &touched, [])
        }
    }
}

fn by_cluster<'a>(
    state: &State,
    nodes: impl IntoIterator<Item = &'a NodeName>,
) -> BTreeMap<ClusterName, BTreeSet<NodeName>> {
    let mut clusters: BTreeMap<ClusterName, BTreeSet<NodeName>> = BTreeMap::new();
    for name in nodes.into_iter().filter(|name| state.nodes.contains_key(*name)) {
        clusters.entry(state.cluster_of(name)).or_default().insert(name.clone());
    }
    clusters
}

/// Plans clusters anew, between which `nodes` may have moved.
fn refresh(
    state: &State,
    solution: &mut Solution,
    touched: &BTreeSet<ClusterName>,
    nodes: impl IntoIterator<Item = NodeName>,
) -> Changed {
    let before: Solution = touched.iter().filter_map(|cluster| solution.remove_entry(cluster)).collect();
    let mut nodes: BTreeSet<NodeName> = nodes.into_iter().collect();
    nodes.extend(before.values().flat_map(|plan| plan.nodes.keys().cloned()));
    let mut after = Solution::new();
    for (cluster, members) in by_cluster(state, &nodes) {
        let plan = state.plan(&cluster, &members);
        after.insert(cluster, plan);
    }
    let changed = difference(&before, &after);
    solution.extend(after);
    changed
}

fn difference(before: &Solution, after: &Solution) -> Changed {
    fn placed(solution: &Solution) -> BTreeMap<&NodeName, &Vec<Placed>> {
        solution.values().flat_map(|plan| &plan.nodes).collect()
    }
    fn unplaced(solution: &Solution) -> BTreeMap<&InstanceName, &Unplaced> {
        solution.values().flat_map(|plan| &plan.unplaced).map(|one| (&one.instance, one)).collect()
    }
    let mut changed = Changed::default();
    let (old, new) = (placed(before), placed(after));
    for node in old.keys().chain(new.keys()).filter(|node| old.get(*node) != new.get(*node)) {
        changed.nodes.insert((*node).clone());
        let instances = old.get(node).into_iter().chain(new.get(node)).flat_map(|placed| placed.iter());
        changed.apps.extend(instances.map(|placed| placed.instance.app.clone()));
    }
    let (old, new) = (unplaced(before), unplaced(after));
    let others = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name));
    changed.apps.extend(others.map(|name| name.app.clone()));
    changed
}
