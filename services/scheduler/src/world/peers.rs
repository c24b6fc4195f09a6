//! What a node is told of services on other members of its cluster: who has them, at which address, and whether what waits for them here may begin.
//!
//! Pure, from plans, specs and what nodes reported. What each cluster has of its apps is kept ([`Project::look_at_peers`] brings it in step with a change);
//! what one node is told of it is read off. A node that is a cluster of its own is told nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use prost::Message as _;
use skerry_model::app::{DependencyCondition, NetworkMode, Port, Program, ServiceSpec};
use skerry_model::{AppName, ClusterName, ContentHash, NodeName, ServiceName};
use skerry_placement::{ClusterPlan, Delta, Placed, Wanted};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::InstancePhase;
use skerry_proto::types::v1::dependency::Condition;

use super::Project;
use crate::writes;

/// Most members that a node is told of one service. Who asks for a name tries a few addresses, not a thousand.
const MEMBERS_MAX: usize = 16;
/// Most bytes of an assignment with what it tells of other members, and of images: below the 64 KiB that the store allows.
pub(super) const ASSIGNMENT_BYTES_MAX: usize = 60 * 1024;

/// What a cluster has of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppPeers {
    revision: ContentHash,
    services: BTreeMap<ServiceName, ServicePeers>,
}

/// Who has a service that others reach or wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePeers {
    reached: bool,
    /// At which address, where it is reached.
    members: BTreeMap<NodeName, Option<IpAddr>>,
    /// Who waits for it, and for what.
    waiting: BTreeMap<ServiceName, BTreeSet<Condition>>,
    /// What of that is so now.
    met: BTreeSet<Condition>,
}

#[cfg(test)]
impl ServicePeers {
    /// Nobody waits for it.
    pub(super) fn of(reached: bool, members: BTreeMap<NodeName, Option<IpAddr>>) -> Self {
        Self { reached, members, waiting: BTreeMap::new(), met: BTreeSet::new() }
    }
}

#[cfg(test)]
impl AppPeers {
    pub(super) fn of(revision: ContentHash, services: BTreeMap<ServiceName, ServicePeers>) -> Self {
        Self { revision, services }
    }

    /// Whether it is the same but for what is met, and of that no less.
    pub(super) fn knows_no_less(&self, other: &Self) -> bool {
        let unmet = |peers: &Self| {
            let mut peers = peers.clone();
            peers.services.values_mut().for_each(|one| one.met.clear());
            peers
        };
        let met = |(name, one): (&ServiceName, &ServicePeers)| one.met.is_subset(&self.services[name].met);
        unmet(self) == unmet(other) && other.services.iter().all(met)
    }
}

impl AppPeers {
    /// What a member with these instances is told. `before`: what it was told of this app; what was met of the same revision stays so.
    pub(super) fn told(
        &self,
        app: &AppName,
        placed: &[Placed],
        before: Option<&stored::AssignedPeers>,
        most: usize,
    ) -> Option<stored::AssignedPeers> {
        let of_app = || placed.iter().filter(|placed| placed.instance.app == *app);
        let has = |service: &ServiceName| of_app().any(|placed| placed.instance.service == *service);
        let revision = self.revision.to_string();
        let before = before.filter(|before| before.revision == revision);
        let was_met = |service: &ServiceName, condition: Condition| {
            let services = before.into_iter().flat_map(|before| &before.services);
            let mut of_service = services.filter(|one| one.service == service.as_str());
            of_service.any(|one| one.met.contains(&condition.into()))
        };
        let told = |(name, one): (&ServiceName, &ServicePeers)| {
            let waited: BTreeSet<Condition> = one
                .waiting
                .iter()
                .filter(|(waits, _)| has(waits))
                .flat_map(|(_, conditions)| conditions.iter().copied())
                .collect();
            if has(name) || (waited.is_empty() && !one.reached) {
                return None;
            }
            let met = waited
                .into_iter()
                .filter(|condition| one.met.contains(condition) || was_met(name, *condition));
            let member = |(node, address): (&NodeName, &Option<IpAddr>)| stored::AssignedPeer {
                node: node.to_string(),
                address: address.map(|address| address.to_string()).unwrap_or_default(),
            };
            Some(stored::AssignedPeerService {
                service: name.to_string(),
                met: met.map(i32::from).collect(),
                members: one.members.iter().take(most).map(member).collect(),
            })
        };
        let services: Vec<_> = self.services.iter().filter_map(told).collect();
        (!services.is_empty()).then(|| stored::AssignedPeers { app: app.to_string(), revision, services })
    }
}

