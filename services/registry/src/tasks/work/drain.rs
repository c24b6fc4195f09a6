//! A cluster is drained: each member is a step. First all are cordoned, so that what leaves one does not go to the next; then one after the
//! other is drained, and its end is waited for.
//!
//! What may leave, and how much at once, is the scheduler's to say. Here it is only seen whether all that leaves has left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use skerry_api::{Update, update_for};
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{
    AppRef, Code, ContentHash, Fault, InstanceName, NodeName, NodeRef, ProjectName, RevisionRef, few,
};
use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::service_spec::Kind;
use skerry_proto::types::v1::{AppSpec, InstancePhase, InstanceStatus, Metadata};
use skerry_store::Key;

use super::{Did, Env, Hands};

/// Between two looks at a member that is drained.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Instances that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;

/// Which cluster, and what was read of the services that its members run.
pub(in crate::tasks) struct Drain {
    project: ProjectName,
    cluster: String,
    /// By app and revision, then by service.
    kinds: BTreeMap<(String, String), BTreeMap<String, Leaves>>,
}

/// When an instance of a service leaves a node that is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// Never: it is one on each node.
    Never,
    /// At its own end.
    AtItsEnd,
    /// As soon as it may.
    Yes,
}

impl Drain {
    pub(super) fn new(project: &ProjectName, wanted: &stored::DrainClusterRecord) -> Self {
        Self { project: project.clone(), cluster: wanted.cluster.clone(), kinds: BTreeMap::new() }
    }

    pub(super) fn steps(&self, env: &Env) -> BTreeSet<String> {
        let nodes = env.shared.nodes.snapshot();
        let below = format!("{}/nodes/", self.project.parent());
        let of_project = nodes.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        let members = of_project.filter(|(_, node)| {
            let labels = node.metadata.as_ref().map(|metadata| &metadata.labels);
            labels.and_then(|labels| labels.get(CLUSTER_LABEL)) == Some(&self.cluster)
        });
        members.map(|(name, _)| name[below.len()..].to_owned()).collect()
    }

