//! `PlanChange`: what each node would have more, less or otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use skerry_model::config::ConfigSpec;
use skerry_model::{
    AppName, AppRef, AppSpec, ConfigName, ConfigRef, ContentHash, Fault, InstanceName, ProjectName,
};
use skerry_placement::{App, ClusterPlan, Delta, Placed, Solution, State, preview};
use skerry_proto::scheduler::v1::instance_change::Change as What;
use skerry_proto::scheduler::v1::{
    InstanceChange, NodeChange, Pending, PlanChangeRequest, PlanChangeResponse,
};
use skerry_proto::types::v1::{AppSpec as WireSpec, Metadata};
use skerry_resources::keep_restart_times;

use crate::world::{Project, World};

/// Nodes that an answer tells of.
const NODES_MAX: usize = 1000;
/// Instances without a place that it tells of.
const PENDING_MAX: usize = 100;

/// What would be applied and deleted, checked as if it were.
pub(super) struct Change {
    project: ProjectName,
    apps: BTreeMap<AppName, WireSpec>,
    configs: BTreeMap<ConfigName, ContentHash>,
    deleted: BTreeSet<AppName>,
}

impl Change {
    pub(super) fn parse(project: &ProjectName, request: &PlanChangeRequest) -> Result<Self, Fault> {
        let mut change = Self {
            project: project.clone(),
            apps: BTreeMap::new(),
            configs: BTreeMap::new(),
            deleted: BTreeSet::new(),
        };
        for (index, app) in request.apps.iter().enumerate() {
            let at = format!("apps[{index}]");
            let name = full_name(project, "apps", app.metadata.as_ref());
            let name = AppRef::parse(&name).map_err(|error| named(&at, error))?;
            change.is_ours(&at, &name.project)?;
            let spec = app.spec.as_ref();
            let spec =
                spec.ok_or_else(|| Fault::invalid_field(format!("{at}.spec"), "say what shall run"))?;
            AppSpec::from_proto(spec).map_err(|fault| within(&at, fault))?;
            if change.apps.insert(name.app, spec.clone()).is_some() {
                return Err(named(&at, "the same app is named twice: name it once"));
            }
        }
        for (index, config) in request.configs.iter().enumerate() {
            let at = format!("configs[{index}]");
            let name = full_name(project, "configs", config.metadata.as_ref());
            let name = ConfigRef::parse(&name).map_err(|error| named(&at, error))?;
            change.is_ours(&at, &name.project)?;
            let spec = config.spec.clone().unwrap_or_default();
            ConfigSpec::from_proto(&spec).map_err(|fault| within(&at, fault))?;
            if change.configs.insert(name.config, ContentHash::of(&spec.encode_to_vec())).is_some() {
                return Err(named(&at, "the same config is named twice: name it once"));
            }
        }
        for (index, app) in request.deleted_apps.iter().enumerate() {
            let at = format!("deleted_apps[{index}]");
            let name = AppRef::parse(app).map_err(|error| Fault::invalid_field(&at, error))?;
            if name.project != *project || change.apps.contains_key(&name.app) {
                let message = "it is of another project, or among `apps`, too";
                return Err(Fault::invalid_field(at, message));
            }
            change.deleted.insert(name.app);
        }
        Ok(change)
    }

    fn is_ours(&self, at: &str, project: &ProjectName) -> Result<(), Fault> {
        if *project == self.project {
            Ok(())
        } else {
            Err(named(at, "it is of another project than `parent`"))
        }
    }
}

fn full_name(project: &ProjectName, kind: &str, metadata: Option<&Metadata>) -> String {
    let name = metadata.map_or("", |metadata| metadata.name.as_str());
    if name.contains('/') { name.to_owned() } else { format!("{}/{kind}/{name}", project.parent()) }
}

fn named(at: &str, why: impl std::fmt::Display) -> Fault {
    Fault::invalid_field(format!("{at}.metadata.name"), why)
}

/// The same, with its fields named from the request's root.
fn within(at: &str, mut fault: Fault) -> Fault {
    for violation in &mut fault.violations {
        violation.field = format!("{at}.{}", violation.field);
    }
    fault
}

/// A change with a copy of all that it may touch: what comes of it is reckoned where nobody waits for it.
pub(super) struct Planned {
    project: ProjectName,
    applied: Vec<AppName>,
    state: State,
    solution: Solution,
    deltas: Vec<Delta>,
    rolled_out: Vec<String>,
}

/// NOT_FOUND: an app to be deleted is not there.
pub(super) fn prepare(world: &World, change: Change) -> Result<Planned, Fault> {
    let empty = Project::default();
    let project = world.project(&change.project).unwrap_or(&empty);
    if let Some(gone) = change.deleted.iter().find(|app| !project.apps.contains_key(*app)) {
        return Err(Fault::not_found(format!("{}/apps/{gone}", change.project.parent())));
    }
    let mut rolled_out = Vec::new();
    let mut apps: BTreeMap<AppName, Option<App>> = BTreeMap::new();
    apps.extend(change.deleted.into_iter().map(|app| (app, None)));
    for (name, spec) in &change.apps {
        let (spec, revision) = revision_of(project, name, spec);
        let now = project.apps.get(name).map(|view| view.record.value.revision.as_str());
        if now == Some(revision.to_string().as_str()) {
            continue;
        }
        if now.is_some() && spec.rollout.is_some() {
            rolled_out.push(name.to_string());
        }
        let parsed = Arc::new(AppSpec::from_proto(&spec)?);
        let wanted = project.wanted_with(revision, parsed, &change.configs);
        apps.insert(name.clone(), Some(wanted.into()));
    }
    for (name, app) in &project.state.apps {
        if let Some(app) = with_configs(app, &change.configs).filter(|_| !apps.contains_key(name)) {
            apps.insert(name.clone(), Some(app));
        }
    }
    Ok(Planned {
        project: change.project,
        applied: change.apps.into_keys().collect(),
        state: project.state.clone(),
        solution: project.solution.clone(),
        deltas: apps.into_iter().map(|(name, app)| Delta::App(name, app)).collect(),
        rolled_out,
    })
}

