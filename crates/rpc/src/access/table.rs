//! Which method is for whom: the whole of what callers may do. What is not here is refused.
//!
//! A test holds this table against the descriptors: every method of the contract is in it, and each path leads to the text that names the
//! resource or its project.

use std::collections::HashMap;
use std::sync::LazyLock;

use skerry_model::ProjectName;

use super::project::Path;
use super::role::Role;
use super::role::Role::{Admin, Operator, Viewer};

/// Whom a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Anybody at all, without a certificate.
    Anybody,
    /// Whoever has proved to be somebody.
    Peers,
    /// Nodes.
    Nodes,
    /// These services of the control plane.
    Services(&'static [&'static str]),
    /// The same, of what a listener that asks nobody who it is serves too: who reaches it is trusted for being there.
    Inside(&'static [&'static str]),
    /// Users with a role in the project of the resource that the request names.
    Users(ForUsers),
    /// Users who may change each of the resources in the request, of whichever kinds and projects.
    UsersOfEach(ForEach),
}

/// A request of several resources: where each is, and by which method it is changed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForEach {
    /// The role that it takes at least, whatever is in it.
    pub(crate) role: Role,
    /// The repeated field whose values have one resource each.
    pub(crate) entries: u32,
    /// The field of a value that holds the resource of some kind.
    pub(crate) resource: u32,
    /// For each kind the field that holds it, and the method whose role it takes.
    pub(crate) kinds: &'static [(u32, &'static str)],
}

/// Where a resource has its name.
pub(crate) const NAME: Path = &[1, 1];

/// Which users a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForUsers {
    /// The role that it takes at least.
    pub(crate) role: Role,
    /// Where the request names the resource, or the project itself. Empty: it is about the installation, and the role must hold in
    /// project `system`.
    pub(crate) path: Path,
    /// It answers with a stream, which ends when the role is lost.
    pub(crate) streams: bool,
    /// Whom the request names may call it too, about itself.
    pub(crate) or_itself: bool,
    /// Services that may call it too.
    pub(crate) services: &'static [&'static str],
    /// The role that it takes in project `system`, where that is another.
    pub(crate) in_system: Option<Role>,
}

impl ForUsers {
    /// The role that it takes in a project.
    pub(crate) fn role_in(&self, project: &ProjectName) -> Role {
        self.in_system.filter(|_| project.is_system()).unwrap_or(self.role)
    }
}

/// The name of a resource or of its project, as the first field of a request.
const FIRST: Path = &[1];
/// Nowhere.
const EVERYWHERE: Path = &[];
/// The name in the metadata of a resource that is the first field of a request.
const METADATA: Path = &[1, 1, 1];

const fn users(role: Role, path: Path) -> Rule {
    Rule::Users(ForUsers { role, path, streams: false, or_itself: false, services: &[], in_system: None })
}

/// What is for operators, but in project `system` for admins: there it is about projects.
const fn operators(path: Path) -> Rule {
    let in_system = Some(Admin);
    Rule::Users(ForUsers { role: Operator, path, streams: false, or_itself: false, services: &[], in_system })
}

const fn watches(role: Role, path: Path) -> Rule {
    Rule::Users(ForUsers { role, path, streams: true, or_itself: false, services: &[], in_system: None })
}

/// The service that is all of them in one process.
const ALL_IN_ONE: &str = "skerry";

