//! How names are written in keys, and the names that only the store has. The others are `skerry-model`'s.

use std::fmt;

use skerry_model::{
    AppName, AppRef, ClusterName, ClusterRef, ConfigName, ConfigRef, ContentHash, GrantName, GrantRef,
    GroupName, GroupRef, NodeName, NodeRef, ProjectName, ProjectRef, RevisionRef, RoleBindingName,
    RoleBindingRef, SecretName, SecretRef, SecretVersion, TaskName, TaskRef, UserName, UserRef,
};

/// The longest gateway id, leader name and request id, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// What names a record within its family.
pub trait KeyName: Sized {
    /// Writes the key after the family's prefix.
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    /// Reads what `write_path` wrote; anything else is `None`.
    fn from_path(path: &str) -> Option<Self>;
}

/// Displays a name as its path.
pub(crate) struct Path<'a, N>(pub(crate) &'a N);

impl<N: KeyName> fmt::Display for Path<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_path(f)
    }
}

/// The one name in `meta/`: `store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TheStore;

/// The one name in `authority/`: `authority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TheAuthority;

/// `projects/<project>/configs/<config>` at a content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigRevisionRef {
    /// Of which config.
    pub config: ConfigRef,
    /// Which content.
    pub hash: ContentHash,
}

/// `projects/<project>/secrets/<secret>` at a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRevisionRef {
    /// Of which secret.
    pub secret: SecretRef,
    /// Which values.
    pub version: SecretVersion,
}

/// A secret at a version, sealed to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedSecretRef {
    /// To which node; of its project is the secret.
    pub node: NodeRef,
    /// Which secret.
    pub secret: SecretName,
    /// Which values.
    pub version: SecretVersion,
}

/// What a project's quota may limit, each counted under a key of its own: services that write different things do not contend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Nodes.
    Nodes,
    /// Apps.
    Apps,
    /// Secrets.
    Secrets,
    /// Configs.
    Configs,
    /// Bytes of specs, contents and values.
    Bytes,
}

impl Counted {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nodes, Self::Apps, Self::Secrets, Self::Configs, Self::Bytes];

    /// As keys and people have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Apps => "apps",
            Self::Secrets => "secrets",
            Self::Configs => "configs",
            Self::Bytes => "bytes",
        }
    }
}

/// How much of something a project has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageName {
    /// The tenant.
    pub project: ProjectName,
    /// Of what.
    pub counted: Counted,
}

/// Whose ring of events.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventSource {
    /// A node's.
    Node(NodeRef),
    /// An app's.
    App(AppRef),
    /// A token's.
    Token(TokenName),
}

/// A request id of a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName {
    /// The tenant.
    pub project: ProjectName,
    /// The caller's id.
    pub id: RequestId,
}

/// An enrolment token of a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName {
    /// The tenant.
    pub project: ProjectName,
    /// The part of the token that is no secret.
    pub id: TokenId,
}

/// A machine that waits for approval in a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrollmentName {
    /// The tenant.
    pub project: ProjectName,
    /// Its key, hashed, in hexadecimal.
    pub key: EnrollmentKey,
}

/// A record of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditName {
    /// In which chain.
    pub chain: ChainId,
    /// At which place, from 1.
    pub sequence: u64,
}

/// A move of an app's rollouts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutMoveName {
    /// Of which app.
    pub app: AppRef,
    /// Which, from 1.
    pub number: u64,
}

/// Digits of a place in a key: as many as the largest has, so that keys stand in order.
const SEQUENCE_DIGITS: usize = 20;

/// A text that cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: use 1 to 128 of A-Z, a-z, 0-9, `-`, `_`, `.` and `:`")]
pub struct InvalidId {
    /// What was being named.
    pub what: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses 1 to 128 of `A-Z`, `a-z`, `0-9`, `-`, `_`, `.` and `:`.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
                if !text.is_empty() && text.len() <= ID_BYTES_MAX && text.bytes().all(plain) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { what: $what })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id!(
    /// One gateway process.
    GatewayId,
    "gateway id"
);
id!(
    /// One chain of the audit log.
    ChainId,
    "audit chain"
);
id!(
    /// One replica of a service.
    MemberId,
    "member id"
);
id!(
    /// What is led, as `scheduler`.
    LeaderName,
    "leader name"
);
id!(
    /// What a caller gives a mutation so that repeating it does not act twice. A UUID, usually.
    RequestId,
    "request id"
);
id!(
    /// The part of an enrolment token that is no secret.
    TokenId,
    "token id"
);
id!(
    /// The hash of a machine's key, in hexadecimal.
    EnrollmentKey,
    "key"
);

fn two(path: &str) -> Option<(&str, &str)> {
    path.split_once('/').filter(|(_, rest)| !rest.contains('/'))
}

fn three(path: &str) -> Option<(&str, &str, &str)> {
    let (first, rest) = path.split_once('/')?;
    let (second, third) = two(rest)?;
    Some((first, second, third))
}

impl KeyName for AuditName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:0SEQUENCE_DIGITS$}", self.chain, self.sequence)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (chain, digits) = two(path)?;
        Some(Self { chain: ChainId::parse(chain).ok()?, sequence: sequence(digits)? })
    }
}

/// Reads what was written with [`SEQUENCE_DIGITS`].
fn sequence(digits: &str) -> Option<u64> {
    let exact = digits.len() == SEQUENCE_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| exact)
}

