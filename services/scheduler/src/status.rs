//! How an app stands: pure, from the world. Everything that is not ready carries a reason.

use std::collections::BTreeMap;
use std::time::SystemTime;

use skerry_model::app::{Kind, ROLLED_BACK};
use skerry_model::{AppName, ClusterName, GpuBooking, InstanceName, NodeName, ProjectName, time};
use skerry_placement::{ClusterPlan, Placed, Unplaced};
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::scheduler::v1::{AppStatus, ClusterCounts, Counts, RolloutStatus, ServiceStatus};
use skerry_proto::store::v1::StatusRecord;
use skerry_proto::types::v1::{Condition, InstancePhase, InstanceStatus, JobStatus, condition, job_status};
use skerry_rollout::Shown;

use self::gpus::gpus_of;
pub(crate) use self::nothing::nothing_wanted;
use crate::node::NodeView;
use crate::rollouts;
use crate::world::{Project, World};

/// How many problems an app's status names.
const PROBLEMS_MAX: usize = 20;
/// How many clusters it names.
const CLUSTERS_MAX: usize = 100;

/// One instance and what counts for its service.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) name: InstanceName,
    pub(crate) status: InstanceStatus,
    /// It should be there; otherwise it is on its way out.
    wanted: bool,
    /// What its node makes of it as it is placed.
    taken: Taken,
    /// It is placed in the app's current revision.
    current: bool,
    /// Whether its node is connected. Absent: it is on none.
    reached: Option<bool>,
    end: End,
}

/// What a node makes of an instance as it is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It has not acknowledged it, or runs something else yet.
    Not,
    /// It runs that.
    Runs,
    /// It ran that revision, and took it back by itself.
    Back,
}

/// When an instance is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is ready for as long as it is wanted.
    Never,
    /// Once it has succeeded: it is of a job.
    Success,
}

impl Seen {
    /// It should be there.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// It is as it should be, and nothing of it is waited for.
    pub(crate) fn is_well(&self) -> bool {
        self.wanted && self.taken == Taken::Runs && (is_done(self) || is_in_run(self))
    }

    /// Somebody stopped it by hand, and it is as it is placed.
    fn is_stopped(&self) -> bool {
        self.wanted && self.status.phase() == InstancePhase::Stopped
    }

    /// It runs the app's current revision.
    fn updated(&self) -> bool {
        self.taken == Taken::Runs && self.current
    }
}

/// Every instance of an app that should be, or is, by cluster, node and name.
pub(crate) fn instances(
    world: &World,
    project_name: &ProjectName,
    project: &Project,
    app: &AppName,
) -> Vec<Seen> {
    let clusters = project.solution.iter();
    clusters
        .flat_map(|(cluster, plan)| instances_in(world, project_name, project, app, (cluster, plan)))
        .collect()
}

/// Every instance of an app that should be, or is, in a cluster.
pub(crate) fn instances_in(
    world: &World,
    project_name: &ProjectName,
    project: &Project,
    app: &AppName,
    (cluster, plan): (&ClusterName, &ClusterPlan),
) -> Vec<Seen> {
    let default = NodeView::default();
    let mut seen = Vec::new();
    for (node, placed) in &plan.nodes {
        let view = project.nodes.get(node).unwrap_or(&default);
        let look = Look { node, view, connected: world.is_connected(view), project, project_name };
        look.instances(app, placed, &plan.unplaced, &mut seen);
    }
    let nowhere = plan.unplaced.iter().filter(|one| one.node.is_none() && one.instance.app == *app);
    seen.extend(nowhere.map(nowhere_placed));
    // In the revision that this cluster shall have, which need not be the current one.
    let wanted = project.state.apps.get(app).map(|app| app.wanted(cluster));
    for one in &mut seen {
        let service = wanted.and_then(|wanted| wanted.spec.service(&one.name.service));
        if service.is_some_and(|service| matches!(service.kind, Kind::Job(_))) {
            one.end = End::Success;
        }
    }
    seen
}

