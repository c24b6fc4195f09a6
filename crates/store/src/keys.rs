//! Every key of the store: its form, the bound on its value, who writes it and how long it stays. Nothing else spells a key.
//!
//! All keys begin with `/skerry/v1/`. Names are DNS labels, so no part needs escaping and `/` always separates. A value is one
//! `skerry.store.v1` message. What is compared, hashed or sent on is always the stored bytes.
//!
//! | key | value | bound, bytes | written by | stays |
//! |---|---|---|---|---|
//! | `meta/store` | `StoreMeta` | 256 | whoever sees a new or restored store | for ever |
//! | `projects/<project>` | `ProjectRecord` | 128 Ki | registry; for `default` and `system` whoever makes something in them first | until deleted |
//! | `usage/<project>/<what>` | `UsageRecord` | 64 | whoever makes, changes or deletes what is counted, with it | as long as the project |
//! | `nodes/<project>/<node>` | `NodeRecord` | 128 Ki | registry | until deleted |
//! | `clusters/<project>/<cluster>` | `ClusterRecord` | 128 Ki | registry | until deleted |
//! | `apps/<project>/<app>` | `AppRecord` | 128 Ki | scheduler | until deleted |
//! | `revisions/<project>/<app>/<hash>` | `RevisionRecord` | 257 Ki | scheduler | the last ten and all that are referenced |
//! | `rollouts/<project>/<app>` | `RolloutRecord` | 8 Ki | scheduler | as long as the app, or until a change of it has no rollout |
//! | `rollout-moves/<project>/<app>/<number>` | `RolloutMoveRecord` | 160 Ki | the leading scheduler | as long as the rollout refers to it |
//! | `configs/<project>/<config>` | `ConfigRecord` | 128 Ki | scheduler | until deleted |
//! | `config-revisions/<project>/<config>/<hash>` | `ConfigRevisionRecord` | 513 Ki | scheduler | the last ten and all that are referenced |
//! | `secrets/<project>/<secret>` | `SecretRecord` | 192 Ki | scheduler | until deleted |
//! | `secret-revisions/<project>/<secret>/<version>` | `SecretRevisionRecord` | 80 Ki | scheduler | the current one and all that are referenced |
//! | `sealed/<project>/<node>/<secret>/<version>` | `SealedSecretRecord` | 80 Ki | the leading scheduler | as long as the node's assignment names it |
//! | `assignments/<project>/<node>` | `AssignmentRecord` | 64 Ki | the leading scheduler | as long as the node |
//! | `sessions/<project>/<node>` | `SessionRecord` | 1 Ki | the gateway of the session | as long as the node |
//! | `status/<project>/<node>` | `StatusRecord` | 256 Ki | the gateway of the session | as long as the node |
//! | `events/<project>/nodes/<node>`, `.../apps/<app>`, `.../tokens/<token id>` | `EventsRecord` | 192 Ki | gateways and registry; scheduler; registry | as long as the node, app or token |
//! | `authority/authority` | `AuthorityRecord` | 64 Ki | registry, `skerry authority` | for ever |
//! | `tokens/<project>/<token id>` | `TokenRecord` | 256 Ki | registry | until a day after it expired, or deleted |
//! | `enrollments/<project>/<key id>` | `EnrollmentRecord` | 2 Ki | registry | leased: ten minutes after the machine asked last |
//! | `users/<project>/<user>` | `UserRecord` | 128 Ki | registry; who bootstraps, for the first admin | until deleted |
//! | `groups/<project>/<group>` | `GroupRecord` | 256 Ki | registry | until deleted |
//! | `role-bindings/<project>/<binding>` | `RoleBindingRecord` | 384 Ki | registry | until deleted |
//! | `grants/<project>/<grant>` | `GrantRecord` | 16 Ki | registry | until a day after it expired, or deleted |
//! | `audit/<chain>/<sequence>` | `AuditRecord` | 16 Ki | whoever makes the change, with it | by age and number, `--audit-age` and `--audit-records` of the registry |
//! | `audit-heads/<chain>` | `AuditHead` | 512 | with each record; the registry, when it removes some | three times as long as records, once it has none |
//! | `tasks/<project>/<task>` | `TaskRecord` | 256 Ki | registry | until deleted; of those that ended the last 100 of a project |
//! | `task-progress/<project>/<task>` | `TaskProgressRecord` | 64 Ki | the registry that has the claim | as long as the task |
//! | `task-claims/<project>/<task>` | `TaskClaimRecord` | 256 | the registry that works on the task | leased: while it does |
//! | `prefetches/<project>/<task>` | `PrefetchRecord` | 64 Ki | the registry that works on the task; the leading scheduler, when it is over | until its time is over, or the task fails, is cancelled or deleted |
//! | `gateways/<id>` | `GatewayRecord` | 1 Ki | that gateway | leased: while it lives |
//! | `members/<id>` | `MemberRecord` | 1 Ki | that replica of a service | leased: while it lives |
//! | `leaders/<name>` | `LeaderRecord` | 256 | the leader | leased: while it leads |
//! | `request-ids/<project>/<request id>` | `RequestRecord` | 2 Ki | whoever makes the mutation | leased: a day, at most 25 hours |
//!
//! Resources that are applied together are written by the scheduler or the registry, whoever writes them else.

