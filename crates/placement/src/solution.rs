//! The answer: the plan of every cluster, in full, or from one change to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use skerry_model::{AppName, ClusterName, InstanceName, NodeName};

use crate::books::Placed;
use crate::cluster::{ClusterPlan, Member, Unplaced, plan};
use crate::index::{Apps, Clusters, Named};
use crate::state::{App, Delta, Node, State, Wanted};

/// From so many clusters on it pays to find the apps of each by an index.
const INDEXED_FROM: usize = 8;

type Plans = BTreeMap<ClusterName, ClusterPlan>;

/// The plan of each cluster that has members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Solution {
    plans: Plans,
    clusters: Clusters,
}

impl Solution {
    /// Of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn index_all(&mut self, state: &State, clusters: &BTreeSet<ClusterName>) {
        for cluster in clusters {
            self.index(state, cluster);
        }
    }

    /// The labels of a cluster changed, or of its members, or it is no place any more.
    fn index(&mut self, state: &State, cluster: &ClusterName) {
        let members = self.plans.get(cluster).into_iter().flat_map(|plan| plan.nodes.keys());
        let first = members.clone().next().and_then(|first| state.labels_of(cluster, first));
        let members = members.filter_map(|member| state.nodes.get(member)).map(|node| &node.labels);
        match first {
            Some(labels) => self.clusters.set(cluster, labels, members),
            None => self.clusters.forget(cluster),
        }
    }
}

impl Deref for Solution {
    type Target = Plans;

    fn deref(&self) -> &Self::Target {
        &self.plans
    }
}

impl<'a> IntoIterator for &'a Solution {
    type Item = (&'a ClusterName, &'a ClusterPlan);
    type IntoIter = std::collections::btree_map::Iter<'a, ClusterName, ClusterPlan>;

    fn into_iter(self) -> Self::IntoIter {
        self.plans.iter()
    }
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
    let apps = Apps::new(&state.apps);
    let mut solution = Solution::default();
    for (name, members) in by_cluster(state, state.nodes.keys()) {
        solution.plans.insert(name.clone(), planned(state, &name, &members, Some(&apps)));
        solution.index(state, &name);
    }
    solution
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
            let changed = refresh(state, solution, &touched, [name]);
            solution.index_all(state, &touched);
            changed
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
            let changed = refresh(state, solution, &touched, nodes);
            solution.index_all(state, &touched);
            changed
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
            let touched = between(state, solution, &name, before.as_ref(), app.as_ref());
            refresh(state, solution, &touched, [])
        }
    }
}

/// The clusters that have something else to do once an app is another one.
fn between(
    state: &State,
    solution: &Solution,
    name: &AppName,
    before: Option<&App>,
    after: Option<&App>,
) -> BTreeSet<ClusterName> {
    let is_touched = |cluster: &ClusterName| {
        let Some(plan) = solution.get(cluster) else { return false };
        let goes = |wanted: &Wanted| state.goes_to(cluster, plan, name, &wanted.spec);
        match (before.map(|app| app.wanted(cluster)), after.map(|app| app.wanted(cluster))) {
            // A step of a rollout changes few of many: who is to have the same as before is not planned anew.
            (Some(before), Some(after)) if before.is_same(after) => false,
            (before, after) => [before, after].into_iter().flatten().any(goes),
        }
    };
    let all = before.into_iter().chain(after).flat_map(App::all);
    let reach: Option<Vec<_>> =
        all.map(|wanted| solution.clusters.within_reach(name, &wanted.spec)).collect();
    match reach {
        Some(sets) => {
            let found: BTreeSet<&ClusterName> = sets.into_iter().flatten().collect();
            found.into_iter().filter(|cluster| is_touched(cluster)).cloned().collect()
        }
        None => solution.keys().filter(|cluster| is_touched(cluster)).cloned().collect(),
    }
}

/// The plan of a cluster that has these members.
fn planned(
    state: &State,
    cluster: &ClusterName,
    members: &BTreeSet<NodeName>,
    apps: Option<&Apps<'_>>,
) -> ClusterPlan {
    let Some(labels) = members.first().and_then(|first| state.labels_of(cluster, first)) else {
        return ClusterPlan::default();
    };
    let member = |name| {
        let (name, node) = state.nodes.get_key_value(name)?;
        let previous = state.previous.get(name).map_or(&[][..], Vec::as_slice);
        Some(Member { name, node, previous })
    };
    let members: Vec<Member<'_>> = members.iter().filter_map(member).collect();
    let apps: Vec<Named<'_>> = match apps {
        Some(apps) => apps.within_reach(labels),
        None => state.apps.iter().collect(),
    };
    plan(cluster, labels, &members, &apps)
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
    let before: Plans = touched.iter().filter_map(|cluster| solution.plans.remove_entry(cluster)).collect();
    let mut nodes: BTreeSet<NodeName> = nodes.into_iter().collect();
    nodes.extend(before.values().flat_map(|plan| plan.nodes.keys().cloned()));
    let apps = (touched.len() >= INDEXED_FROM).then(|| Apps::new(&state.apps));
    let mut after = Plans::new();
    for (cluster, members) in by_cluster(state, &nodes) {
        let plan = planned(state, &cluster, &members, apps.as_ref());
        after.insert(cluster, plan);
    }
    let changed = difference(&before, &after);
    solution.plans.extend(after);
    changed
}

fn difference(before: &Plans, after: &Plans) -> Changed {
    fn placed(solution: &Plans) -> BTreeMap<&NodeName, &Vec<Placed>> {
        solution.values().flat_map(|plan| &plan.nodes).collect()
    }
    fn unplaced(solution: &Plans) -> BTreeMap<&InstanceName, &Unplaced> {
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