/// How a cluster is with what it shall have of an app. What is on members that are not connected nobody knows, and it holds nothing up, unless all
/// that have something of it are: then the cluster is away. What somebody stopped by hand counts in the same way: it shows nothing of what it has.
pub(crate) fn shown(
    world: &World,
    project_name: &ProjectName,
    project: &Project,
    app: &AppName,
    (cluster, plan): (&ClusterName, &ClusterPlan),
) -> Shown {
    let seen = instances_in(world, project_name, project, app, (cluster, plan));
    let mut holders = seen.iter().filter_map(|one| Some(one.reached? && !one.is_stopped())).peekable();
    let is_connected = |node: &NodeName| project.nodes.get(node).is_some_and(|view| world.is_connected(view));
    let is_here = match holders.peek() {
        Some(_) => holders.any(|reached| reached),
        None => plan.nodes.keys().any(is_connected),
    };
    if !is_here {
        return Shown::Away;
    }
    let ill = || seen.iter().filter(|one| one.reached != Some(false) && !one.is_stopped() && !one.is_well());
    let why = |Seen { status, .. }: &Seen| {
        let (instance, reason, message) = (&status.instance, &status.reason, &status.message);
        format!("{instance} {reason}: {message}")
    };
    match (ill().find(|one| one.taken == Taken::Back), ill().next()) {
        (_, None) => Shown::Healthy,
        (Some(taken_back), _) => Shown::TakenBack { why: why(taken_back) },
        (None, Some(first)) => Shown::Unhealthy { why: why(first) },
    }
}

/// The apps of which any node has an instance, wanted or not.
pub(crate) fn leftover_apps(project: &Project) -> impl Iterator<Item = AppName> + '_ {
    let names = project.nodes.values().flat_map(leftovers).map(|(name, _)| name);
    names.filter_map(|name| Some(InstanceName::parse(name).ok()?.app))
}

/// What a node reports, and what its assignment still names and it has not reported yet.
fn leftovers(view: &NodeView) -> impl Iterator<Item = (&str, Option<&InstanceStatus>)> {
    let reported = || view.status.iter().flat_map(|status| &status.instances);
    let assigned = view.assignment.iter().flat_map(|(assignment, _)| &assignment.instances);
    let unreported = assigned
        .map(|assigned| assigned.instance.as_str())
        .filter(move |name| !reported().any(|status| status.instance == *name));
    reported()
        .map(|status| (status.instance.as_str(), Some(status)))
        .chain(unreported.map(|name| (name, None)))
}

/// By instance name they are.
fn is_kept(unplaced: &[Unplaced], placed: &Placed) -> bool {
    let found = unplaced.binary_search_by(|one| one.instance.cmp(&placed.instance));
    found.is_ok_and(|at| unplaced[at].kept)
}

/// One node, while its instances are looked at.
struct Look<'a> {
    node: &'a NodeName,
    view: &'a NodeView,
    connected: bool,
    project: &'a Project,
    project_name: &'a ProjectName,
}

