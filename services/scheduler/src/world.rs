//! The fleet in memory: what the store says, joined, with the placement that follows from it.
//!
//! Fed with store entries one by one (in any order: each join is made when both sides are there), it keeps per project the placement state
//! and its solution in step. It decides nothing beyond placement and writes nothing.

mod ahead;
mod drain;
mod gpus;
mod peers;
mod reach;
mod rollout;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_model::{
    AppName, AppRef, AppSpec, ClusterName, ConfigName, ConfigRef, ContentHash, InstanceName, NodeName,
    NodeRef, ProjectName, SecretName, SecretRef, SecretVersion, TaskName,
};
use skerry_placement::{Delta, Node, Placed, Solution, State, apply};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec as WireSpec, env_source};
use skerry_resources::SecretKeys;
use skerry_store::{Entry, Family, Key, Record, Versioned};
use tracing::warn;

use crate::node::NodeView;
use crate::rollouts::AppRollout;
use crate::sealing::Sealing;
use crate::sight::Sight;
use crate::writes::{self, Unsettled};
use reach::{node_of, with_status};

/// What follows from a change later than this is no part of its trace: a node that joins after days would else be.
const TRACE_AGE_MAX: Duration = Duration::from_secs(10 * 60);

/// An app as it is stored.
#[derive(Debug)]
pub(crate) struct AppView {
    /// The record.
    pub(crate) record: Versioned<stored::AppRecord>,
    /// Its current spec, once its revision is there.
    pub(crate) spec: Option<Arc<WireSpec>>,
    /// Specs that some clusters have while a rollout is under way.
    others: Vec<Arc<WireSpec>>,
}

/// How an app uses a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigUse {
    /// As files.
    Mounted,
    /// As environment only.
    Read,
}

/// One project.
#[derive(Debug, Default)]
pub(crate) struct Project {
    /// Input of placement.
    pub(crate) state: State,
    /// Its answer.
    pub(crate) solution: Solution,
    /// Nodes by name.
    pub(crate) nodes: BTreeMap<NodeName, NodeView>,
    /// How long a member of a cluster may be out of reach before it counts as lost.
    patience: BTreeMap<ClusterName, Duration>,
    /// Nodes that what they run shall leave.
    drained: BTreeSet<NodeName>,
    /// What members of clusters are told of each other.
    peers: peers::ClusterPeers,
    /// Apps by name.
    pub(crate) apps: BTreeMap<AppName, AppView>,
    /// Configs by name.
    pub(crate) configs: BTreeMap<ConfigName, Versioned<stored::ConfigRecord>>,
    /// Secrets by name.
    pub(crate) secrets: BTreeMap<SecretName, Versioned<stored::SecretRecord>>,
    /// Their values: whether they open, else why not.
    values: BTreeMap<(SecretName, SecretVersion), Result<(), String>>,
    /// What rollouts that are under way bring, of apps.
    coming: BTreeMap<AppName, ahead::Coming>,
    /// Images that tasks have nodes fetch ahead.
    asked: BTreeMap<TaskName, ahead::Asked>,
    /// Rollouts of apps.
    pub(crate) rollouts: BTreeMap<AppName, AppRollout>,
    /// To what the secrets of nodes are sealed.
    sealings: BTreeMap<NodeName, Sealing>,
    revisions: BTreeMap<(AppName, ContentHash), (Arc<WireSpec>, Arc<AppSpec>)>,
    /// Nodes whose stored assignment is not their plan.
    unsettled: BTreeSet<NodeName>,
}

/// What some entries changed.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Apps that are something else themselves: by their record, a revision, a rollout, or what they use.
    pub(crate) changed: BTreeSet<AppRef>,
    /// Apps that may stand otherwise.
    pub(crate) apps: BTreeSet<AppRef>,
    /// Configs whose resource may look different.
    pub(crate) configs: BTreeSet<ConfigRef>,
    /// Secrets whose resource may look different.
    pub(crate) secrets: BTreeSet<SecretRef>,
}

/// All projects.
#[derive(Debug, Default)]
pub(crate) struct World {
    projects: BTreeMap<ProjectName, Project>,
    gateways: BTreeSet<String>,
    /// Which nodes are out of sight, of projects that have clusters.
    sights: BTreeMap<ProjectName, Sight>,
    /// What opens secrets.
    keys: SecretKeys,
}