mod names;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use skerry_model::ProjectName;
use skerry_proto::store::v1 as pb;

pub use self::names::{
    AuditName, ChainId, ConfigRevisionRef, Counted, EnrollmentKey, EnrollmentName, EventSource, GatewayId,
    ID_BYTES_MAX, InvalidId, KeyName, LeaderName, MemberId, RequestId, RequestName, RolloutMoveName,
    SealedSecretRef, SecretRevisionRef, TheAuthority, TheStore, TokenId, TokenName, UsageName,
};

/// What every key begins with.
pub const ROOT: &str = "/skerry/v1/";

const KIB: usize = 1024;

/// One family of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `meta/`.
    Meta,
    /// `projects/`.
    Projects,
    /// `usage/`.
    Usage,
    /// `nodes/`.
    Nodes,
    /// `clusters/`.
    Clusters,
    /// `apps/`.
    Apps,
    /// `revisions/`.
    Revisions,
    /// `rollouts/`.
    Rollouts,
    /// `rollout-moves/`.
    RolloutMoves,
    /// `configs/`.
    Configs,
    /// `config-revisions/`.
    ConfigRevisions,
    /// `secrets/`.
    Secrets,
    /// `secret-revisions/`.
    SecretRevisions,
    /// `sealed/`.
    Sealed,
    /// `assignments/`.
    Assignments,
    /// `sessions/`.
    Sessions,
    /// `status/`.
    Status,
    /// `events/`.
    Events,
    /// `authority/`.
    Authority,
    /// `tokens/`.
    Tokens,
    /// `enrollments/`.
    Enrollments,
    /// `users/`.
    Users,
    /// `groups/`.
    Groups,
    /// `role-bindings/`.
    RoleBindings,
    /// `grants/`.
    Grants,
    /// `audit/`.
    Audit,
    /// `audit-heads/`.
    AuditHeads,
    /// `tasks/`.
    Tasks,
    /// `task-progress/`.
    TaskProgress,
    /// `task-claims/`.
    TaskClaims,
    /// `prefetches/`.
    Prefetches,
    /// `gateways/`.
    Gateways,
    /// `members/`.
    Members,
    /// `leaders/`.
    Leaders,
    /// `request-ids/`.
    RequestIds,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::Meta,
        Self::Projects,
        Self::Usage,
        Self::Nodes,
        Self::Clusters,
        Self::Apps,
        Self::Revisions,
        Self::Rollouts,
        Self::RolloutMoves,
        Self::Configs,
        Self::ConfigRevisions,
        Self::Secrets,
        Self::SecretRevisions,
        Self::Sealed,
        Self::Assignments,
        Self::Sessions,
        Self::Status,
        Self::Events,
        Self::Authority,
        Self::Tokens,
        Self::Enrollments,
        Self::Users,
        Self::Groups,
        Self::RoleBindings,
        Self::Grants,
        Self::Audit,
        Self::AuditHeads,
        Self::Tasks,
        Self::TaskProgress,
        Self::TaskClaims,
        Self::Prefetches,
        Self::Gateways,
        Self::Members,
        Self::Leaders,
        Self::RequestIds,
    ];

    /// What the family's keys begin with, up to and with the slash.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Meta => "/skerry/v1/meta/",
            Self::Projects => "/skerry/v1/projects/",
            Self::Usage => "/skerry/v1/usage/",
            Self::Nodes => "/skerry/v1/nodes/",
            Self::Clusters => "/skerry/v1/clusters/",
            Self::Apps => "/skerry/v1/apps/",
            Self::Revisions => "/skerry/v1/revisions/",
            Self::Rollouts => "/skerry/v1/rollouts/",
            Self::RolloutMoves => "/skerry/v1/rollout-moves/",
            Self::Configs => "/skerry/v1/configs/",
            Self::ConfigRevisions => "/skerry/v1/config-revisions/",
            Self::Secrets => "/skerry/v1/secrets/",
            Self::SecretRevisions => "/skerry/v1/secret-revisions/",
            Self::Sealed => "/skerry/v1/sealed/",
            Self::Assignments => "/skerry/v1/assignments/",
            Self::Sessions => "/skerry/v1/sessions/",
            Self::Status => "/skerry/v1/status/",
            Self::Events => "/skerry/v1/events/",
            Self::Authority => "/skerry/v1/authority/",
            Self::Tokens => "/skerry/v1/tokens/",
            Self::Enrollments => "/skerry/v1/enrollments/",
            Self::Users => "/skerry/v1/users/",
            Self::Groups => "/skerry/v1/groups/",
            Self::RoleBindings => "/skerry/v1/role-bindings/",
            Self::Grants => "/skerry/v1/grants/",
            Self::Audit => "/skerry/v1/audit/",
            Self::AuditHeads => "/skerry/v1/audit-heads/",
            Self::Tasks => "/skerry/v1/tasks/",
            Self::TaskProgress => "/skerry/v1/task-progress/",
            Self::TaskClaims => "/skerry/v1/task-claims/",
            Self::Prefetches => "/skerry/v1/prefetches/",
            Self::Gateways => "/skerry/v1/gateways/",
            Self::Members => "/skerry/v1/members/",
            Self::Leaders => "/skerry/v1/leaders/",
            Self::RequestIds => "/skerry/v1/request-ids/",
        }
    }

    /// The largest value that may be written, in bytes.
    pub const fn value_bytes_max(self) -> usize {
        match self {
            Self::Meta | Self::Leaders | Self::TaskClaims => 256,
            Self::Usage => 64,
            Self::AuditHeads => 512,
            // The first of a chain names others.
            Self::Audit | Self::Grants => 16 * KIB,
            Self::Projects | Self::Nodes | Self::Clusters | Self::Apps | Self::Configs | Self::Users => {
                128 * KIB
            }
            Self::Revisions => 257 * KIB,
            Self::Rollouts => 8 * KIB,
            // The names of 2,000 clusters.
            Self::RolloutMoves => 160 * KIB,
            Self::ConfigRevisions => 513 * KIB,
            // The longest secret, its encoding, and what sealing adds.
            Self::SecretRevisions | Self::Sealed => 80 * KIB,
            Self::Assignments | Self::Authority | Self::TaskProgress | Self::Prefetches => 64 * KIB,
            Self::Sessions | Self::Gateways | Self::Members => KIB,
            Self::Status | Self::Tokens | Self::Groups | Self::Tasks => 256 * KIB,
            Self::RoleBindings => 384 * KIB,
            Self::Events | Self::Secrets => 192 * KIB,
            Self::RequestIds | Self::Enrollments => 2 * KIB,
        }
    }

    /// Whether it is what users want or whom they trust: nothing here changes without a record in the audit log.
    pub const fn is_audited(self) -> bool {
        matches!(
            self,
            Self::Projects
                | Self::Nodes
                | Self::Clusters
                | Self::Apps
                | Self::Configs
                | Self::Secrets
                | Self::Authority
                | Self::Tokens
                | Self::Users
                | Self::Groups
                | Self::RoleBindings
                | Self::Grants
                | Self::Tasks
        )
    }

    /// Which family a key is of.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| key.starts_with(family.prefix()))
    }
}

