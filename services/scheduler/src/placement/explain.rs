//! `ExplainApp`: the way to each instance of an app, and why a node has none of a service.

use skerry_model::app::Kind;
use skerry_model::{AppRef, Fault, NodeRef, ServiceName};
use skerry_placement::{ClusterPlan, Reason};
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::scheduler::v1::step::Outcome;
use skerry_proto::scheduler::v1::{ExplainAppResponse, Explanation, RolloutStatus, Step};

use super::way::{Place, StepName, Stop, step};
use crate::rollouts;
use crate::status::{self, Seen};
use crate::world::World;

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) app: &'a AppRef,
    pub(super) node: Option<&'a NodeRef>,
    pub(super) stopped_only: bool,
    pub(super) size: usize,
    /// The token of the page before, or nothing.
    pub(super) after: &'a str,
}

pub(super) fn explain(world: &World, asked: &Asked<'_>) -> Result<ExplainAppResponse, Fault> {
    let AppRef { project: name, app } = asked.app;
    let project = world.project(name).ok_or_else(|| Fault::not_found(asked.app))?;
    if !project.apps.contains_key(app) {
        return Err(Fault::not_found(asked.app));
    }
    if let Some(node) = asked.node.filter(|node| !project.state.nodes.contains_key(&node.node)) {
        return Err(Fault::not_found(node));
    }
    let rollout = rollouts::status_of(world, name, project, app);
    let place = |cluster, plan| Place { world, project, app, cluster, plan, rollout: rollout.as_ref() };
    let only = asked.node.map(|node| project.state.cluster_of(&node.node));
    let mut all = Vec::new();
    let mut seen_everywhere = Vec::new();
    for (cluster, plan) in &project.solution {
        let seen = status::instances_in(world, name, project, app, (cluster, plan));
        if only.as_ref().is_none_or(|only| only == cluster) {
            let place = place(cluster, plan);
            let here = seen.iter().filter(|one| is_asked(asked, one));
            all.extend(here.map(|one| place.explain(one)));
            if let Some(node) = asked.node {
                all.extend(absent(&place, node, &seen));
            }
        }
        seen_everywhere.extend(seen);
    }
    if asked.stopped_only {
        all.retain(is_stopped);
    }
    all.sort_by_cached_key(token);
    let mut rest = all.into_iter().filter(|one| token(one).as_str() > asked.after).peekable();
    let explanations: Vec<Explanation> = rest.by_ref().take(asked.size).collect();
    let next_page_token = match (rest.peek(), explanations.last()) {
        (Some(_), Some(last)) => token(last),
        _ => String::new(),
    };
    let mut steps = vec![selector_step(world, asked, &seen_everywhere)];
    steps.extend(rollout.as_ref().map(rollout_step));
    let counts = Some(status::count(seen_everywhere.iter()));
    Ok(ExplainAppResponse { steps, counts, explanations, next_page_token })
}

/// On the node that is asked for, or on none.
fn is_asked(asked: &Asked<'_>, one: &Seen) -> bool {
    asked.node.is_none_or(|node| one.status.node.is_empty() || one.status.node == node.to_string())
}

fn is_stopped(one: &Explanation) -> bool {
    one.steps.iter().any(|step| step.outcome() == Outcome::Stopped)
}

/// By what explanations are in order, and pages go on.
fn token(one: &Explanation) -> String {
    format!("{}/{} {} {}", one.cluster, one.service, one.instance, one.node)
}

/// Why a node has nothing of the services of which it has nothing and nothing is waited for.
fn absent(place: &Place<'_>, node: &NodeRef, seen: &[Seen]) -> Vec<Explanation> {
    let Some(app) = place.project.state.apps.get(place.app) else { return Vec::new() };
    let wanted = app.wanted(place.cluster);
    let name = node.to_string();
    let mut explained = Vec::new();
    for service in &wanted.spec.services {
        let mut of = seen.iter().filter(|one| one.name.service == service.name);
        if of.any(|one| one.status.node == name || one.status.node.is_empty()) {
            continue;
        }
        let stop = why_absent(place, node, &service.name, &service.kind, seen);
        explained.push(Explanation {
            instance: String::new(),
            service: service.name.to_string(),
            cluster: place.cluster.to_string(),
            node: name.clone(),
            steps: place.steps(&service.name, Some(&node.node), Some(&stop)),
        });
    }
    explained
}

fn why_absent(place: &Place<'_>, node: &NodeRef, service: &ServiceName, kind: &Kind, seen: &[Seen]) -> Stop {
    let state = &place.project.state;
    if let Some(stop) = place.selector_stop() {
        return stop;
    }
    if let Some(reason) = state.refusal(&place.project.solution, place.app, service, &node.node) {
        return Stop::of_reason(&reason);
    }
    let nodes: Vec<&str> = seen
        .iter()
        .filter(|one| one.name.service == *service)
        .filter_map(|one| one.status.node.rsplit('/').next())
        .filter(|node| !node.is_empty())
        .collect();
    let (reason, message) = match kind {
        Kind::Deployment { replicas: 0 } => ("NoReplicas", "no instance of it is wanted".to_owned()),
        _ if nodes.is_empty() => ("NotPlaced", "it is not placed yet".to_owned()),
        _ => {
            let nodes = nodes.join(", ");
            ("PlacedElsewhere", format!("the node would take it, and all that are wanted are on {nodes}"))
        }
    };
    Stop { at: StepName::Member, reason: reason.to_owned(), message, details: Vec::new() }
}

fn selector_step(world: &World, asked: &Asked<'_>, seen: &[Seen]) -> Step {
    let AppRef { project: name, app } = asked.app;
    let name_of = StepName::Selector;
    let Some(project) = world.project(name) else { return step(name_of, Outcome::Stopped) };
    if !seen.iter().any(Seen::is_wanted) {
        let (reason, message) = status::nothing_wanted(project, app);
        return Step { reason: reason.to_owned(), message, ..step(name_of, Outcome::Stopped) };
    }
    let matched = project.solution.iter().filter(|(cluster, plan)| {
        let spec = project.state.apps.get(app).map(|app| &app.wanted(cluster).spec);
        spec.is_some_and(|spec| project.state.goes_to(cluster, plan, app, spec))
    });
    let message = format!("goes to {} of {} clusters", matched.count(), project.solution.len());
    Step { message, ..step(name_of, Outcome::Passed) }
}

fn rollout_step(rollout: &RolloutStatus) -> Step {
    let stopped = rollout.phase() == Phase::Paused;
    let outcome = if stopped { Outcome::Stopped } else { Outcome::Passed };
    let reason = if stopped { "RolloutPaused" } else { "" };
    Step { reason: reason.to_owned(), message: rollout.message.clone(), ..step(StepName::Rollout, outcome) }
}

/// The reasons of all members, if there are several.
pub(super) fn details_of(reason: &Reason) -> Vec<String> {
    let Reason::NoMemberFits { members } = reason else { return Vec::new() };
    members.iter().take(super::way::DETAILS_MAX).map(|(member, why)| format!("{member}: {why}")).collect()
}

/// Why an instance has no place, as its cluster's plan says.
pub(super) fn reason_of<'a>(plan: &'a ClusterPlan, one: &Seen) -> Option<&'a Reason> {
    let of = plan.unplaced.iter().find(|unplaced| unplaced.instance == one.name);
    of.map(|unplaced| &unplaced.reason)
}