impl Look<'_> {
    /// Every instance of an app that should be, or is, on the node, to which `placed` are given.
    fn instances(&self, app: &AppName, placed: &[Placed], unplaced: &[Unplaced], seen: &mut Vec<Seen>) {
        let own = || unplaced.iter().filter(|one| one.node.as_ref() == Some(self.node));
        let here = placed.iter().filter(|p| p.instance.app == *app);
        seen.extend(here.filter(|p| !is_kept(unplaced, p)).map(|p| self.placed(p)));
        seen.extend(own().filter(|u| u.instance.app == *app).map(|u| self.unplaced(u)));
        let prefix = format!("{app}/");
        let is_wanted = |name: &InstanceName| {
            placed.iter().any(|p| p.instance == *name) || own().any(|u| u.instance == *name)
        };
        let leaving = leftovers(self.view)
            .filter(|(name, _)| name.starts_with(&prefix))
            .filter_map(|(name, reported)| Some((InstanceName::parse(name).ok()?, reported)))
            .filter(|(name, _)| !is_wanted(name));
        seen.extend(leaving.map(|(name, reported)| self.leaving(name, reported)));
    }

    fn reported(&self, name: &InstanceName) -> Option<&InstanceStatus> {
        let name = name.to_string();
        self.view.status.as_ref()?.instances.iter().find(|status| status.instance == name)
    }

    fn blank(&self, name: &InstanceName) -> InstanceStatus {
        InstanceStatus {
            instance: name.to_string(),
            node: format!("{}/nodes/{}", self.project_name.parent(), self.node),
            phase: InstancePhase::Pending.into(),
            ..Default::default()
        }
    }

    fn with_node(&self, reported: &InstanceStatus) -> InstanceStatus {
        InstanceStatus {
            node: format!("{}/nodes/{}", self.project_name.parent(), self.node),
            ..reported.clone()
        }
    }

    fn placed(&self, placed: &Placed) -> Seen {
        let wanted_revision = placed.revision.to_string();
        let stored =
            self.project.state.previous.get(self.node).is_some_and(|previous| previous.contains(placed));
        let acknowledged = stored && self.view.has_acknowledged(&placed.instance);
        let refusal = self.view.status.as_deref().and_then(|status| refusal(status, placed));
        let mut status = match self.reported(&placed.instance) {
            Some(reported) => self.with_node(reported),
            None => InstanceStatus { revision: wanted_revision.clone(), ..self.blank(&placed.instance) },
        };
        status.gpus = gpus_of(&placed.gpus, &status);
        let is_current = status.revision == wanted_revision;
        if !self.connected {
            let node = self.node;
            not_ready(
                &mut status,
                "NodeDisconnected",
                format!(
                    "node {node} is not connected; what it runs runs on, and it converges when it returns"
                ),
            );
        } else if let Some((reason, message)) = refusal.filter(|_| acknowledged) {
            not_ready(&mut status, reason, format!("the node refused it: {message}"));
            if is_current {
                status.phase = InstancePhase::Failed.into();
            }
        } else if !stored {
            not_ready(
                &mut status,
                "NotAssigned",
                "placed, and not yet written to the node's assignment".to_owned(),
            );
        } else if !acknowledged {
            not_ready(
                &mut status,
                "NotAcknowledged",
                "assigned, and not yet acknowledged by the node".to_owned(),
            );
        } else if status.reason.is_empty() && self.reported(&placed.instance).is_none() {
            not_ready(
                &mut status,
                "NotReported",
                "acknowledged by the node, and nothing reported yet".to_owned(),
            );
        } else if !is_current {
            behind(&mut status);
        }
        let app = self.project.apps.get(&placed.instance.app);
        let current = app.is_some_and(|app| app.record.value.revision == wanted_revision);
        // It may run that very revision, with the configs that it had before.
        let taken = match status.rejected_revision == wanted_revision {
            true if acknowledged => Taken::Back,
            false if acknowledged && is_current => Taken::Runs,
            _ => Taken::Not,
        };
        status.ready &= taken != Taken::Back;
        let name = placed.instance.clone();
        Seen { taken, current, reached: Some(self.connected), ..fresh(name, status) }
    }

    fn unplaced(&self, unplaced: &Unplaced) -> Seen {
        let reported = self.reported(&unplaced.instance);
        let mut status = match reported {
            Some(reported) => self.with_node(reported),
            None => self.blank(&unplaced.instance),
        };
        if reported.is_some() && !unplaced.kept {
            status.phase = InstancePhase::Stopping.into();
        }
        let held = self.project.plan_of(self.node).into_iter().flatten();
        let held = held.filter(|placed| placed.instance == unplaced.instance);
        let held: Vec<GpuBooking> = held.flat_map(|placed| placed.gpus.clone()).collect();
        status.gpus = gpus_of(&held, &status);
        status.ready = false;
        unplaced.reason.word().clone_into(&mut status.reason);
        status.message = format!("{}{}", unplaced.reason, meanwhile(unplaced.kept, reported));
        Seen { reached: Some(self.connected), ..waiting(unplaced, status) }
    }

    fn leaving(&self, name: InstanceName, reported: Option<&InstanceStatus>) -> Seen {
        let mut status = reported.map_or_else(|| self.blank(&name), |reported| self.with_node(reported));
        status.phase = InstancePhase::Stopping.into();
        if self.connected && status.reason == ROLLED_BACK {
            // It runs again because what has none of it was taken back there: the node says so.
            status.phase = InstancePhase::Running.into();
            status.ready = false;
        } else if self.connected {
            not_ready(&mut status, "Removing", "no longer wanted on this node".to_owned());
        } else {
            let node = self.node;
            not_ready(
                &mut status,
                "NodeDisconnected",
                format!("no longer wanted, but node {node} is not connected: it stops when that returns"),
            );
        }
        Seen { wanted: false, reached: Some(self.connected), ..fresh(name, status) }
    }
}

