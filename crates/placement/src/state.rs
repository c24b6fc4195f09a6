//! The whole problem and its answer, and the incremental step from one to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::{
    AppName, AppSpec, ClusterName, ConfigName, ContentHash, NodeName, SealId, SecretName, SecretVersion,
};

use crate::node::{NodePlan, Placed, plan};

/// A node, as far as placement cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It keeps what it runs and gets nothing new.
    pub cordoned: bool,
    /// Thousandths of a processor; absent: not known yet, no bound.
    pub cpu_millis: Option<u64>,
    /// Bytes; absent: not known yet, no bound.
    pub memory_bytes: Option<u64>,
    /// Names the key to which its secrets are sealed; absent: it has none, and so gets none.
    pub seal: Option<SealId>,
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
    fn reaches(&self, node: &Node) -> bool {
        self.spec.selector.matches(&node.labels)
    }

    /// Whether it is the same to placement as another one: the spec is what the revision says.
    fn is_same(&self, other: &Self) -> bool {
        self.revision == other.revision && self.configs == other.configs && self.secrets == other.secrets
    }
}

/// Everything that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Nodes of one project.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Apps of the same project.
    pub apps: BTreeMap<AppName, App>,
    /// What each node is assigned now, by instance name.
    pub previous: BTreeMap<NodeName, Vec<Placed>>,
}

/// The plan of each node.
pub type Solution = BTreeMap<NodeName, NodePlan>;

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// A node is new, changed or gone.
    Node(NodeName, Option<Node>),
    /// An app is new, changed or gone.
    App(AppName, Option<App>),
    /// What a node is assigned changed.
    Previous(NodeName, Vec<Placed>),
}

/// The plan of every node.
pub fn solve(state: &State) -> Solution {
    state.nodes.keys().map(|name| (name.clone(), plan_of(state, name))).collect()
}

/// Takes one change into `state` and `solution`; answers the nodes whose plan changed.
pub fn apply(state: &mut State, solution: &mut Solution, delta: Delta) -> BTreeSet<NodeName> {
    let touched: Vec<NodeName> = match delta {
        Delta::Node(name, node) => {
            match node {
                Some(node) => state.nodes.insert(name.clone(), node),
                None => state.nodes.remove(&name),
            };
            vec![name]
        }
        Delta::Previous(name, placed) => {
            if placed.is_empty() {
                state.previous.remove(&name);
            } else {
                state.previous.insert(name.clone(), placed);
            }
            vec![name]
        }
        Delta::App(name, app) => {
            let before = match &app {
                Some(app) => state.apps.insert(name.clone(), app.clone()),
                None => state.apps.remove(&name),
            };
            let holds = |node: &NodeName| {
                state
                    .previous
                    .get(node)
                    .is_some_and(|placed| placed.iter().any(|placed| placed.instance.app == name))
            };
            // A step of a rollout changes few of many: who is to have the same as before is not planned anew.
            let is_touched = |at: &NodeName, node: &Node| {
                let cluster = ClusterName::from(at.clone());
                match (&before, &app) {
                    (Some(before), Some(app)) => {
                        let (before, after) = (before.wanted(&cluster), app.wanted(&cluster));
                        !before.is_same(after) && (before.reaches(node) || after.reaches(node) || holds(at))
                    }
                    (Some(one), None) | (None, Some(one)) => one.wanted(&cluster).reaches(node) || holds(at),
                    (None, None) => false,
                }
            };
            state.nodes.iter().filter(|(at, node)| is_touched(at, node)).map(|(at, _)| at.clone()).collect()
        }
    };
    touched.into_iter().filter(|name| refresh(state, solution, name)).collect()
}

/// Recomputes one node's plan; answers whether it changed.
fn refresh(state: &State, solution: &mut Solution, name: &NodeName) -> bool {
    if !state.nodes.contains_key(name) {
        return solution.remove(name).is_some();
    }
    let plan = plan_of(state, name);
    if solution.get(name) == Some(&plan) {
        return false;
    }
    solution.insert(name.clone(), plan);
    true
}

fn plan_of(state: &State, name: &NodeName) -> NodePlan {
    let previous = state.previous.get(name).map_or(&[][..], Vec::as_slice);
    plan(name, &state.nodes[name], &state.apps, previous)
}