impl World {
    /// Nothing yet.
    pub(crate) fn new(keys: SecretKeys) -> Self {
        Self { keys, ..Self::default() }
    }

    /// The same before it knew anything of the store.
    pub(crate) fn emptied(&self) -> Self {
        Self { sights: self.sights.clone(), ..Self::new(self.keys.clone()) }
    }

    /// A project, if it has anything.
    pub(crate) fn project(&self, name: &ProjectName) -> Option<&Project> {
        self.projects.get(name)
    }

    /// All projects.
    pub(crate) fn projects(&self) -> impl Iterator<Item = (&ProjectName, &Project)> {
        self.projects.iter()
    }

    /// Whether a node's session is open and its gateway alive.
    pub(crate) fn is_connected(&self, view: &NodeView) -> bool {
        view.session
            .as_ref()
            .is_some_and(|session| session.close_time.is_none() && self.gateways.contains(&session.gateway))
    }

    /// Nodes whose assignment has to be written, at most `limit`.
    pub(crate) fn unsettled(&self, limit: usize) -> Vec<Unsettled> {
        let all = self
            .projects
            .iter()
            .filter(|(_, project)| project.is_seen_whole())
            .flat_map(|(name, project)| project.unsettled.iter().map(move |node| (name, project, node)));
        all.take(limit).map(|(name, project, node)| project.unsettled_node(name, node)).collect()
    }

    /// Takes in one key as it is now; `None`: it is gone.
    pub(crate) fn take(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        match Family::of_key(key) {
            Some(Family::Nodes) => self.take_node(key, entry, touched),
            Some(Family::Clusters) => self.take_cluster(key, entry, touched),
            Some(Family::Apps) => self.take_app(key, entry, touched),
            Some(Family::Revisions) => self.take_revision(key, entry, touched),
            Some(Family::Rollouts) => self.take_rollout(key, entry, touched),
            Some(Family::RolloutMoves) => self.take_rollout_move(key, entry, touched),
            Some(Family::Configs) => self.take_config(key, entry, touched),
            Some(Family::Secrets) => self.take_secret(key, entry, touched),
            Some(Family::SecretRevisions) => self.take_values(key, entry, touched),
            Some(Family::Assignments) => self.take_assignment(key, entry, touched),
            Some(Family::Status) => self.take_status(key, entry, touched),
            Some(Family::Sessions) => self.take_session(key, entry, touched),
            Some(Family::Prefetches) => self.take_prefetch(key, entry),
            Some(Family::Gateways) => self.take_gateway(key, entry, touched),
            _ => {}
        }
    }

    fn project_mut(&mut self, name: &ProjectName) -> &mut Project {
        self.projects.entry(name.clone()).or_default()
    }

    fn take_node(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::NodeRecord>(key, entry) else { return };
        let lost = self.is_lost(&name);
        let project = self.project_mut(&name.project);
        let sealing = record.as_ref().and_then(|record| Sealing::of(&record.value));
        let seal = sealing.as_ref().map(Sealing::id);
        match sealing {
            Some(sealing) => project.sealings.insert(name.node.clone(), sealing),
            None => project.sealings.remove(&name.node),
        };
        let drains = record.as_ref().is_some_and(|record| record.value.drain);
        let leaving = if drains {
            project.drained.insert(name.node.clone());
            project.state.nodes.get(&name.node).map(|node| node.leaving.clone()).unwrap_or_default()
        } else {
            project.drained.remove(&name.node);
            BTreeSet::new()
        };
        let node = record.map(|record| {
            let status = project.nodes.get(&name.node).and_then(|view| view.status.as_deref());
            Node { seal, lost, leaving, ..node_of(record.value, status) }
        });
        if node.is_none() && project.nodes.get(&name.node).is_some_and(NodeView::is_bare) {
            project.nodes.remove(&name.node);
        }
        project.change(&name.project, Delta::Node(name.node.clone(), node), Some(&name.node), touched);
    }