    pub(super) async fn cordon(&self, members: &[String], hands: &Hands<'_>) -> Result<(), Fault> {
        for member in members {
            let spec = NodeSpec { cordoned: true, ..NodeSpec::default() };
            let name = self.name(member)?;
            match set(&name, spec, &["spec.cordoned"], hands, hands.held).await {
                Ok(_) => {}
                Err(fault) if fault.code == Code::NotFound => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    pub(super) async fn step(&mut self, step: &str, begun: bool, hands: &Hands<'_>) -> Result<Did, Fault> {
        let name = self.name(step)?;
        let read = hands.env.store.get(&Key::<stored::NodeRecord>::of(&name)).await?;
        let is_member = |record: &stored::NodeRecord| {
            let labels = record.meta.as_ref().map(|meta| &meta.labels);
            labels.and_then(|labels| labels.get(CLUSTER_LABEL)) == Some(&self.cluster)
        };
        // One that is gone, or left the cluster, is nothing of it any more.
        let Some(record) = read.map(|read| read.value).filter(is_member) else {
            return Ok(Did::Done { written: false });
        };
        if !begun {
            let spec = NodeSpec { cordoned: true, drain: true, ..NodeSpec::default() };
            return match set(&name, spec, &["spec.cordoned", "spec.drain"], hands, hands.begun).await {
                Ok(written) => Ok(Did::Begun { written }),
                Err(fault) if fault.code == Code::NotFound => Ok(Did::Done { written: false }),
                Err(fault) => Err(fault),
            };
        }
        if !record.drain {
            let message = "somebody gave it work again while it was drained (skerry uncordon)";
            return Err(Fault::new(Code::FailedPrecondition, "UNCORDONED", message));
        }
        let left = self.left(&name, hands.env).await?;
        Ok(match left.as_slice() {
            [] => Did::Done { written: false },
            [one] => Did::Waits(format!("{step}: 1 instance has not left yet: {one}"), LOOK_AGAIN),
            many => {
                let named = few(many, NAMED_MAX);
                Did::Waits(format!("{step}: {} instances have not left yet: {named}", many.len()), LOOK_AGAIN)
            }
        })
    }

    fn name(&self, member: &str) -> Result<NodeRef, Fault> {
        Ok(NodeRef { project: self.project.clone(), node: NodeName::parse(member)? })
    }

    /// What is still to leave a node.
    async fn left(&mut self, node: &NodeRef, env: &Env) -> Result<Vec<String>, Fault> {
        let snapshot = env.shared.mirror.snapshot();
        let assignment = snapshot.get(&Key::<stored::AssignmentRecord>::of(node)).ok().flatten();
        let assigned = assignment.map(|read| read.value.instances).unwrap_or_default();
        let status = snapshot.get(&Key::<stored::StatusRecord>::of(node)).ok().flatten();
        let reported = status.map(|read| read.value.instances).unwrap_or_default();
        let seen = env.shared.nodes.get(&node.to_string());
        let connected =
            seen.and_then(|node| node.status.as_ref()?.connection.as_ref().map(|one| one.connected));
        let mut kinds = Vec::with_capacity(assigned.len());
        for one in &assigned {
            kinds.push((one.instance.as_str(), self.leaves(&node.project, one, env).await?));
        }
        Ok(still_there(&kinds, &reported, connected == Some(true)))
    }

    /// When an instance leaves. One of which nothing is known leaves as soon as it may.
    async fn leaves(
        &mut self,
        project: &ProjectName,
        instance: &stored::AssignedInstance,
        env: &Env,
    ) -> Result<Leaves, Fault> {
        let Ok(name) = InstanceName::parse(&instance.instance) else { return Ok(Leaves::Yes) };
        let of = (name.app.to_string(), instance.revision.clone());
        if !self.kinds.contains_key(&of) {
            let Ok(hash) = ContentHash::parse(&instance.revision) else { return Ok(Leaves::Yes) };
            let app = AppRef { project: project.clone(), app: name.app.clone() };
            let read = env.store.get(&Key::<stored::RevisionRecord>::of(&RevisionRef { app, hash })).await?;
            let spec = read.and_then(|read| AppSpec::decode(read.value.spec.as_ref()).ok());
            self.kinds.insert(of.clone(), kinds_of(&spec.unwrap_or_default()));
        }
        let kind = self.kinds.get(&of).and_then(|services| services.get(name.service.as_str()));
        Ok(kind.copied().unwrap_or(Leaves::Yes))
    }
}

/// Changes what operators say of a node; answers whether anything was written.
async fn set(
    name: &NodeRef,
    spec: NodeSpec,
    paths: &[&str],
    hands: &Hands<'_>,
    beside: skerry_api::Beside<'_>,
) -> Result<bool, Fault> {
    let metadata = Metadata { name: name.to_string(), ..Metadata::default() };
    let node = Node { metadata: Some(metadata), spec: Some(spec), status: None };
    let mask = prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    let update =
        Update { resource: Some(&node), mask: Some(&mask), allow_missing: false, validate_only: false };
    let (_, outcome) = update_for(&hands.env.nodes, hands.caused.clone(), update, beside).await?;
    Ok(outcome == Outcome::Updated)
}

fn kinds_of(spec: &AppSpec) -> BTreeMap<String, Leaves> {
    let of = |kind: Option<&Kind>| match kind {
        Some(Kind::DaemonSet(_)) => Leaves::Never,
        Some(Kind::Job(_)) => Leaves::AtItsEnd,
        _ => Leaves::Yes,
    };
    spec.services.iter().map(|service| (service.name.clone(), of(service.kind.as_ref()))).collect()
}

/// What of the instances that a node is assigned, or reports though it is not, is still to leave it: pure. What was reported by a node that
/// nobody reaches says nothing of what it is not assigned any more.
fn still_there(assigned: &[(&str, Leaves)], reported: &[InstanceStatus], connected: bool) -> Vec<String> {
    let phase = |name: &str| reported.iter().find(|one| one.instance == name).map(InstanceStatus::phase);
    let over = |phase| matches!(phase, InstancePhase::Completed | InstancePhase::Failed);
    let mut left: Vec<String> = assigned
        .iter()
        .filter(|(name, leaves)| match leaves {
            Leaves::Never => false,
            Leaves::AtItsEnd => {
                phase(name).is_some_and(|phase| !over(phase) && phase != InstancePhase::Pending)
            }
            Leaves::Yes => true,
        })
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let is_assigned = |name: &str| assigned.iter().any(|(assigned, _)| *assigned == name);
    let stopping =
        reported.iter().filter(|one| connected && !is_assigned(&one.instance) && !over(one.phase()));
    left.extend(stopping.map(|one| one.instance.clone()));
    left.sort();
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(name: &str, phase: InstancePhase) -> InstanceStatus {
        InstanceStatus { instance: name.to_owned(), phase: phase.into(), ..InstanceStatus::default() }
    }

    #[test]
    fn what_leaves_is_there_until_it_has_stopped() {
        let assigned = [("a/web/c/0", Leaves::Yes), ("a/each/n1/0", Leaves::Never)];
        let running =
            [reports("a/web/c/0", InstancePhase::Running), reports("a/each/n1/0", InstancePhase::Running)];
        assert_eq!(still_there(&assigned, &running, true), ["a/web/c/0"]);
        // It is assigned elsewhere already, and stops here.
        assert_eq!(still_there(&assigned[1..], &running, true), ["a/web/c/0"]);
        assert!(still_there(&assigned[1..], &running, false).is_empty(), "nobody knows");
        assert!(still_there(&assigned[1..], &running[1..], true).is_empty());
    }

    #[test]
    fn a_job_is_there_while_it_runs() {
        let job = [("a/job/c/0", Leaves::AtItsEnd)];
        let left = |phase| still_there(&job, &[reports("a/job/c/0", phase)], true).len();
        assert_eq!((left(InstancePhase::Running), left(InstancePhase::Completed)), (1, 0));
        assert_eq!((left(InstancePhase::Failed), left(InstancePhase::Pending)), (0, 0));
        assert!(still_there(&job, &[], true).is_empty());
    }
}