/// What each cluster has of its apps.
pub(super) type ClusterPeers = BTreeMap<ClusterName, BTreeMap<AppName, AppPeers>>;

/// What a change is about, of that which is told of other members.
pub(super) struct Concerned {
    clusters: BTreeSet<ClusterName>,
    /// None: all.
    apps: Option<BTreeSet<AppName>>,
}

impl Project {
    /// What a node is to be told of other members of its cluster.
    pub(crate) fn peers_of(&self, node: &NodeName) -> Vec<stored::AssignedPeers> {
        let Some(apps) = self.peers.get(&self.state.cluster_of(node)) else { return Vec::new() };
        let placed = self.plan_of(node).unwrap_or_default();
        let record = self.nodes.get(node).and_then(|view| view.assignment.as_ref());
        let before = |app: &AppName| {
            let mut told = record.into_iter().flat_map(|(record, _)| &record.peers);
            told.find(|told| told.app == app.as_str())
        };
        let here: BTreeSet<&AppName> = placed.iter().map(|placed| &placed.instance.app).collect();
        let told = |most: usize| -> Vec<stored::AssignedPeers> {
            let of = |app: &&AppName| apps.get(*app)?.told(app, placed, before(app), most);
            here.iter().filter_map(of).collect()
        };
        let size =
            |told: &[stored::AssignedPeers]| told.iter().map(|one| one.encoded_len() + 4).sum::<usize>();
        let full = told(MEMBERS_MAX);
        // Looked at closely only where it could matter.
        if size(&full) <= ASSIGNMENT_BYTES_MAX / 16 {
            return full;
        }
        let room = ASSIGNMENT_BYTES_MAX.saturating_sub(writes::record(placed).encoded_len());
        let fewer = [MEMBERS_MAX, 4, 1, 0].into_iter().map(told);
        let mut fitting = fewer.skip_while(|told| size(told) > room);
        fitting.next().unwrap_or_default()
    }

    /// Which clusters and apps a change is about, before it is made.
    pub(super) fn concerned(&self, delta: &Delta) -> Concerned {
        let cluster_of = |node: &NodeName| [self.state.cluster_of(node)].into();
        match delta {
            // Nobody has others yet; a cluster that comes is looked at whole.
            Delta::Node(..) | Delta::Previous(..) | Delta::App(..) if self.state.clusters.is_empty() => {
                Concerned { clusters: BTreeSet::new(), apps: None }
            }
            Delta::Node(node, _) => Concerned { clusters: cluster_of(node), apps: None },
            Delta::Cluster(cluster, _) => Concerned { clusters: [cluster.clone()].into(), apps: None },
            Delta::Previous(node, placed) => {
                let stored = self.state.previous.get(node).into_iter().flatten();
                let apps = placed.iter().chain(stored).map(|placed| placed.instance.app.clone()).collect();
                Concerned { clusters: cluster_of(node), apps: Some(apps) }
            }
            Delta::App(app, _) => {
                let has = |cluster: &&ClusterName| self.has_app(cluster, app);
                let clusters = self.state.clusters.keys().filter(has).cloned().collect();
                Concerned { clusters, apps: Some([app.clone()].into()) }
            }
        }
    }

