//! What leaves the nodes that are drained, and when: as many copies at once as their services bear to be without.

use std::collections::BTreeSet;

use skerry_model::app::{Failover, Kind, ServiceSpec};
use skerry_model::{InstanceName, NodeName, ProjectName};
use skerry_placement::{Delta, Node};
use skerry_proto::types::v1::{InstancePhase, job_status};

use super::{Project, Touched, World};
use crate::status::{self, Seen};

impl World {
    /// Takes off the nodes that are drained what may leave them now; answers whether anything does.
    pub(crate) fn drain(&mut self, touched: &mut Touched) -> bool {
        let drained = |(name, project): (&ProjectName, &Project)| -> Vec<(ProjectName, NodeName)> {
            project.drained.iter().map(|node| (name.clone(), node.clone())).collect()
        };
        let nodes: Vec<_> = self.projects.iter().flat_map(drained).collect();
        let mut any = false;
        for (project, node) in nodes {
            any |= self.drain_node(&project, &node, touched);
        }
        any
    }

    fn drain_node(&mut self, name: &ProjectName, node: &NodeName, touched: &mut Touched) -> bool {
        let Some(project) = self.projects.get(name) else { return false };
        let Some(known) = project.state.nodes.get(node) else { return false };
        let leaving = self.leaving(name, project, node);
        if leaving == known.leaving {
            return false;
        }
        let delta = Delta::Node(node.clone(), Some(Node { leaving, ..known.clone() }));
        self.project_mut(name).change(name, delta, None, touched);
        true
    }

    /// What leaves a node: what left it already and is still assigned to it, and of the rest what may.
    fn leaving(&self, name: &ProjectName, project: &Project, node: &NodeName) -> BTreeSet<InstanceName> {
        let state = &project.state;
        let Some(known) = state.nodes.get(node) else { return BTreeSet::new() };
        let assigned = state.previous.get(node).into_iter().flatten().map(|placed| &placed.instance);
        let mut leaving: BTreeSet<InstanceName> =
            assigned.filter(|one| known.leaving.contains(*one)).cloned().collect();
        let cluster = state.cluster_of(node);
        let Some(plan) = project.solution.get(&cluster) else { return leaving };
        let connected = project.nodes.get(node).is_some_and(|view| self.is_connected(view));
        let mut seen: Vec<Seen> = Vec::new();
        let here = plan.nodes.get(node).into_iter().flatten().map(|placed| &placed.instance);
        for instance in here.filter(|one| !known.leaving.contains(*one)) {
            let Some(wanted) = state.apps.get(&instance.app).map(|app| app.wanted(&cluster)) else {
                continue;
            };
            let Some(service) = wanted.spec.service(&instance.service) else { continue };
            if seen.first().is_none_or(|one| one.name.app != instance.app) {
                seen = status::instances_in(self, name, project, &instance.app, (&cluster, plan));
            }
            if may_leave(service, instance, &seen, &leaving, connected) {
                leaving.insert(instance.clone());
            }
        }
        leaving
    }
}

/// Whether an instance may leave, beside those that do.
fn may_leave(
    service: &ServiceSpec,
    instance: &InstanceName,
    seen: &[Seen],
    leaving: &BTreeSet<InstanceName>,
    connected: bool,
) -> bool {
    let itself = seen.iter().find(|one| one.name == *instance && one.is_wanted());
    let same = |one: &&Seen| one.is_wanted() && one.name.service == instance.service;
    match &service.kind {
        // One on each, and what ends by itself.
        Kind::DaemonSet | Kind::Job(_) => false,
        // Between two runs.
        Kind::CronJob(_) => !seen.iter().filter(same).any(|one| {
            let running = matches!(one.status.phase(), InstancePhase::Running | InstancePhase::Stopping);
            let active = one.status.job.as_ref().is_some_and(|job| job.state() == job_status::State::Active);
            running || active
        }),
        Kind::Deployment { replicas } => {
            // It may run on there for as long as nobody reaches the node.
            if !connected && service.placing.failover == Failover::Never {
                return false;
            }
            let Some(share) = service.placing.max_unavailable else { return true };
            // What is not well anyway makes nothing worse.
            if itself.is_some_and(|one| !one.is_well()) {
                return true;
            }
            let most = share.at_least_one_of(usize::try_from(*replicas).unwrap_or(usize::MAX));
            let without =
                seen.iter().filter(same).filter(|one| !one.is_well() || leaving.contains(&one.name));
            without.count() < most
        }
    }
}