    fn take_app(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::AppRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        match record {
            Some(record) => {
                project.apps.insert(name.app.clone(), AppView { record, spec: None, others: Vec::new() })
            }
            None => project.apps.remove(&name.app),
        };
        touched.changed.insert(name.clone());
        project.refresh_app(&name.project, &name.app, touched);
    }

    fn take_revision(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::RevisionRecord>(key, entry) else { return };
        let project = self.project_mut(&name.app.project);
        let id = (name.app.app.clone(), name.hash);
        let specs = record.and_then(|record| {
            let wire = <WireSpec as prost::Message>::decode(record.value.spec.clone()).ok();
            let spec = AppSpec::decode(&record.value.spec);
            if let Err(fault) = &spec {
                warn!(revision = %name, %fault, "a stored revision is not valid and is passed over");
            }
            Some((Arc::new(wire?), Arc::new(spec.ok()?)))
        });
        match specs {
            Some(specs) => project.revisions.insert(id, specs),
            None => project.revisions.remove(&id),
        };
        project.refresh_app(&name.app.project, &name.app.app, touched);
        project.reread_assignments_of(&name.app.project, &name.app.app, touched);
    }

    fn take_config(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::ConfigRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        match record {
            Some(record) => project.configs.insert(name.config.clone(), record),
            None => project.configs.remove(&name.config),
        };
        let users: Vec<AppName> = project.apps_that_use(&name.config).map(|(app, _)| app.clone()).collect();
        for app in users {
            project.refresh_app(&name.project, &app, touched);
        }
        touched.configs.insert(name);
    }

    fn take_assignment(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::AssignmentRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        let view = project.nodes.entry(name.node.clone()).or_default();
        view.take_assignment(record.map(|record| (record.value, record.mod_revision)));
        project.reread_assignment(&name.project, &name.node, touched);
    }

    fn take_status(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::StatusRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        let view = project.nodes.entry(name.node.clone()).or_default();
        view.take_status(record.map(|record| Arc::new(record.value)));
        if let Some(known) = project.state.nodes.get(&name.node) {
            let node = with_status(known.clone(), view.status.as_deref());
            if node != *known {
                project.change(&name.project, Delta::Node(name.node.clone(), Some(node)), None, touched);
            }
        }
        project.peer_reported(&name.node);
        project.touch_apps_on(&name.project, &name.node, touched);
    }

    fn take_session(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::SessionRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        project.nodes.entry(name.node.clone()).or_default().session = record.map(|record| record.value);
        project.touch_apps_on(&name.project, &name.node, touched);
    }

    fn take_gateway(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((id, record)) = read::<stored::GatewayRecord>(key, entry) else { return };
        let id = id.to_string();
        if record.is_some() {
            self.gateways.insert(id.clone());
        } else {
            self.gateways.remove(&id);
        }
        for (name, project) in &self.projects {
            let of_this = project
                .nodes
                .iter()
                .filter(|(_, view)| view.session.as_ref().is_some_and(|s| s.gateway == id));
            for (node, _) in of_this {
                project.touch_apps_on(name, node, touched);
            }
        }
    }
}