    fn has_app(&self, cluster: &ClusterName, app: &AppName) -> bool {
        let plan = self.solution.get(cluster);
        let mut placed = plan.into_iter().flat_map(|plan| plan.nodes.values().flatten());
        placed.any(|placed| placed.instance.app == *app)
    }

    /// Brings what is told of other members in step with a change that was made, and what came of it.
    pub(super) fn follow_peers(&mut self, mut concerned: Concerned, changed: &skerry_placement::Changed) {
        if self.state.clusters.is_empty() && self.peers.is_empty() {
            return;
        }
        concerned.clusters.extend(changed.nodes.iter().map(|node| self.state.cluster_of(node)));
        if let Some(apps) = &mut concerned.apps {
            apps.extend(changed.apps.iter().cloned());
        }
        for cluster in &concerned.clusters {
            self.look_at_peers(cluster, concerned.apps.as_ref());
        }
    }

    /// A node reported: its address and how its instances are may be other ones.
    pub(super) fn peer_reported(&mut self, node: &NodeName) {
        let cluster = self.state.cluster_of(node);
        if self.state.clusters.contains_key(&cluster) {
            let placed = self.plan_of(node).into_iter().flatten();
            let apps = placed.map(|placed| placed.instance.app.clone()).collect();
            self.look_at_peers(&cluster, Some(&apps));
        }
    }

    /// Looks anew at what a cluster has of these apps (none: of all), and settles the members that are told something else of it.
    fn look_at_peers(&mut self, cluster: &ClusterName, apps: Option<&BTreeSet<AppName>>) {
        let is_meant = |app: &AppName| apps.is_none_or(|apps| apps.contains(app));
        let known = self.peers.remove(cluster).unwrap_or_default();
        let (before, mut now): (BTreeMap<_, _>, BTreeMap<_, _>) =
            known.into_iter().partition(|(app, _)| is_meant(app));
        let looked = self.peers_in(cluster, is_meant);
        let both = before.keys().chain(looked.keys());
        let changed: BTreeSet<AppName> =
            both.filter(|app| before.get(*app) != looked.get(*app)).cloned().collect();
        now.extend(looked);
        if !now.is_empty() {
            self.peers.insert(cluster.clone(), now);
        }
        let plan = self.solution.get(cluster);
        let concerned = |placed: &Placed| changed.contains(&placed.instance.app);
        let members = plan.into_iter().flat_map(|plan| &plan.nodes);
        let members: Vec<NodeName> = members
            .filter(|(_, placed)| placed.iter().any(concerned))
            .map(|(node, _)| node.clone())
            .collect();
        for node in members {
            self.settle(&node);
        }
    }

    /// What a cluster of several members has of its apps, of those that are meant.
    pub(super) fn peers_in(
        &self,
        cluster: &ClusterName,
        is_meant: impl Fn(&AppName) -> bool,
    ) -> BTreeMap<AppName, AppPeers> {
        let plan = self.solution.get(cluster).filter(|plan| plan.nodes.len() > 1);
        let Some(plan) = plan.filter(|_| self.state.clusters.contains_key(cluster)) else {
            return BTreeMap::new();
        };
        let placed = plan.nodes.values().flatten().map(|placed| &placed.instance.app);
        let apps: BTreeSet<&AppName> = placed.filter(|app| is_meant(app)).collect();
        let of = |app: &AppName| self.app_peers(self.state.apps.get(app)?.wanted(cluster), app, plan);
        apps.into_iter().filter_map(|app| Some((app.clone(), of(app)?))).collect()
    }

    fn app_peers(&self, wanted: &Wanted, app: &AppName, plan: &ClusterPlan) -> Option<AppPeers> {
        // With one service there is no other.
        if wanted.spec.services.len() < 2 {
            return None;
        }
        let services = wanted.spec.services.iter();
        let of = |service: &ServiceSpec| {
            Some((service.name.clone(), self.service_peers(wanted, app, plan, service)?))
        };
        let services: BTreeMap<_, _> = services.filter_map(of).collect();
        (!services.is_empty()).then_some(AppPeers { revision: wanted.revision, services })
    }