/// One that is wanted, of which nothing more is known.
fn fresh(name: InstanceName, status: InstanceStatus) -> Seen {
    Seen { name, status, wanted: true, taken: Taken::Not, current: false, reached: None, end: End::Never }
}

/// One that could not be placed as wanted.
fn waiting(unplaced: &Unplaced, status: InstanceStatus) -> Seen {
    fresh(unplaced.instance.clone(), status)
}

/// One that none of several nodes takes.
fn nowhere_placed(unplaced: &Unplaced) -> Seen {
    let status = InstanceStatus {
        instance: unplaced.instance.to_string(),
        phase: InstancePhase::Pending.into(),
        reason: unplaced.reason.word().to_owned(),
        message: unplaced.reason.to_string(),
        ..InstanceStatus::default()
    };
    waiting(unplaced, status)
}

fn not_ready(status: &mut InstanceStatus, reason: &str, message: String) {
    status.ready = false;
    reason.clone_into(&mut status.reason);
    status.message = message;
}

/// Its former revision is there. The node says why it is not replaced, if it has begun with the successor; it is not ready as what is wanted.
fn behind(status: &mut InstanceStatus) {
    if status.reason.is_empty() {
        not_ready(status, "Updating", "the former revision still runs".to_owned());
    }
    status.ready = false;
}

/// What is there of an instance that cannot be placed as wanted.
fn meanwhile(kept: bool, reported: Option<&InstanceStatus>) -> &'static str {
    let runs = reported.is_some_and(|reported| reported.phase() == InstancePhase::Running);
    match (kept, runs) {
        (true, true) => "; the former revision runs on",
        (true, false) => "; the former revision stays assigned, and does not run",
        (false, _) => "",
    }
}

/// What the node refused of what an instance needs. An instance whose revision or config was refused is refused with it: that one says why.
fn refusal<'a>(status: &'a StatusRecord, placed: &Placed) -> Option<(&'a str, &'a str)> {
    let instance = format!("instances/{}", placed.instance);
    let revision = format!("revisions/{}/{}", placed.instance.app, placed.revision);
    let configs: Vec<String> =
        placed.configs.iter().map(|(name, hash)| format!("configs/{name}/{hash}")).collect();
    let secrets: Vec<String> =
        placed.secrets.iter().map(|(name, one)| format!("secrets/{name}/{}", one.version)).collect();
    let content = |name: &String| *name == revision || configs.contains(name) || secrets.contains(name);
    let of = |is: &dyn Fn(&String) -> bool| status.refused.iter().find(|refused| is(&refused.name));
    of(&content)
        .or_else(|| of(&|name| *name == instance))
        .map(|refused| (refused.reason.as_str(), refused.message.as_str()))
}