impl Planned {
    /// What would change.
    pub(super) fn reckon(self) -> PlanChangeResponse {
        let Self { project, applied, state, solution, deltas, rolled_out } = self;
        let (state, after, nodes) = preview(state, &solution, deltas);
        let somewhere: BTreeSet<&AppName> = after.values().flat_map(apps_of).collect();
        let nowhere =
            applied.iter().filter(|app| !somewhere.contains(app)).map(ToString::to_string).collect();
        let mut answer = PlanChangeResponse { rolled_out, nowhere, ..PlanChangeResponse::default() };
        let mut changes: Vec<NodeChange> = Vec::new();
        let mut clusters = BTreeSet::new();
        for node in &nodes {
            let of = |solution| state.plan_of(solution, node).unwrap_or_default();
            let instances = difference(of(&solution), of(&after));
            for one in &instances {
                match one.change() {
                    What::Added => answer.added += 1,
                    What::Replaced => answer.replaced += 1,
                    What::Removed => answer.removed += 1,
                    What::Unspecified => {}
                }
            }
            let cluster = state.cluster_of(node).to_string();
            clusters.insert(cluster.clone());
            changes.push(NodeChange {
                cluster,
                node: format!("{}/nodes/{node}", project.parent()),
                instances,
            });
        }
        changes.sort_by(|a, b| (&a.cluster, &a.node).cmp(&(&b.cluster, &b.node)));
        answer.changed_nodes = count(changes.len());
        answer.changed_clusters = count(clusters.len());
        changes.truncate(NODES_MAX);
        answer.nodes = changes;
        let pending = pending(&solution, &after);
        answer.pending_instances = count(pending.len());
        answer.pending = pending.into_iter().take(PENDING_MAX).collect();
        answer
    }
}

/// The apps of which a cluster shall have something.
fn apps_of(plan: &ClusterPlan) -> impl Iterator<Item = &AppName> {
    let placed = plan.nodes.values().flatten().map(|placed| &placed.instance.app);
    placed.chain(plan.unplaced.iter().map(|one| &one.instance.app))
}

/// What would be stored of a spec, and its hash.
fn revision_of(project: &Project, name: &AppName, spec: &WireSpec) -> (WireSpec, ContentHash) {
    let mut spec = spec.clone();
    if let Some(before) = project.apps.get(name).and_then(|view| view.spec.as_ref()) {
        keep_restart_times(&before.services, &mut spec.services);
    }
    let revision = ContentHash::of(&WireSpec { rollout: None, ..spec.clone() }.encode_to_vec());
    (spec, revision)
}

/// An app that uses one of the configs, with their new contents.
fn with_configs(app: &App, configs: &BTreeMap<ConfigName, ContentHash>) -> Option<App> {
    let mut changed = app.clone();
    for wanted in std::iter::once(&mut changed.base).chain(changed.others.values_mut()) {
        for name in wanted.spec.config_names() {
            if let Some(hash) = configs.get(name) {
                wanted.configs.insert(name.clone(), *hash);
            }
        }
    }
    (changed != *app).then_some(changed)
}

/// What becomes of a node's instances.
fn difference(before: &[Placed], after: &[Placed]) -> Vec<InstanceChange> {
    fn by_name(placed: &[Placed]) -> BTreeMap<&InstanceName, &Placed> {
        placed.iter().map(|placed| (&placed.instance, placed)).collect()
    }
    let (before, after) = (by_name(before), by_name(after));
    let names: BTreeSet<&InstanceName> = before.keys().chain(after.keys()).copied().collect();
    let change = |name: &InstanceName| {
        let (what, because) = match (before.get(name), after.get(name)) {
            (None, Some(_)) => (What::Added, Vec::new()),
            (Some(_), None) => (What::Removed, Vec::new()),
            (Some(before), Some(after)) if before != after => (What::Replaced, because(before, after)),
            _ => return None,
        };
        Some(InstanceChange { instance: name.to_string(), change: what.into(), because })
    };
    names.into_iter().filter_map(change).collect()
}

fn because(before: &Placed, after: &Placed) -> Vec<String> {
    let mut because = Vec::new();
    if before.revision != after.revision {
        because.push("revision".to_owned());
    }
    let configs = after.configs.iter().filter(|(name, hash)| before.configs.get(*name) != Some(*hash));
    because.extend(configs.map(|(name, _)| format!("config {name}")));
    let secrets = after.secrets.iter().filter(|(name, one)| before.secrets.get(*name) != Some(*one));
    because.extend(secrets.map(|(name, _)| format!("secret {name}")));
    because
}

/// What has no place afterwards, by instance.
fn pending(before: &Solution, after: &Solution) -> Vec<Pending> {
    let of = |solution: &Solution| -> BTreeMap<String, (String, String)> {
        let all = solution.values().flat_map(|plan| &plan.unplaced);
        all.map(|one| (one.instance.to_string(), (one.reason.word().to_owned(), one.reason.to_string())))
            .collect()
    };
    let before = of(before);
    let told = |(instance, (reason, message)): (String, (String, String))| Pending {
        already: before.get(&instance).is_some_and(|(word, _)| *word == reason),
        instance,
        reason,
        message,
    };
    of(after).into_iter().map(told).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