    fn service_peers(
        &self,
        wanted: &Wanted,
        app: &AppName,
        plan: &ClusterPlan,
        service: &ServiceSpec,
    ) -> Option<ServicePeers> {
        let mut waiting: BTreeMap<ServiceName, BTreeSet<Condition>> = BTreeMap::new();
        for other in &wanted.spec.services {
            for one in other.depends_on.iter().filter(|one| one.service == service.name) {
                waiting.entry(other.name.clone()).or_default().insert(condition(one.condition));
            }
        }
        let reached = is_reached(service);
        if waiting.is_empty() && !reached {
            return None;
        }
        let copies: Vec<(&NodeName, &Placed)> = plan
            .nodes
            .iter()
            .flat_map(|(node, placed)| placed.iter().map(move |placed| (node, placed)))
            .filter(|(_, placed)| placed.instance.app == *app && placed.instance.service == service.name)
            .collect();
        let address = |node: &NodeName| self.address_of(node).filter(|_| reached);
        let members = copies.iter().map(|(node, _)| ((*node).clone(), address(node))).collect();
        let conditions: BTreeSet<Condition> = waiting.values().flatten().copied().collect();
        let met = conditions.into_iter().filter(|one| self.is_met(*one, &copies, &wanted.revision)).collect();
        Some(ServicePeers { reached, members, waiting, met })
    }

    fn address_of(&self, node: &NodeName) -> Option<IpAddr> {
        self.nodes.get(node)?.machine()?.address.parse().ok()
    }

    /// Whether copies of a service meet a condition: one does, and each other one does too, or is on a member that counts as lost.
    fn is_met(&self, condition: Condition, copies: &[(&NodeName, &Placed)], revision: &ContentHash) -> bool {
        let is_lost = |node: &NodeName| self.state.nodes.get(node).is_some_and(|node| node.lost);
        let mut any = false;
        for (node, placed) in copies {
            let meets = placed.revision == *revision && self.meets(condition, node, placed);
            if !meets && !is_lost(node) {
                return false;
            }
            any |= meets;
        }
        any
    }

    /// Whether a node reported of a copy, as it is assigned to it and was acknowledged, that it meets a condition.
    fn meets(&self, condition: Condition, node: &NodeName, placed: &Placed) -> bool {
        let Some(view) = self.nodes.get(node) else { return false };
        let is_stored = self.state.previous.get(node).is_some_and(|previous| previous.contains(placed));
        if !is_stored || !view.has_acknowledged(&placed.instance) {
            return false;
        }
        let (name, revision) = (placed.instance.to_string(), placed.revision.to_string());
        let mut reported = view.status.iter().flat_map(|status| &status.instances);
        let Some(status) = reported.find(|one| one.instance == name && one.revision == revision) else {
            return false;
        };
        match condition {
            Condition::Unspecified | Condition::Started => {
                matches!(status.phase(), InstancePhase::Running | InstancePhase::Completed)
            }
            Condition::Healthy => status.phase() == InstancePhase::Running && status.ready,
            Condition::Completed => status.phase() == InstancePhase::Completed,
        }
    }
}

/// Whether a service is reached from other machines: it publishes a port, or it is on its machine's own network.
fn is_reached(service: &ServiceSpec) -> bool {
    let is_published = |port: &Port| port.host_address.is_none_or(|address| !address.is_loopback());
    match &service.program {
        Program::Container(container) => {
            container.network.mode == NetworkMode::Host || container.ports.iter().any(is_published)
        }
        Program::Process(_) => true,
    }
}

fn condition(condition: DependencyCondition) -> Condition {
    match condition {
        DependencyCondition::Started => Condition::Started,
        DependencyCondition::Healthy => Condition::Healthy,
        DependencyCondition::Completed => Condition::Completed,
    }
}