/// An app's status. `before` is the last one, for times of transitions.
pub(crate) fn status_of(
    world: &World,
    project_name: &ProjectName,
    project: &Project,
    app: &AppName,
    before: Option<&AppStatus>,
    now: SystemTime,
) -> AppStatus {
    let Some(view) = project.apps.get(app) else { return AppStatus::default() };
    let seen = instances(world, project_name, project, app);
    let names = view.spec.iter().flat_map(|spec| &spec.services).map(|service| service.name.clone());
    let services: Vec<ServiceStatus> = names
        .map(|service| {
            let counts = count(seen.iter().filter(|s| s.name.service.as_str() == service));
            ServiceStatus { service, counts: Some(counts) }
        })
        .collect();
    let counts = count(seen.iter());
    let clusters = clusters(project, &seen);
    let rollout = rollouts::status_of(world, project_name, project, app);
    let mut conditions = conditions(project, app, &counts, &seen, rollout.as_ref());
    for condition in &mut conditions {
        let last = before
            .iter()
            .flat_map(|b| &b.conditions)
            .find(|c| c.r#type == condition.r#type && c.status == condition.status);
        condition.last_transition_time =
            last.map_or_else(|| Some(time::to_timestamp(now)), |c| c.last_transition_time);
    }
    let problems =
        seen.into_iter().filter(|one| !is_done(one)).map(|one| one.status).take(PROBLEMS_MAX).collect();
    AppStatus {
        revision: view.record.value.revision.clone(),
        observed_generation: view.record.value.meta.as_ref().map_or(0, |meta| meta.generation),
        counts: Some(counts),
        services,
        conditions,
        problems,
        clusters,
        rollout,
    }
}

/// How the app stands in each cluster that nodes can be in: of one of its own the instances tell.
fn clusters(project: &Project, seen: &[Seen]) -> Vec<ClusterCounts> {
    let mut of: BTreeMap<&ClusterName, Vec<&Seen>> = BTreeMap::new();
    for one in seen.iter().filter(|one| project.state.clusters.contains_key(&one.name.cluster)) {
        of.entry(&one.name.cluster).or_default().push(one);
    }
    let counts = |(cluster, seen): (&ClusterName, Vec<&Seen>)| ClusterCounts {
        cluster: cluster.to_string(),
        counts: Some(count(seen.into_iter())),
    };
    of.into_iter().take(CLUSTERS_MAX).map(counts).collect()
}

pub(crate) fn count<'a>(seen: impl Iterator<Item = &'a Seen>) -> Counts {
    let mut counts = Counts::default();
    for one in seen {
        counts.desired += u32::from(one.wanted);
        let updated = one.wanted && one.updated();
        counts.updated += u32::from(updated);
        counts.running += u32::from(one.status.phase == i32::from(InstancePhase::Running));
        counts.ready += u32::from(updated && is_done(one));
    }
    counts
}

/// What to name first: what failed before what is under way.
fn severity(phase: InstancePhase) -> u8 {
    match phase {
        InstancePhase::Failed => 0,
        InstancePhase::Backoff => 1,
        InstancePhase::Running => 2,
        InstancePhase::Pending
        | InstancePhase::Preparing
        | InstancePhase::Stopped
        | InstancePhase::Unspecified => 3,
        InstancePhase::Stopping | InstancePhase::Completed => 4,
    }
}

/// Ready, or ended well and meant to end; of a job, only that.
fn is_done(one: &Seen) -> bool {
    (one.status.ready && one.end == End::Never) || one.status.phase() == InstancePhase::Completed
}

/// It has its turn in a run of a cron job that goes well: each run begins with a copy that is not ready, and that is nothing wrong.
fn is_in_run(one: &Seen) -> bool {
    let Some(job) = one.status.job.as_ref().filter(|_| one.end == End::Never) else { return false };
    let goes_ill = matches!(one.status.phase(), InstancePhase::Backoff | InstancePhase::Failed);
    job.state() == job_status::State::Active && !goes_ill
}