/// A message that is stored, and under which names.
pub trait Record: prost::Message + Default + Clone + PartialEq + 'static {
    /// What names one record.
    type Name: KeyName;
    /// Where it is stored.
    const FAMILY: Family;
}

/// A record whose keys begin with a project.
pub trait InProject: Record {}

macro_rules! records {
    ($($record:ident in $family:ident by $name:ty $(, $in_project:ident)?;)*) => {
        $(
            impl Record for pb::$record {
                type Name = $name;
                const FAMILY: Family = Family::$family;
            }
            $(impl $in_project for pb::$record {})?
        )*
    };
}

records! {
    StoreMeta in Meta by TheStore;
    ProjectRecord in Projects by skerry_model::ProjectRef;
    UsageRecord in Usage by UsageName, InProject;
    NodeRecord in Nodes by skerry_model::NodeRef, InProject;
    ClusterRecord in Clusters by skerry_model::ClusterRef, InProject;
    AppRecord in Apps by skerry_model::AppRef, InProject;
    RevisionRecord in Revisions by skerry_model::RevisionRef, InProject;
    RolloutRecord in Rollouts by skerry_model::AppRef, InProject;
    RolloutMoveRecord in RolloutMoves by RolloutMoveName, InProject;
    ConfigRecord in Configs by skerry_model::ConfigRef, InProject;
    ConfigRevisionRecord in ConfigRevisions by ConfigRevisionRef, InProject;
    SecretRecord in Secrets by skerry_model::SecretRef, InProject;
    SecretRevisionRecord in SecretRevisions by SecretRevisionRef, InProject;
    SealedSecretRecord in Sealed by SealedSecretRef, InProject;
    AssignmentRecord in Assignments by skerry_model::NodeRef, InProject;
    SessionRecord in Sessions by skerry_model::NodeRef, InProject;
    StatusRecord in Status by skerry_model::NodeRef, InProject;
    EventsRecord in Events by EventSource, InProject;
    AuthorityRecord in Authority by TheAuthority;
    TokenRecord in Tokens by TokenName, InProject;
    EnrollmentRecord in Enrollments by EnrollmentName, InProject;
    UserRecord in Users by skerry_model::UserRef, InProject;
    GroupRecord in Groups by skerry_model::GroupRef, InProject;
    RoleBindingRecord in RoleBindings by skerry_model::RoleBindingRef, InProject;
    GrantRecord in Grants by skerry_model::GrantRef, InProject;
    TaskRecord in Tasks by skerry_model::TaskRef, InProject;
    TaskProgressRecord in TaskProgress by skerry_model::TaskRef, InProject;
    TaskClaimRecord in TaskClaims by skerry_model::TaskRef, InProject;
    PrefetchRecord in Prefetches by skerry_model::TaskRef, InProject;
    AuditRecord in Audit by AuditName;
    AuditHead in AuditHeads by ChainId;
    GatewayRecord in Gateways by GatewayId;
    MemberRecord in Members by MemberId;
    LeaderRecord in Leaders by LeaderName;
    RequestRecord in RequestIds by RequestName, InProject;
}