pub(crate) const TABLE: &[(&str, Rule)] = &[
    // What a server says of itself.
    ("/grpc.health.v1.Health/Check", Rule::Peers),
    ("/grpc.health.v1.Health/Watch", Rule::Peers),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Peers),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Peers),
    // Machines.
    ("/skerry.gateway.v1.EnrollmentService/Enroll", Rule::Anybody),
    ("/skerry.gateway.v1.SyncService/Sync", Rule::Nodes),
    ("/skerry.relay.v1.ChannelService/Open", Rule::Nodes),
    // Between services.
    ("/skerry.registry.v1.IssuerService/EnrollNode", Rule::Services(&["gateway", ALL_IN_ONE])),
    ("/skerry.registry.v1.IssuerService/RenewNode", Rule::Services(&["gateway", ALL_IN_ONE])),
    ("/skerry.registry.v1.IssuerService/GetRoots", Rule::Services(&["gateway", ALL_IN_ONE])),
    ("/skerry.gateway.v1.OfferService/OfferChannel", Rule::Inside(&["relay", ALL_IN_ONE])),
    ("/skerry.relay.v1.PeerService/Forward", Rule::Inside(&["relay", ALL_IN_ONE])),
    ("/skerry.relay.v1.PeerService/ListOwnChannels", Rule::Inside(&["relay", ALL_IN_ONE])),
    ("/skerry.relay.v1.PeerService/CutOwnChannel", Rule::Inside(&["relay", ALL_IN_ONE])),
    ("/skerry.gpu.v1.IngestService/Ingest", Rule::Inside(&["gateway", ALL_IN_ONE])),
    ("/skerry.gpu.v1.PeerService/StreamOwnSamples", Rule::Inside(&["gpu", ALL_IN_ONE])),
    ("/skerry.gpu.v1.PeerService/QueryOwnHistory", Rule::Inside(&["gpu", ALL_IN_ONE])),
    // Nodes, events, the installation.
    (
        "/skerry.registry.v1.NodeService/GetNode",
        // `up` looks whether its own node is connected.
        Rule::Users(ForUsers {
            role: Viewer,
            path: FIRST,
            streams: false,
            or_itself: false,
            services: &[ALL_IN_ONE],
            in_system: None,
        }),
    ),
    ("/skerry.registry.v1.NodeService/ListNodes", users(Viewer, FIRST)),
    ("/skerry.registry.v1.NodeService/WatchNodes", watches(Viewer, FIRST)),
    ("/skerry.registry.v1.NodeService/UpdateNode", users(Operator, METADATA)),
    ("/skerry.registry.v1.NodeService/RevokeNode", users(Admin, FIRST)),
    ("/skerry.registry.v1.NodeService/DeleteNode", users(Admin, FIRST)),
    ("/skerry.registry.v1.ClusterService/CreateCluster", users(Operator, FIRST)),
    ("/skerry.registry.v1.ClusterService/GetCluster", users(Viewer, FIRST)),
    ("/skerry.registry.v1.ClusterService/ListClusters", users(Viewer, FIRST)),
    ("/skerry.registry.v1.ClusterService/WatchClusters", watches(Viewer, FIRST)),
    ("/skerry.registry.v1.ClusterService/UpdateCluster", users(Operator, METADATA)),
    ("/skerry.registry.v1.ClusterService/DeleteCluster", users(Operator, FIRST)),
    // What they do takes the same role when it is done by hand: operators drain and relabel, and admins of `system` delete projects, by
    // tasks that are in `system`.
    ("/skerry.registry.v1.TaskService/CreateTask", operators(FIRST)),
    ("/skerry.registry.v1.TaskService/GetTask", users(Viewer, FIRST)),
    ("/skerry.registry.v1.TaskService/ListTasks", users(Viewer, FIRST)),
    ("/skerry.registry.v1.TaskService/WatchTasks", watches(Viewer, FIRST)),
    ("/skerry.registry.v1.TaskService/CancelTask", operators(FIRST)),
    ("/skerry.registry.v1.TaskService/RetryTask", operators(FIRST)),
    ("/skerry.registry.v1.TaskService/DeleteTask", operators(FIRST)),
    ("/skerry.registry.v1.EventService/ListEvents", users(Viewer, FIRST)),
    ("/skerry.registry.v1.EventService/WatchEvents", watches(Viewer, FIRST)),
    ("/skerry.registry.v1.InstallationService/GetInstallation", users(Viewer, FIRST)),
    // Projects: nobody makes room for itself.
    ("/skerry.registry.v1.ProjectService/CreateProject", users(Admin, EVERYWHERE)),
    ("/skerry.registry.v1.ProjectService/GetProject", users(Viewer, FIRST)),
    ("/skerry.registry.v1.ProjectService/ListProjects", users(Viewer, EVERYWHERE)),
    ("/skerry.registry.v1.ProjectService/WatchProjects", watches(Viewer, EVERYWHERE)),
    ("/skerry.registry.v1.ProjectService/UpdateProject", users(Admin, EVERYWHERE)),
    ("/skerry.registry.v1.ProjectService/DeleteProject", users(Admin, EVERYWHERE)),
    // Who gets in.
    ("/skerry.registry.v1.TokenService/CreateToken", users(Admin, FIRST)),
    ("/skerry.registry.v1.TokenService/ListTokens", users(Admin, FIRST)),
    ("/skerry.registry.v1.TokenService/DeleteToken", users(Admin, FIRST)),
    ("/skerry.registry.v1.EnrollmentRequestService/ListEnrollments", users(Admin, FIRST)),
    ("/skerry.registry.v1.EnrollmentRequestService/ApproveEnrollment", users(Admin, FIRST)),
    ("/skerry.registry.v1.EnrollmentRequestService/DenyEnrollment", users(Admin, FIRST)),
    // Who may what.
    ("/skerry.registry.v1.AccessService/WhoAmI", Rule::Peers),
    ("/skerry.registry.v1.AccessService/CheckAccess", Rule::Peers),
    ("/skerry.registry.v1.AccessService/ListAccess", Rule::Peers),
    ("/skerry.registry.v1.RoleBindingService/CreateRoleBinding", users(Admin, FIRST)),
    ("/skerry.registry.v1.RoleBindingService/GetRoleBinding", users(Admin, FIRST)),
    ("/skerry.registry.v1.RoleBindingService/ListRoleBindings", users(Admin, FIRST)),
    ("/skerry.registry.v1.RoleBindingService/UpdateRoleBinding", users(Admin, METADATA)),
    ("/skerry.registry.v1.RoleBindingService/DeleteRoleBinding", users(Admin, FIRST)),
    // Nobody grants more than it has: admins have it all.
    ("/skerry.registry.v1.GrantService/CreateGrant", users(Admin, FIRST)),
    ("/skerry.registry.v1.GrantService/GetGrant", users(Admin, FIRST)),
    ("/skerry.registry.v1.GrantService/ListGrants", users(Admin, FIRST)),
    ("/skerry.registry.v1.GrantService/DeleteGrant", users(Admin, FIRST)),
    ("/skerry.registry.v1.GroupService/CreateGroup", users(Admin, FIRST)),
    ("/skerry.registry.v1.GroupService/GetGroup", users(Admin, FIRST)),
    ("/skerry.registry.v1.GroupService/ListGroups", users(Admin, FIRST)),
    ("/skerry.registry.v1.GroupService/UpdateGroup", users(Admin, METADATA)),
    ("/skerry.registry.v1.GroupService/DeleteGroup", users(Admin, FIRST)),
    ("/skerry.registry.v1.UserService/CreateUser", users(Admin, FIRST)),
    ("/skerry.registry.v1.UserService/GetUser", users(Admin, FIRST)),
    ("/skerry.registry.v1.UserService/ListUsers", users(Admin, FIRST)),
    ("/skerry.registry.v1.UserService/UpdateUser", users(Admin, METADATA)),
    ("/skerry.registry.v1.UserService/DeleteUser", users(Admin, FIRST)),
    (
        "/skerry.registry.v1.UserService/IssueCertificate",
        // Users renew their own.
        Rule::Users(ForUsers {
            role: Admin,
            path: FIRST,
            streams: false,
            or_itself: true,
            services: &[],
            in_system: None,
        }),
    ),
    // What was changed by whom. That chains are for admins of the installation is seen to by the project that must be named.
    ("/skerry.registry.v1.AuditService/ListAuditRecords", users(Admin, FIRST)),
    ("/skerry.registry.v1.AuditService/WatchAuditRecords", watches(Admin, FIRST)),
    ("/skerry.registry.v1.AuditService/ListAuditChains", users(Admin, FIRST)),
    ("/skerry.registry.v1.AuditService/ReadAuditChain", users(Admin, FIRST)),
    // Apps, configs.
    ("/skerry.scheduler.v1.AppService/CreateApp", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.AppService/GetApp", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.AppService/ListApps", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.AppService/WatchApps", watches(Viewer, FIRST)),
    ("/skerry.scheduler.v1.AppService/UpdateApp", users(Operator, METADATA)),
    ("/skerry.scheduler.v1.AppService/DeleteApp", users(Operator, FIRST)),
    (
        "/skerry.scheduler.v1.AppService/ListInstances",
        // Relays find the instances whose logs are asked for.
        Rule::Users(ForUsers {
            role: Viewer,
            path: FIRST,
            streams: false,
            or_itself: false,
            services: &["relay", ALL_IN_ONE],
            in_system: None,
        }),
    ),
    ("/skerry.scheduler.v1.AppService/ListRevisions", users(Viewer, FIRST)),
    // GPUs: what nodes have, and how it is.
    ("/skerry.gpu.v1.GpuService/GetGpu", users(Viewer, FIRST)),
    ("/skerry.gpu.v1.GpuService/ListGpus", users(Viewer, FIRST)),
    ("/skerry.gpu.v1.GpuService/WatchGpus", watches(Viewer, FIRST)),
    ("/skerry.gpu.v1.GpuService/ListAllocations", users(Viewer, FIRST)),
    ("/skerry.gpu.v1.GpuService/StreamSamples", watches(Viewer, FIRST)),
    ("/skerry.gpu.v1.GpuService/QueryHistory", users(Viewer, FIRST)),
    // Who may see an app may read what it writes, as with `view` and `pods/log` in Kubernetes. Whom else is connected is not theirs to know.
    ("/skerry.relay.v1.RelayService/Logs", watches(Viewer, FIRST)),
    // What acts in an instance is for who may change it; what acts on a machine, for who may take it away.
    ("/skerry.relay.v1.RelayService/Exec", watches(Operator, &[1, 1])),
    ("/skerry.relay.v1.RelayService/ExecNode", watches(Admin, &[1, 3])),
    ("/skerry.relay.v1.RelayService/PortForward", watches(Operator, &[1, 1])),
    ("/skerry.relay.v1.RelayService/CopyTo", watches(Operator, &[1, 1])),
    ("/skerry.relay.v1.RelayService/CopyFrom", watches(Operator, &[1, 1])),
    ("/skerry.relay.v1.RelayService/ActOnInstances", watches(Operator, FIRST)),
    ("/skerry.relay.v1.RelayService/BundleNode", watches(Operator, FIRST)),
    // What a machine and its instances use is to be seen as they are.
    ("/skerry.relay.v1.RelayService/StreamUsage", watches(Viewer, FIRST)),
    ("/skerry.relay.v1.RelayService/ListChannels", users(Operator, FIRST)),
    ("/skerry.relay.v1.RelayService/CutChannel", users(Operator, FIRST)),
    // Several together.
    (
        "/skerry.scheduler.v1.ApplyService/Apply",
        Rule::UsersOfEach(ForEach {
            role: Operator,
            entries: 1,
            resource: 1,
            kinds: &[
                (1, "/skerry.scheduler.v1.AppService/UpdateApp"),
                (2, "/skerry.scheduler.v1.ConfigService/UpdateConfig"),
                (3, "/skerry.scheduler.v1.SecretService/UpdateSecret"),
                (4, "/skerry.registry.v1.NodeService/UpdateNode"),
                (5, "/skerry.registry.v1.ClusterService/UpdateCluster"),
                (6, "/skerry.registry.v1.ProjectService/UpdateProject"),
                (7, "/skerry.registry.v1.UserService/UpdateUser"),
                (8, "/skerry.registry.v1.GroupService/UpdateGroup"),
                (9, "/skerry.registry.v1.RoleBindingService/UpdateRoleBinding"),
            ],
        }),
    ),
    ("/skerry.scheduler.v1.PlacementService/ExplainApp", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.PlacementService/PlanChange", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.RolloutService/PauseRollout", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.RolloutService/ResumeRollout", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.RolloutService/AbortRollout", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.ConfigService/CreateConfig", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.ConfigService/GetConfig", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.ConfigService/ListConfigs", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.ConfigService/WatchConfigs", watches(Viewer, FIRST)),
    ("/skerry.scheduler.v1.ConfigService/UpdateConfig", users(Operator, METADATA)),
    ("/skerry.scheduler.v1.ConfigService/DeleteConfig", users(Operator, FIRST)),
    // Secrets: no method gives a value back.
    ("/skerry.scheduler.v1.SecretService/CreateSecret", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.SecretService/GetSecret", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.SecretService/ListSecrets", users(Viewer, FIRST)),
    ("/skerry.scheduler.v1.SecretService/WatchSecrets", watches(Viewer, FIRST)),
    ("/skerry.scheduler.v1.SecretService/UpdateSecret", users(Operator, METADATA)),
    ("/skerry.scheduler.v1.SecretService/DeleteSecret", users(Operator, FIRST)),
    ("/skerry.scheduler.v1.SecretService/ResealSecrets", users(Admin, FIRST)),
];

static RULES: LazyLock<HashMap<&'static str, Rule>> = LazyLock::new(|| TABLE.iter().copied().collect());

/// Whom the method at `path` (`/package.Service/Method`) is for; nothing for one that is not in the table.
pub(crate) fn rule(path: &str) -> Option<Rule> {
    RULES.get(path).copied()
}

#[cfg(test)]
mod tests;