/// How the jobs of an app stand, where it has any: whether they are complete, and whether one has failed for good.
fn jobs(seen: &[Seen]) -> Option<[Condition; 2]> {
    let of_jobs: Vec<&Seen> = seen.iter().filter(|one| one.wanted && one.end == End::Success).collect();
    let failed = of_jobs.iter().filter(|one| one.updated()).find_map(|one| {
        let job = one.status.job.as_ref().filter(|job| job.state() == job_status::State::Failed)?;
        Some((one, job))
    });
    let done = of_jobs.iter().filter(|one| one.updated() && is_done(one)).count();
    let (complete, failed) = match failed {
        _ if of_jobs.is_empty() => return None,
        Some((one, JobStatus { reason, succeeded, completions, failures, .. })) => {
            let job = one.name.to_string();
            let job = job.rsplit_once('/').map_or(job.as_str(), |(job, _)| job);
            let message = format!(
                "job {job} has failed for good ({reason}): {succeeded} of {completions} succeeded, and there were {failures} failures"
            );
            (
                condition("Complete", false, reason, message.clone()),
                condition("Failed", true, reason, message),
            )
        }
        None => {
            let (all, message) = (
                done == of_jobs.len(),
                format!("{done} of {} instances of jobs have succeeded", of_jobs.len()),
            );
            let reason = if all { "JobsComplete" } else { "JobsUnderWay" };
            let none = condition("Failed", false, "NoJobFailed", "no job has failed for good".to_owned());
            (condition("Complete", all, reason, message), none)
        }
    };
    Some([complete, failed])
}

fn condition(name: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        r#type: name.to_owned(),
        status: if holds { condition::Status::True } else { condition::Status::False }.into(),
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
    }
}

fn conditions(
    project: &Project,
    app: &AppName,
    counts: &Counts,
    seen: &[Seen],
    rollout: Option<&RolloutStatus>,
) -> Vec<Condition> {
    let leaving = seen.iter().filter(|s| !s.wanted).count();
    let first = seen
        .iter()
        .filter(|s| s.wanted && !is_done(s))
        .map(|s| &s.status)
        .min_by_key(|status| severity(status.phase()));
    let available = match first {
        None if counts.desired == 0 => {
            let (reason, message) = nothing_wanted(project, app);
            condition("Available", false, reason, message)
        }
        // What waits for its turn is healthy in what it has, and that is not the current revision.
        None if counts.ready < counts.desired => {
            let message = rollout.map(|rollout| rollout.message.as_str()).unwrap_or_default();
            let message =
                format!("{} of {} instances are updated; {message}", counts.updated, counts.desired);
            condition("Available", false, rollout_reason(rollout), message)
        }
        None => condition(
            "Available",
            true,
            "AllReady",
            format!("{} of {} instances are ready", counts.ready, counts.desired),
        ),
        Some(problem) => {
            let (reason, why) = match problem.message.as_str() {
                "" if problem.reason.is_empty() => ("NotReady", "it is not ready yet"),
                "" => (problem.reason.as_str(), "it is not ready yet"),
                message => (problem.reason.as_str(), message),
            };
            let message = format!(
                "{} of {} instances are ready; {}: {why}",
                counts.ready, counts.desired, problem.instance
            );
            condition("Available", false, reason, message)
        }
    };
    let moving = counts.updated < counts.desired || leaving > 0 || counts.ready < counts.desired;
    let progressing = if moving {
        let message = format!(
            "{} of {} instances are updated, {leaving} are being removed",
            counts.updated, counts.desired
        );
        condition("Progressing", true, "Converging", message)
    } else {
        condition("Progressing", false, "Converged", "nothing is on its way".to_owned())
    };
    [available, progressing].into_iter().chain(jobs(seen).into_iter().flatten()).collect()
}

/// Why instances wait for the current revision, as one word.
fn rollout_reason(rollout: Option<&RolloutStatus>) -> &'static str {
    match rollout.map(RolloutStatus::phase) {
        Some(Phase::Paused) => "RolloutPaused",
        Some(Phase::RollingBack) => "RollingBack",
        _ => "RollingOut",
    }
}

mod gpus;
mod nothing;
#[cfg(test)]
mod tests;
