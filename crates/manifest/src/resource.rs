//! The resources that manifests hold.

use skerry_proto::{registry::v1 as registry, scheduler::v1 as scheduler, types::v1::Metadata};

/// The `apiVersion` of every manifest.
pub const API_VERSION: &str = "skerry/v1";

/// One resource, as it travels. Its metadata is always set and its name full.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// Services that are deployed as one.
    App(Box<scheduler::App>),
    /// Files that services mount.
    Config(Box<scheduler::Config>),
    /// Values that services are given and nobody reads back.
    Secret(Box<scheduler::Secret>),
    /// What users decide about a node.
    Node(Box<registry::Node>),
    /// A person or a program, and by which keys it is known.
    User(Box<registry::User>),
    /// Users who get roles together.
    Group(Box<registry::Group>),
    /// A role, and who has it.
    RoleBinding(Box<registry::RoleBinding>),
    /// A tenant and its quota.
    Project(Box<registry::Project>),
    /// Nodes at one place that are scheduled together.
    Cluster(Box<registry::Cluster>),
}

/// The kinds, as manifests name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `App`.
    App,
    /// `Config`.
    Config,
    /// `Secret`.
    Secret,
    /// `Node`.
    Node,
    /// `User`.
    User,
    /// `Group`.
    Group,
    /// `RoleBinding`.
    RoleBinding,
    /// `Project`.
    Project,
    /// `Cluster`.
    Cluster,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::App,
        Self::Config,
        Self::Secret,
        Self::Node,
        Self::User,
        Self::Group,
        Self::RoleBinding,
        Self::Project,
        Self::Cluster,
    ];

    /// All of them, as an error names them: `App, Config or Node`.
    pub(crate) fn words() -> String {
        let words = Self::ALL.map(Self::as_str);
        let (last, before) = words.split_last().expect("there are kinds");
        format!("{} or {last}", before.join(", "))
    }

    /// As `kind:` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Config => "Config",
            Self::Secret => "Secret",
            Self::Node => "Node",
            Self::User => "User",
            Self::Group => "Group",
            Self::RoleBinding => "RoleBinding",
            Self::Project => "Project",
            Self::Cluster => "Cluster",
        }
    }

    /// The message in the protocol.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::App => "skerry.scheduler.v1.App",
            Self::Config => "skerry.scheduler.v1.Config",
            Self::Secret => "skerry.scheduler.v1.Secret",
            Self::Node => "skerry.registry.v1.Node",
            Self::User => "skerry.registry.v1.User",
            Self::Group => "skerry.registry.v1.Group",
            Self::RoleBinding => "skerry.registry.v1.RoleBinding",
            Self::Project => "skerry.registry.v1.Project",
            Self::Cluster => "skerry.registry.v1.Cluster",
        }
    }
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::App(_) => Kind::App,
            Self::Config(_) => Kind::Config,
            Self::Secret(_) => Kind::Secret,
            Self::Node(_) => Kind::Node,
            Self::User(_) => Kind::User,
            Self::Group(_) => Kind::Group,
            Self::RoleBinding(_) => Kind::RoleBinding,
            Self::Project(_) => Kind::Project,
            Self::Cluster(_) => Kind::Cluster,
        }
    }

    /// Its metadata, if it has any.
    pub fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::App(app) => app.metadata.as_ref(),
            Self::Config(config) => config.metadata.as_ref(),
            Self::Secret(secret) => secret.metadata.as_ref(),
            Self::Node(node) => node.metadata.as_ref(),
            Self::User(user) => user.metadata.as_ref(),
            Self::Group(group) => group.metadata.as_ref(),
            Self::RoleBinding(binding) => binding.metadata.as_ref(),
            Self::Project(project) => project.metadata.as_ref(),
            Self::Cluster(cluster) => cluster.metadata.as_ref(),
        }
    }

    /// Its full name: `projects/default/apps/hello`.
    pub fn name(&self) -> &str {
        self.metadata().map_or("", |metadata| &metadata.name)
    }
}