/// A text that is not a key of the family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a key of {family:?}")]
pub struct InvalidKey {
    /// The text, cut to 200 characters.
    pub text: String,
    /// The family that was wanted.
    pub family: Family,
}

/// The key of one `R`. Valid by construction. Cheap to clone.
pub struct Key<R> {
    text: Arc<str>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Key<R> {
    /// The key under which `name` is stored.
    pub fn of(name: &R::Name) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(96);
        text.push_str(R::FAMILY.prefix());
        write!(text, "{}", names::Path(name)).expect("writing to a string");
        Self { text: text.into(), record: PhantomData }
    }

    /// Takes a key as it is stored.
    pub fn parse(text: impl Into<Arc<str>>) -> Result<Self, InvalidKey> {
        let text = text.into();
        match text.strip_prefix(R::FAMILY.prefix()).and_then(R::Name::from_path) {
            Some(_) => Ok(Self { text, record: PhantomData }),
            None => Err(InvalidKey { text: text.chars().take(200).collect(), family: R::FAMILY }),
        }
    }

    /// The name that is stored here.
    pub fn name(&self) -> R::Name {
        self.text
            .strip_prefix(R::FAMILY.prefix())
            .and_then(R::Name::from_path)
            .expect("a key is parsed when it is made")
    }
}