impl Project {
    /// Apps of which a service uses the config, and how: as files, if any does so, else as environment.
    pub(crate) fn apps_that_use<'a>(
        &'a self,
        config: &'a ConfigName,
    ) -> impl Iterator<Item = (&'a AppName, ConfigUse)> {
        self.apps.iter().filter_map(move |(name, view)| {
            let services = || view.spec.iter().chain(&view.others).flat_map(|spec| &spec.services);
            let mut mounted = services().flat_map(|service| &service.configs).map(|mount| &mount.config);
            let mut read =
                services().flat_map(|service| &service.env_from).filter_map(|from| match &from.source {
                    Some(env_source::Source::Config(name)) => Some(name),
                    Some(env_source::Source::Secret(_) | env_source::Source::File(_)) | None => None,
                });
            if mounted.any(|name| name == config.as_str()) {
                return Some((name, ConfigUse::Mounted));
            }
            read.any(|name| name == config.as_str()).then_some((name, ConfigUse::Read))
        })
    }

    /// The current revision of an app.
    fn current(&self, app: &AppName) -> Option<&(Arc<WireSpec>, Arc<AppSpec>)> {
        let revision = ContentHash::parse(&self.apps.get(app)?.record.value.revision).ok()?;
        self.revisions.get(&(app.clone(), revision))
    }

    /// Whether any node is assigned, or shall be, something of this revision, or a rollout names it.
    pub(crate) fn is_referenced(&self, app: &AppName, revision: &ContentHash) -> bool {
        if self.rollouts.get(app).is_some_and(|rollout| rollout.revisions().contains(revision)) {
            return true;
        }
        let stored = self.state.previous.values().flatten();
        let planned = self.planned();
        stored.chain(planned).any(|placed| placed.instance.app == *app && placed.revision == *revision)
    }

    /// Whether any node is assigned, or shall be, this content of a config.
    pub(crate) fn is_mounted(&self, config: &ConfigName, hash: &ContentHash) -> bool {
        let stored = self.state.previous.values().flatten();
        let planned = self.planned();
        stored.chain(planned).any(|placed| placed.configs.get(config) == Some(hash))
    }

    /// What a node shall be assigned. Absent: it is not there.
    pub(crate) fn plan_of(&self, node: &NodeName) -> Option<&[Placed]> {
        self.state.plan_of(&self.solution, node)
    }

    /// What all nodes shall be assigned.
    fn planned(&self) -> impl Iterator<Item = &Placed> {
        self.solution.values().flat_map(|plan| plan.nodes.values().flatten())
    }

    fn unsettled_node(&self, project: &ProjectName, node: &NodeName) -> Unsettled {
        let placed = self.plan_of(node).map(<[Placed]>::to_vec);
        let before = self.state.previous.get(node).cloned().unwrap_or_default();
        Unsettled {
            node: NodeRef { project: project.clone(), node: node.clone() },
            causes: self.causes(placed.as_deref().unwrap_or_default(), &before, SystemTime::now()),
            placed,
            before,
            peers: self.peers_of(node),
            images: self.images_of(node),
            images_before: self.assigned_images(node).to_vec(),
            mod_revision: self
                .nodes
                .get(node)
                .and_then(|view| view.assignment.as_ref())
                .map_or(0, |(_, revision)| *revision),
        }
    }

    /// The traces of the recent changes of apps and configs that make `placed` differ from `before`.
    fn causes(&self, placed: &[Placed], before: &[Placed], now: SystemTime) -> Vec<String> {
        let recent = |time: Option<prost_types::Timestamp>| {
            let time = time.and_then(|time| SystemTime::try_from(time).ok());
            // A clock that is a little ahead makes a change of the future.
            time.is_some_and(|time| now.duration_since(time).unwrap_or_default() <= TRACE_AGE_MAX)
        };
        let mut causes = BTreeSet::new();
        for placed in placed {
            let old = before.iter().find(|old| old.instance == placed.instance);
            if old.is_some_and(|old| {
                old.revision == placed.revision
                    && old.configs == placed.configs
                    && old.secrets == placed.secrets
            }) {
                continue;
            }
            let app = self.apps.get(&placed.instance.app).map(|app| &app.record.value);
            let app = app.filter(|_| old.is_none_or(|old| old.revision != placed.revision));
            causes.extend(app.filter(|app| recent(app.trace_time)).map(|app| app.trace_parent.clone()));
            let changed = placed
                .configs
                .iter()
                .filter(|(name, hash)| old.is_some_and(|old| old.configs.get(*name) != Some(*hash)));
            let configs = changed.filter_map(|(name, _)| self.configs.get(name)).map(|config| &config.value);
            causes.extend(configs.filter(|c| recent(c.trace_time)).map(|config| config.trace_parent.clone()));
            let changed = placed
                .secrets
                .iter()
                .filter(|(name, one)| old.is_some_and(|old| old.secrets.get(*name) != Some(*one)));
            let secrets = changed.filter_map(|(name, _)| self.secrets.get(name)).map(|secret| &secret.value);
            causes.extend(secrets.filter(|s| recent(s.trace_time)).map(|secret| secret.trace_parent.clone()));
        }
        causes.into_iter().filter(|cause| !cause.is_empty()).take(writes::CAUSES_MAX).collect()
    }

    /// Takes a change into placement and notes which apps and nodes it touches.
    fn change(
        &mut self,
        project: &ProjectName,
        delta: Delta,
        node: Option<&NodeName>,
        touched: &mut Touched,
    ) {
        let concerned = self.concerned(&delta);
        let changed = apply(&mut self.state, &mut self.solution, delta);
        self.follow_peers(concerned, &changed);
        touched.apps.extend(changed.apps.into_iter().map(|app| AppRef { project: project.clone(), app }));
        for name in changed.nodes.into_iter().chain(node.cloned()) {
            self.settle(&name);
            self.touch_apps_on(project, &name, touched);
        }
    }

    fn settle(&mut self, node: &NodeName) {
        let stored = self.state.previous.get(node).map_or(&[][..], Vec::as_slice);
        let record = self.nodes.get(node).and_then(|view| view.assignment.as_ref());
        // To a gateway no record is no opinion, and an agent keeps what it holds: nothing to run is written as well.
        let is_settled = match self.plan_of(node) {
            Some(placed) => record.is_some_and(|(record, _)| {
                placed == stored
                    && record.peers == self.peers_of(node)
                    && record.images == self.images_of(node)
            }),
            None => record.is_none(),
        };
        if is_settled {
            self.unsettled.remove(node);
        } else {
            self.unsettled.insert(node.clone());
        }
    }

    /// Notes all apps that have, had or want something on the node.
    fn touch_apps_on(&self, project: &ProjectName, node: &NodeName, touched: &mut Touched) {
        let stored = self.state.previous.get(node).into_iter().flatten().map(|placed| &placed.instance);
        let placed = self.plan_of(node).into_iter().flatten().map(|placed| &placed.instance);
        let plan = self.solution.get(&self.state.cluster_of(node));
        let unplaced = plan.into_iter().flat_map(|plan| &plan.unplaced);
        let unplaced = unplaced.filter(|one| one.node.as_ref() == Some(node)).map(|one| &one.instance);
        for instance in stored.chain(placed).chain(unplaced) {
            touched.apps.insert(AppRef { project: project.clone(), app: instance.app.clone() });
        }
    }

    fn reread_assignments_of(&mut self, project: &ProjectName, app: &AppName, touched: &mut Touched) {
        let holds = |view: &NodeView| {
            let instances = view.assignment.iter().flat_map(|(record, _)| &record.instances);
            instances.filter_map(|i| InstanceName::parse(&i.instance).ok()).any(|name| name.app == *app)
        };
        let nodes: Vec<NodeName> =
            self.nodes.iter().filter(|(_, view)| holds(view)).map(|(name, _)| name.clone()).collect();
        for node in nodes {
            self.reread_assignment(project, &node, touched);
        }
    }

    fn reread_assignment(&mut self, project: &ProjectName, node: &NodeName, touched: &mut Touched) {
        let record = self.nodes.get(node).and_then(|view| view.assignment.as_ref());
        let placed = record
            .into_iter()
            .flat_map(|(record, _)| &record.instances)
            .filter_map(|i| self.placed_of(i))
            .collect();
        self.change(project, Delta::Previous(node.clone(), placed), Some(node), touched);
    }

    /// A stored assignment as placement sees it. Bookings come from the revision that it names.
    fn placed_of(&self, assigned: &stored::AssignedInstance) -> Option<Placed> {
        let placed = writes::placed(assigned)?;
        let spec = self.revisions.get(&(placed.instance.app.clone(), placed.revision));
        let Some(service) = spec.and_then(|(_, spec)| spec.service(&placed.instance.service)) else {
            return Some(placed);
        };
        let ordinal = placed.instance.ordinal;
        let (booked, ports) = (service.booked_by(ordinal), service.ports_of(ordinal).to_vec());
        Some(Placed { booked, ports, ..placed })
    }
}

/// A key's name and its record, if there is one. What does not decode is passed over, loudly.
fn read<R: Record>(key: &str, entry: Option<&Entry>) -> Option<(R::Name, Option<Versioned<R>>)> {
    let name =
        Key::<R>::parse(key).map_err(|error| warn!(%error, "an unknown key is passed over")).ok()?.name();
    match entry.map(Entry::decode::<R>).transpose() {
        Ok(record) => Some((name, record)),
        Err(error) => {
            warn!(%error, "a record that does not decode is passed over");
            None
        }
    }
}

#[cfg(test)]
mod tests;
