//! What a scheduler knows of the store: placement's state and solution, kept in step with the mirror by the real `apply`. Decides
//! nothing beyond placement and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{
    AppName, AppRef, AppSpec, ClusterName, ConfigName, ContentHash, NodeName, NodeRef, RevisionRef,
};
use skerry_placement::{App, Cluster, Delta, Node, Placed, Solution, State, Wanted, apply, solve};
use skerry_proto::store::v1 as stored;
use skerry_scheduler::writes;
use skerry_store::sans_io::Sorted;
use skerry_store::{Key, Prefix, Record};

/// Placement's view of one project.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) state: State,
    pub(super) solution: Solution,
    /// Modification revision of each assignment.
    pub(super) assignments: BTreeMap<NodeName, i64>,
}

/// All records of a family that decode.
pub(super) fn records<R: Record>(map: &Sorted) -> Vec<(R::Name, R, i64)> {
    let prefix = Prefix::<R>::all();
    let entries = map.under(prefix.as_str());
    entries
        .filter_map(|entry| entry.decode::<R>().ok())
        .map(|record| (record.key.name(), record.value, record.mod_revision))
        .collect()
}

impl Fleet {
    /// Takes the store as it is, one difference at a time, in the order of `turn`. The law: the solution equals that of solving anew.
    pub(super) fn take(&mut self, map: &Sorted, turn: usize) -> Result<(), String> {
        let new = read(map, &self.state);
        self.assignments = records::<stored::AssignmentRecord>(map)
            .into_iter()
            .map(|(name, _, mod_revision)| (name.node, mod_revision))
            .collect();
        let mut deltas = differences(&self.state, &new);
        let count = deltas.len().max(1);
        deltas.rotate_left(turn % count);
        for delta in deltas {
            apply(&mut self.state, &mut self.solution, delta);
        }
        if self.state == new && self.solution == solve(&self.state) {
            return Ok(());
        }
        Err("placement's increments do not lead to what solving anew gives".to_owned())
    }

    /// Nodes whose assignment is not what it shall be.
    pub(super) fn unsettled(&self) -> Vec<NodeName> {
        let planned = self.solution.values().flat_map(|plan| &plan.nodes).filter(|(node, placed)| {
            let stored = self.state.previous.get(*node).map_or(&[][..], Vec::as_slice);
            // A node without a record keeps what it holds, so one with nothing to run has a record that says so.
            placed.as_slice() != stored || !self.assignments.contains_key(*node)
        });
        let gone = self.assignments.keys().filter(|node| !self.state.nodes.contains_key(*node));
        planned.map(|(node, _)| node).chain(gone).cloned().collect()
    }
}

/// Placement's state of what is stored. An app whose revision is not there stays as it was.
fn read(map: &Sorted, before: &State) -> State {
    let mut state = State::default();
    for (name, record, _) in records::<stored::NodeRecord>(map) {
        let labels = record.meta.unwrap_or_default().labels;
        let joins = labels.get(CLUSTER_LABEL).and_then(|name| ClusterName::parse(name).ok());
        let node = Node { labels, joins, cordoned: record.cordoned, ..Node::default() };
        state.nodes.insert(name.node, node);
    }
    for (name, record, _) in records::<stored::ClusterRecord>(map) {
        state.clusters.insert(name.cluster, Cluster { labels: record.meta.unwrap_or_default().labels });
    }
    let configs: BTreeMap<ConfigName, ContentHash> = records::<stored::ConfigRecord>(map)
        .into_iter()
        .filter_map(|(name, record, _)| Some((name.config, ContentHash::parse(&record.hash).ok()?)))
        .collect();
    for (name, record, _) in records::<stored::AppRecord>(map) {
        let app = current(map, &name, &record, &configs);
        if let Some(app) = app.or_else(|| before.apps.get(&name.app).cloned()) {
            state.apps.insert(name.app, app);
        }
    }
    for (name, record, _) in records::<stored::AssignmentRecord>(map) {
        let placed: Vec<Placed> = record.instances.iter().filter_map(writes::placed).collect();
        if !placed.is_empty() {
            state.previous.insert(name.node, placed);
        }
    }
    state
}

fn current(
    map: &Sorted,
    name: &AppRef,
    record: &stored::AppRecord,
    configs: &BTreeMap<ConfigName, ContentHash>,
) -> Option<App> {
    let revision = ContentHash::parse(&record.revision).ok()?;
    let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app: name.clone(), hash: revision });
    let entry = map.get(key.as_str())?;
    let spec = stored::RevisionRecord::decode(entry.bytes.clone()).ok()?.spec;
    let spec = Arc::new(AppSpec::decode(&spec).ok()?);
    let configs = spec
        .config_names()
        .into_iter()
        .filter_map(|name| Some((name.clone(), *configs.get(name)?)))
        .collect();
    Some(Wanted { revision, spec, configs, secrets: BTreeMap::new(), bounds: None }.into())
}

/// What makes `old` into `new`.
fn differences(old: &State, new: &State) -> Vec<Delta> {
    let mut deltas = Vec::new();
    let nodes: BTreeSet<&NodeName> = old.nodes.keys().chain(new.nodes.keys()).collect();
    for name in nodes.into_iter().filter(|name| old.nodes.get(*name) != new.nodes.get(*name)) {
        deltas.push(Delta::Node(name.clone(), new.nodes.get(name).cloned()));
    }
    let clusters: BTreeSet<&ClusterName> = old.clusters.keys().chain(new.clusters.keys()).collect();
    for name in clusters.into_iter().filter(|name| old.clusters.get(*name) != new.clusters.get(*name)) {
        deltas.push(Delta::Cluster(name.clone(), new.clusters.get(name).cloned()));
    }
    let apps: BTreeSet<&AppName> = old.apps.keys().chain(new.apps.keys()).collect();
    for name in apps.into_iter().filter(|name| old.apps.get(*name) != new.apps.get(*name)) {
        deltas.push(Delta::App(name.clone(), new.apps.get(name).cloned()));
    }
    let placed: BTreeSet<&NodeName> = old.previous.keys().chain(new.previous.keys()).collect();
    for name in placed.into_iter().filter(|name| old.previous.get(*name) != new.previous.get(*name)) {
        deltas.push(Delta::Previous(name.clone(), new.previous.get(name).cloned().unwrap_or_default()));
    }
    deltas
}

/// The node's full name.
pub(super) fn node_ref(node: &NodeName) -> NodeRef {
    NodeRef { project: super::operator::project(), node: node.clone() }
}
