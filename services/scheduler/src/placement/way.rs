//! The way from an app to one instance, step by step.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use skerry_model::app::Program;
use skerry_model::meta::system_app_label;
use skerry_model::{AppName, ClusterName, NodeName, ServiceName};
use skerry_placement::{ClusterPlan, Reason};
use skerry_proto::scheduler::v1::step::Outcome;
use skerry_proto::scheduler::v1::{Explanation, RolloutStatus, Step};
use skerry_proto::types::v1::{ImageState, ImageStatus, InstancePhase};

use super::explain::{details_of, reason_of};
use crate::status::Seen;
use crate::world::{Project, World};

/// How many members a step tells of.
pub(super) const DETAILS_MAX: usize = 100;
/// How many bookings of GPUs it tells of.
const GPUS_NAMED_MAX: usize = 4;

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StepName {
    Selector,
    Rollout,
    Cluster,
    Member,
    Resources,
    Assignment,
    Image,
    Dependency,
    Runtime,
}

impl StepName {
    const ALL: [Self; 9] = [
        Self::Selector,
        Self::Rollout,
        Self::Cluster,
        Self::Member,
        Self::Resources,
        Self::Assignment,
        Self::Image,
        Self::Dependency,
        Self::Runtime,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::Rollout => "rollout",
            Self::Cluster => "cluster",
            Self::Member => "member",
            Self::Resources => "resources",
            Self::Assignment => "assignment",
            Self::Image => "image",
            Self::Dependency => "dependency",
            Self::Runtime => "runtime",
        }
    }

    /// Where a reason that a status tells belongs. What an agent says of neither image nor dependency is of the runtime.
    fn of_word(word: &str, phase: InstancePhase) -> Self {
        match word {
            "NodeDisconnected"
            | "NotAssigned"
            | "NotAcknowledged"
            | "NotReported"
            | "HashMismatch"
            | "InvalidSpec"
            | "InvalidConfig"
            | "InvalidName"
            | "RevisionMissing"
            | "ServiceMissing"
            | "UnknownResource"
            | "UnsupportedFeature"
            | "DesiredStateUnknown" => Self::Assignment,
            "ImagePullFailed"
            | "ImageMissing"
            | "ImageUnreadable"
            | "PlatformMismatch"
            | "RegistryUnauthorized"
            | "CredentialsUnreadable"
            | "ChecksumMismatch"
            | "PullProgress" => Self::Image,
            "WaitingForDependency" | "WaitingForTurn" => Self::Dependency,
            _ if phase == InstancePhase::Preparing => Self::Image,
            _ => Self::Runtime,
        }
    }

    /// Where a reason of placement belongs: to whether the member takes the service at all, or to what there is of what it needs.
    fn of_reason(reason: &Reason) -> Self {
        match reason {
            Reason::NoMemberFits { members } => {
                members.values().map(Self::of_reason).max().unwrap_or(Self::Member)
            }
            Reason::NoMatchingMember { .. }
            | Reason::NodeSelectorMismatch { .. }
            | Reason::NotChosen { .. }
            | Reason::ArchitectureMismatch { .. }
            | Reason::Tainted { .. }
            | Reason::NodeLost
            | Reason::NodeCordoned
            | Reason::JobElsewhere { .. } => Self::Member,
            Reason::ConfigMissing { .. }
            | Reason::SecretMissing { .. }
            | Reason::SecretUnreadable { .. }
            | Reason::NodeHasNoSealingKey { .. }
            | Reason::PortTaken { .. }
            | Reason::NodeFull { .. }
            | Reason::InsufficientCpu { .. }
            | Reason::InsufficientMemory { .. }
            | Reason::GpuMissing { .. }
            | Reason::GpuModel { .. }
            | Reason::GpuUnhealthy { .. }
            | Reason::GpuDivided
            | Reason::GpuProfile { .. }
            | Reason::GpuIsolation { .. }
            | Reason::GpuTaken { .. }
            | Reason::GpuCompute { .. }
            | Reason::GpuMemory { .. } => Self::Resources,
        }
    }
}

/// Where a way ends for now.
pub(super) struct Stop {
    pub(super) at: StepName,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) details: Vec<String>,
}

impl Stop {
    /// What placement says.
    pub(super) fn of_reason(reason: &Reason) -> Self {
        Self {
            at: StepName::of_reason(reason),
            reason: reason.word().to_owned(),
            message: reason.to_string(),
            details: details_of(reason),
        }
    }
}

/// A step of which nothing is told yet.
pub(super) fn step(name: StepName, outcome: Outcome) -> Step {
    Step { name: name.as_str().to_owned(), outcome: outcome.into(), ..Step::default() }
}

/// An app in one cluster.
pub(super) struct Place<'a> {
    pub(super) world: &'a World,
    pub(super) project: &'a Project,
    pub(super) app: &'a AppName,
    pub(super) cluster: &'a ClusterName,
    pub(super) plan: &'a ClusterPlan,
    pub(super) rollout: Option<&'a RolloutStatus>,
}