impl<R> Key<R> {
    /// The whole key, as etcd has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

/// Some `R`s that stand next to each other. Cheap to clone.
pub struct Prefix<R> {
    text: Arc<str>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Prefix<R> {
    /// All of the family.
    pub fn all() -> Self {
        Self { text: R::FAMILY.prefix().into(), record: PhantomData }
    }

    fn under(path: impl fmt::Display) -> Self {
        Self { text: format!("{}{path}/", R::FAMILY.prefix()).into(), record: PhantomData }
    }
}

impl<R: InProject> Prefix<R> {
    /// All of a project.
    pub fn project(project: &ProjectName) -> Self {
        Self::under(project)
    }
}

impl Prefix<pb::RevisionRecord> {
    /// All revisions of an app.
    pub fn app(app: &skerry_model::AppRef) -> Self {
        Self::under(names::Path(app))
    }
}

impl Prefix<pb::RolloutMoveRecord> {
    /// All moves of an app's rollouts.
    pub fn moves_of(app: &skerry_model::AppRef) -> Self {
        Self::under(names::Path(app))
    }
}

impl Prefix<pb::ConfigRevisionRecord> {
    /// All contents that a config has had.
    pub fn config(config: &skerry_model::ConfigRef) -> Self {
        Self::under(names::Path(config))
    }
}

impl Prefix<pb::SealedSecretRecord> {
    /// All that is sealed to a node.
    pub fn sealed_to(node: &skerry_model::NodeRef) -> Self {
        Self::under(names::Path(node))
    }
}

impl<R> Prefix<R> {
    /// The prefix, as etcd has it. Ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `key` begins with it.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&*self.text)
    }

    /// The same without its type.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

/// The end of the range of all keys that begin with `prefix`, which ends with a slash.
pub(crate) fn range_end(prefix: &str) -> Vec<u8> {
    debug_assert!(prefix.ends_with('/'), "prefixes end with a slash");
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

macro_rules! by_text {
    ($($of:ident)*) => {
        $(
            impl<R> Clone for $of<R> {
                fn clone(&self) -> Self {
                    Self { text: Arc::clone(&self.text), record: PhantomData }
                }
            }
            impl<R> PartialEq for $of<R> {
                fn eq(&self, other: &Self) -> bool {
                    self.text == other.text
                }
            }
            impl<R> Eq for $of<R> {}
            impl<R> PartialOrd for $of<R> {
                fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                    Some(self.cmp(other))
                }
            }
            impl<R> Ord for $of<R> {
                fn cmp(&self, other: &Self) -> Ordering {
                    self.text.cmp(&other.text)
                }
            }
            impl<R> Hash for $of<R> {
                fn hash<H: Hasher>(&self, state: &mut H) {
                    self.text.hash(state);
                }
            }
            impl<R> fmt::Display for $of<R> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(&self.text)
                }
            }
            impl<R> fmt::Debug for $of<R> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(&self.text)
                }
            }
        )*
    };
}

by_text!(Key Prefix);

#[cfg(test)]
mod tests;