impl KeyName for RolloutMoveName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.app.write_path(f)?;
        write!(f, "/{:0SEQUENCE_DIGITS$}", self.number)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (app, digits) = path.rsplit_once('/')?;
        Some(Self { app: AppRef::from_path(app)?, number: sequence(digits)? })
    }
}

impl KeyName for TheStore {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store")
    }
    fn from_path(path: &str) -> Option<Self> {
        (path == "store").then_some(Self)
    }
}

impl KeyName for TheAuthority {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("authority")
    }
    fn from_path(path: &str) -> Option<Self> {
        (path == "authority").then_some(Self)
    }
}

impl KeyName for ProjectRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.project)
    }
    fn from_path(path: &str) -> Option<Self> {
        Some(Self { project: ProjectName::parse(path).ok()? })
    }
}

impl KeyName for UsageName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.counted.as_str())
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, counted) = two(path)?;
        let counted = Counted::ALL.into_iter().find(|one| one.as_str() == counted)?;
        Some(Self { project: ProjectName::parse(project).ok()?, counted })
    }
}

impl KeyName for NodeRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.node)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, node) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, node: NodeName::parse(node).ok()? })
    }
}

impl KeyName for AppRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.app)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, app) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, app: AppName::parse(app).ok()? })
    }
}

impl KeyName for ClusterRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.cluster)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, cluster) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, cluster: ClusterName::parse(cluster).ok()? })
    }
}

impl KeyName for TaskRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.task)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, task) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, task: TaskName::parse(task).ok()? })
    }
}

impl KeyName for ConfigRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.config)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, config) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, config: ConfigName::parse(config).ok()? })
    }
}

impl KeyName for UserRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.user)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, user) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, user: UserName::parse(user).ok()? })
    }
}

impl KeyName for GroupRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.group)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, group) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, group: GroupName::parse(group).ok()? })
    }
}

impl KeyName for RoleBindingRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.binding)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, binding) = two(path)?;
        let project = ProjectName::parse(project).ok()?;
        Some(Self { project, binding: RoleBindingName::parse(binding).ok()? })
    }
}

impl KeyName for GrantRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.grant)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, grant) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, grant: GrantName::parse(grant).ok()? })
    }
}

impl KeyName for RevisionRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.app.write_path(f)?;
        write!(f, "/{}", self.hash)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (app, hash) = path.rsplit_once('/')?;
        Some(Self { app: AppRef::from_path(app)?, hash: ContentHash::parse(hash).ok()? })
    }
}

impl KeyName for ConfigRevisionRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.write_path(f)?;
        write!(f, "/{}", self.hash)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (config, hash) = path.rsplit_once('/')?;
        Some(Self { config: ConfigRef::from_path(config)?, hash: ContentHash::parse(hash).ok()? })
    }
}

impl KeyName for SecretRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.secret)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, secret) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, secret: SecretName::parse(secret).ok()? })
    }
}

impl KeyName for SecretRevisionRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secret.write_path(f)?;
        write!(f, "/{}", self.version)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (secret, version) = path.rsplit_once('/')?;
        Some(Self { secret: SecretRef::from_path(secret)?, version: SecretVersion::parse(version).ok()? })
    }
}

impl KeyName for SealedSecretRef {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.write_path(f)?;
        write!(f, "/{}/{}", self.secret, self.version)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (rest, version) = path.rsplit_once('/')?;
        let (node, secret) = rest.rsplit_once('/')?;
        Some(Self {
            node: NodeRef::from_path(node)?,
            secret: SecretName::parse(secret).ok()?,
            version: SecretVersion::parse(version).ok()?,
        })
    }
}

impl KeyName for EventSource {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(NodeRef { project, node }) => write!(f, "{project}/nodes/{node}"),
            Self::App(AppRef { project, app }) => write!(f, "{project}/apps/{app}"),
            Self::Token(TokenName { project, id }) => write!(f, "{project}/tokens/{id}"),
        }
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, kind, name) = three(path)?;
        let project = ProjectName::parse(project).ok()?;
        match kind {
            "nodes" => Some(Self::Node(NodeRef { project, node: NodeName::parse(name).ok()? })),
            "apps" => Some(Self::App(AppRef { project, app: AppName::parse(name).ok()? })),
            "tokens" => Some(Self::Token(TokenName { project, id: TokenId::parse(name).ok()? })),
            _ => None,
        }
    }
}

impl KeyName for ChainId {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
    fn from_path(path: &str) -> Option<Self> {
        Self::parse(path).ok()
    }
}

impl KeyName for GatewayId {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
    fn from_path(path: &str) -> Option<Self> {
        Self::parse(path).ok()
    }
}

impl KeyName for MemberId {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
    fn from_path(path: &str) -> Option<Self> {
        Self::parse(path).ok()
    }
}

impl KeyName for LeaderName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
    fn from_path(path: &str) -> Option<Self> {
        Self::parse(path).ok()
    }
}

impl KeyName for RequestName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.id)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, id) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, id: RequestId::parse(id).ok()? })
    }
}

impl KeyName for TokenName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.id)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, id) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, id: TokenId::parse(id).ok()? })
    }
}

impl KeyName for EnrollmentName {
    fn write_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.key)
    }
    fn from_path(path: &str) -> Option<Self> {
        let (project, key) = two(path)?;
        Some(Self { project: ProjectName::parse(project).ok()?, key: EnrollmentKey::parse(key).ok()? })
    }
}