impl Place<'_> {
    /// The way to an instance.
    pub(super) fn explain(&self, one: &Seen) -> Explanation {
        let node = one.status.node.rsplit('/').next().and_then(|name| NodeName::parse(name).ok());
        let steps = if one.is_wanted() {
            self.steps_of(one, node.as_ref())
        } else {
            let removal = Step { name: "removal".to_owned(), ..step(StepName::Runtime, Outcome::Stopped) };
            let (reason, message) = (one.status.reason.clone(), one.status.message.clone());
            vec![Step { reason, message, ..removal }]
        };
        Explanation {
            instance: one.name.to_string(),
            service: one.name.service.to_string(),
            cluster: self.cluster.to_string(),
            node: one.status.node.clone(),
            steps,
        }
    }

    fn steps_of(&self, one: &Seen, node: Option<&NodeName>) -> Vec<Step> {
        let stop = match reason_of(self.plan, one) {
            Some(reason) => Some(Stop { message: one.status.message.clone(), ..Stop::of_reason(reason) }),
            None if one.is_well() => None,
            None => {
                let (word, said) = (one.status.reason.as_str(), one.status.message.as_str());
                Some(Stop {
                    at: StepName::of_word(word, one.status.phase()),
                    reason: if word.is_empty() { "NotReady" } else { word }.to_owned(),
                    message: if said.is_empty() { "it is not ready yet" } else { said }.to_owned(),
                    details: Vec::new(),
                })
            }
        };
        let mut steps = self.steps(&one.name.service, node, stop.as_ref());
        if let Some(last) = steps.last_mut().filter(|last| last.outcome() == Outcome::Passed) {
            let phase = one.status.phase().as_str_name().to_lowercase();
            last.message = match one.status.restarts {
                0 => phase,
                1 => format!("{phase}, restarted once"),
                restarts => format!("{phase}, restarted {restarts} times"),
            };
        }
        steps
    }

    /// All steps, up to where the way ends.
    pub(super) fn steps(
        &self,
        service: &ServiceName,
        node: Option<&NodeName>,
        stop: Option<&Stop>,
    ) -> Vec<Step> {
        let all = StepName::ALL.into_iter();
        let known = all.filter(|name| *name != StepName::Rollout || self.rollout.is_some());
        let made = known.map(|name| match stop {
            Some(stop) if name == stop.at => Step {
                reason: stop.reason.clone(),
                message: stop.message.clone(),
                details: stop.details.clone(),
                ..step(name, Outcome::Stopped)
            },
            Some(stop) if name > stop.at => step(name, Outcome::NotReached),
            Some(_) | None => Step { message: self.fact(name, service, node), ..step(name, Outcome::Passed) },
        });
        made.collect()
    }

    /// The selector does not match the cluster.
    pub(super) fn selector_stop(&self) -> Option<Stop> {
        let state = &self.project.state;
        let spec = &state.apps.get(self.app)?.wanted(self.cluster).spec;
        let labels = state.labels_of(self.cluster, self.plan.nodes.keys().next()?)?;
        if state.goes_to(self.cluster, self.plan, self.app, spec) {
            return None;
        }
        let (selector, place) = (&spec.selector, self.place());
        let (reason, message) = if spec.system {
            let label = system_app_label(self.app);
            (
                "NotChosen",
                format!("it is a system app, and {place} has no label `{label}`, nor does a member"),
            )
        } else {
            ("SelectorMismatch", format!("`{selector}` does not match {place}, which has {}", shown(labels)))
        };
        let reason = reason.to_owned();
        Some(Stop { at: StepName::Selector, reason, message, details: Vec::new() })
    }

    /// How far a node is with the image that a rollout brings to a service there, if it fetches one ahead.
    fn fetched_ahead(&self, node: Option<&NodeName>, service: &ServiceName) -> Option<String> {
        let node = node?;
        let coming = self.project.coming_image(self.app, service)?;
        let view = self.project.nodes.get(node)?;
        let (assigned, _) = view.assignment.as_ref()?;
        let assigned = assigned.images.iter().find(|one| one.image == coming)?;
        let reported = view.status.iter().flat_map(|status| &status.images).find(|one| one.id == assigned.id);
        Some(match reported.map(ImageStatus::state) {
            Some(ImageState::Present) => format!("the new one, {coming}, is there already"),
            Some(ImageState::Failed) => {
                let why = reported.map_or("", |one| one.message.as_str());
                format!("the new one could not be fetched ahead: {why}")
            }
            Some(ImageState::Fetching | ImageState::Waiting | ImageState::Unspecified) | None => {
                format!("the new one, {coming}, is being fetched ahead")
            }
        })
    }

    /// What instances of a service have of a node's GPUs: `all of GPU-1, 25 % of GPU-2 (mps)`.
    fn gpus_of(&self, service: &ServiceName, node: Option<&NodeName>) -> String {
        let placed = node.and_then(|node| self.plan.nodes.get(node)).into_iter().flatten();
        let own = placed.filter(|one| one.instance.app == *self.app && one.instance.service == *service);
        let gpus: Vec<String> = own.flat_map(|one| &one.gpus).map(ToString::to_string).collect();
        skerry_model::few(&gpus, GPUS_NAMED_MAX)
    }

    /// `cluster c`, or `node n` of one that is in none.
    fn place(&self) -> String {
        let is_one = self.project.state.clusters.contains_key(self.cluster);
        let kind = if is_one { "cluster" } else { "node" };
        format!("{kind} {}", self.cluster)
    }

    /// What is to be said of a step that is done.
    fn fact(&self, name: StepName, service: &ServiceName, node: Option<&NodeName>) -> String {
        let state = &self.project.state;
        let Some(wanted) = state.apps.get(self.app).map(|app| app.wanted(self.cluster)) else {
            return String::new();
        };
        let Some(service) = wanted.spec.service(service) else { return String::new() };
        let node_name = node.map_or("", NodeName::as_str);
        match name {
            StepName::Selector if wanted.spec.system => {
                format!("a system app, which goes to {} by its selector or its label", self.place())
            }
            StepName::Selector if wanted.spec.selector.is_empty() => {
                format!("the app has none, and goes to every cluster: {}", self.place())
            }
            StepName::Selector => format!("`{}` matches {}", wanted.spec.selector, self.place()),
            StepName::Rollout => {
                let revision = wanted.revision.to_string();
                let is_new = self.rollout.is_some_and(|rollout| rollout.to_revision == revision);
                let which = if is_new { "new" } else { "former" };
                format!("the cluster has its turn in the {which} revision, {}", wanted.revision.short())
            }
            StepName::Cluster => {
                let members = self.plan.nodes.keys();
                let views = members.clone().filter_map(|node| self.project.nodes.get(node));
                let connected = views.filter(|view| self.world.is_connected(view)).count();
                let is_one = state.clusters.contains_key(self.cluster);
                match (is_one, members.len()) {
                    (false, _) => "the node is in none, and so is one of its own".to_owned(),
                    (true, 1) => format!("one member, {connected} connected"),
                    (true, members) => format!("{members} members, {connected} connected"),
                }
            }
            StepName::Member => format!("node {node_name}"),
            StepName::Resources => {
                let room = node.map(|node| state.room(&self.project.solution, node)).unwrap_or_default();
                let booked = amounts(service.booked().cpu_millis, service.booked().memory_bytes);
                let free = amounts(room.cpu_millis, room.memory_bytes);
                let mut said = format!("{} booked", booked.as_deref().unwrap_or("nothing is"));
                let gpus = self.gpus_of(&service.name, node);
                if !gpus.is_empty() {
                    let _ = write!(said, ", with {gpus}");
                }
                if let Some(free) = free {
                    let _ = write!(said, "; {free} left on node {node_name}");
                }
                said
            }
            StepName::Assignment => format!("node {node_name} has acknowledged it"),
            StepName::Image => match &service.program {
                Program::Container(container) => match self.fetched_ahead(node, &service.name) {
                    Some(ahead) => format!("{}; {ahead}", container.image),
                    None => container.image.clone(),
                },
                Program::Process(_) => "a process, which needs none".to_owned(),
            },
            StepName::Dependency if service.depends_on.is_empty() => "none".to_owned(),
            StepName::Dependency => {
                let peers = node.map(|node| self.project.peers_of(node)).unwrap_or_default();
                let app = peers.iter().find(|peers| peers.app == self.app.as_str());
                let elsewhere = |name: &str| {
                    let one = app.iter().flat_map(|app| &app.services).find(|one| one.service == name);
                    let members = one.map(|one| &one.members).into_iter().flatten();
                    members.map(|member| member.node.as_str()).collect::<Vec<_>>().join(", ")
                };
                let named = |dependency: &skerry_model::app::Dependency| {
                    let name = dependency.service.as_str();
                    let members = elsewhere(name);
                    if members.is_empty() { name.to_owned() } else { format!("{name} (on {members})") }
                };
                service.depends_on.iter().map(named).collect::<Vec<_>>().join(", ")
            }
            StepName::Runtime => "ready".to_owned(),
        }
    }
}

fn shown(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "no labels".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// `cpu 0.25 and memory 64Mi`, as far as it is said.
fn amounts(cpu_millis: Option<u64>, memory_bytes: Option<u64>) -> Option<String> {
    let cpu = cpu_millis.map(|cpu| format!("cpu {cpu}m"));
    let memory = memory_bytes.map(|memory| format!("memory {}Mi", memory >> 20));
    let said: Vec<String> = cpu.into_iter().chain(memory).collect();
    (!said.is_empty()).then(|| said.join(" and "))
}
