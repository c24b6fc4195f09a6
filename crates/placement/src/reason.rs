//! Why an instance could not be placed as wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use skerry_model::app::ModelSelector;
use skerry_model::{
    ConfigName, GpuId, GpuIsolation, InstanceName, MigProfile, NodeName, SecretName, Selector, Taint,
};

use crate::books::INSTANCES_MAX;

/// Why an instance could not be placed as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// None of several members of the cluster takes it.
    NoMemberFits {
        /// Why each of them does not.
        members: Arc<BTreeMap<NodeName, Reason>>,
    },
    /// None of several members of the cluster matches the service's node selector.
    NoMatchingMember {
        /// The selector.
        selector: Selector,
        /// How many members there are.
        members: usize,
    },
    /// The app is a system app, and of the cluster other members are chosen for it.
    NotChosen {
        /// The label that chooses a node.
        label: String,
    },
    /// The service's node selector does not match the node.
    NodeSelectorMismatch {
        /// The selector.
        selector: Selector,
    },
    /// The machine is of none of the architectures that the service is for.
    ArchitectureMismatch {
        /// Those that it is for.
        wanted: Vec<String>,
        /// The machine's. Absent: it has not been reported yet.
        found: Option<String>,
    },
    /// The node has a taint that the service does not bear.
    Tainted {
        /// The taint.
        taint: Taint,
    },
    /// The node cannot be reached.
    NodeLost,
    /// The node takes nothing new.
    NodeCordoned,
    /// The other instances of the job are on another member of the cluster.
    JobElsewhere {
        /// Which.
        node: NodeName,
    },
    /// A config that it mounts does not exist.
    ConfigMissing {
        /// Which.
        config: ConfigName,
    },
    /// A secret that it uses does not exist.
    SecretMissing {
        /// Which.
        secret: SecretName,
    },
    /// A secret that it uses cannot be opened by the scheduler, so that it can be sealed to no node.
    SecretUnreadable {
        /// Which.
        secret: SecretName,
        /// Why, and what mends it.
        why: String,
    },
    /// It uses a secret, and the node has no key to which it could be sealed.
    NodeHasNoSealingKey {
        /// Which secret.
        secret: SecretName,
    },
    /// Another instance has the port.
    PortTaken {
        /// The port.
        port: u16,
        /// Who has it.
        by: InstanceName,
    },
    /// The node has as many instances as it may have, or its assignment has no room for another.
    NodeFull {
        /// How many it has.
        instances: usize,
    },
    /// Too little processor is free.
    InsufficientCpu {
        /// Thousandths that it wants.
        wanted: u64,
        /// Thousandths that are free.
        free: u64,
    },
    /// Too little memory is free.
    InsufficientMemory {
        /// Bytes that it wants.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The node has fewer GPUs than are wanted, as far as it has told.
    GpuMissing {
        /// How many are wanted of one node.
        wanted: u32,
        /// How many it has.
        found: u32,
    },
    /// None of the node's GPUs is of a model that is meant.
    GpuModel {
        /// Those that are meant.
        models: ModelSelector,
    },
    /// A GPU that would do takes nobody new.
    GpuUnhealthy {
        /// Which: of several the first.
        gpu: GpuId,
        /// Why, in words for programs.
        why: String,
    },
    /// GPUs that would do are divided in hardware, and are had by their parts alone.
    GpuDivided,
    /// No GPU that would do has parts of this size.
    GpuProfile {
        /// The size.
        profile: MigProfile,
    },
    /// What uses a GPU of this node would be kept from others less well than it must be.
    GpuIsolation {
        /// The least that will do.
        wanted: GpuIsolation,
        /// The best that would be granted.
        granted: GpuIsolation,
    },
    /// Of the GPUs that would do too few are free of others; or of the parts of this size none is.
    GpuTaken {
        /// How many are wanted.
        wanted: u32,
        /// How many are free.
        free: u32,
    },
    /// On no GPU that would do is enough compute free.
    GpuCompute {
        /// Percent that it wants of one.
        wanted: u32,
        /// The most that is free on one.
        free: u32,
    },
    /// On no GPU that would do is enough memory free.
    GpuMemory {
        /// Bytes that it wants of one.
        wanted: u64,
        /// The most that is free on one.
        free: u64,
    },
}

impl Reason {
    /// One CamelCase word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoMemberFits { .. } => "NoMemberFits",
            Self::NoMatchingMember { .. } => "NoMatchingMember",
            Self::NotChosen { .. } => "NotChosen",
            Self::NodeSelectorMismatch { .. } => "NodeSelectorMismatch",
            Self::ArchitectureMismatch { .. } => "ArchitectureMismatch",
            Self::Tainted { .. } => "Tainted",
            Self::NodeLost => "NodeLost",
            Self::NodeCordoned => "NodeCordoned",
            Self::JobElsewhere { .. } => "JobElsewhere",
            Self::ConfigMissing { .. } => "ConfigMissing",
            Self::SecretMissing { .. } => "SecretMissing",
            Self::SecretUnreadable { .. } => "SecretUnreadable",
            Self::NodeHasNoSealingKey { .. } => "NodeHasNoSealingKey",
            Self::PortTaken { .. } => "PortTaken",
            Self::NodeFull { .. } => "NodeFull",
            Self::InsufficientCpu { .. } => "InsufficientCpu",
            Self::InsufficientMemory { .. } => "InsufficientMemory",
            Self::GpuMissing { .. } => "GpuMissing",
            Self::GpuModel { .. } => "GpuModel",
            Self::GpuUnhealthy { .. } => "GpuUnhealthy",
            Self::GpuDivided => "GpuDivided",
            Self::GpuProfile { .. } => "GpuProfile",
            Self::GpuIsolation { .. } => "GpuIsolation",
            Self::GpuTaken { .. } => "GpuTaken",
            Self::GpuCompute { .. } => "GpuCompute",
            Self::GpuMemory { .. } => "GpuMemory",
        }
    }

    /// What of a member keeps it away, where members are counted.
    fn short(&self) -> String {
        match self {
            Self::NoMemberFits { .. } | Self::NoMatchingMember { .. } => {
                "without a member that fits".to_owned()
            }
            Self::NotChosen { label } => format!("without the label {label}"),
            Self::NodeSelectorMismatch { .. } => "not matched by the node selector".to_owned(),
            Self::ArchitectureMismatch { found: Some(found), .. } => format!("of architecture {found}"),
            Self::ArchitectureMismatch { found: None, .. } => "of unknown architecture".to_owned(),
            Self::Tainted { taint } => format!("tainted {taint}"),
            Self::NodeLost => "unreachable".to_owned(),
            Self::NodeCordoned => "cordoned".to_owned(),
            Self::JobElsewhere { node } => format!("without the job's other instances, which are on {node}"),
            Self::ConfigMissing { config } => format!("without config {config}"),
            Self::SecretMissing { secret } | Self::SecretUnreadable { secret, .. } => {
                format!("without secret {secret}")
            }
            Self::NodeHasNoSealingKey { .. } => "without a sealing key".to_owned(),
            Self::PortTaken { port, .. } => format!("port {port} taken"),
            Self::NodeFull { .. } => "full".to_owned(),
            Self::InsufficientCpu { .. } => "insufficient cpu".to_owned(),
            Self::InsufficientMemory { .. } => "insufficient memory".to_owned(),
            Self::GpuMissing { .. } => "without enough GPUs".to_owned(),
            Self::GpuModel { .. } => "without a GPU of the model".to_owned(),
            Self::GpuUnhealthy { .. } => "with an unhealthy GPU".to_owned(),
            Self::GpuDivided => "with a divided GPU".to_owned(),
            Self::GpuProfile { profile } => format!("without a part {profile} of a GPU"),
            Self::GpuIsolation { granted, .. } => format!("with GPU isolation {granted}"),
            Self::GpuTaken { .. } => "GPU taken".to_owned(),
            Self::GpuCompute { .. } => "insufficient GPU compute".to_owned(),
            Self::GpuMemory { .. } => "insufficient GPU memory".to_owned(),
        }
    }
}

/// How many members are kept away by what: the most frequent first.
fn summary(members: &BTreeMap<NodeName, Reason>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in members.values() {
        *counts.entry(reason.short()).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemberFits { members } => write!(f, "0/{} members: {}", members.len(), summary(members)),
            Self::NoMatchingMember { selector, members } => {
                write!(f, "none of the cluster's {members} members matches the node selector `{selector}`")
            }
            Self::NotChosen { label } => {
                write!(f, "the node is not chosen for this system app: it does not have the label `{label}`")
            }
            Self::NodeSelectorMismatch { selector } => {
                write!(f, "the node does not match the node selector `{selector}`")
            }
            Self::ArchitectureMismatch { wanted, found: Some(found) } => {
                write!(
                    f,
                    "the machine is of architecture {found}, and the service is for {}",
                    wanted.join(", ")
                )
            }
            Self::ArchitectureMismatch { wanted, found: None } => write!(
                f,
                "the service is for {}, and the machine has not told its architecture yet",
                wanted.join(", ")
            ),
            Self::Tainted { taint } => {
                write!(f, "the node has the taint {taint}, which the service does not bear (tolerations)")
            }
            Self::NodeLost => f.write_str("the node cannot be reached"),
            Self::NodeCordoned => f.write_str("the node is cordoned and takes nothing new"),
            Self::JobElsewhere { node } => write!(f, "the job's other instances are on node {node}"),
            Self::ConfigMissing { config } => write!(f, "config `{config}` does not exist"),
            Self::SecretMissing { secret } => write!(f, "secret `{secret}` does not exist"),
            Self::SecretUnreadable { secret, why } => write!(f, "secret `{secret}` cannot be opened: {why}"),
            Self::NodeHasNoSealingKey { secret } => {
                write!(
                    f,
                    "the node has no key to which secret `{secret}` could be sealed: it has not enrolled"
                )
            }
            Self::PortTaken { port, by } => write!(f, "port {port} of the node is taken by {by}"),
            Self::NodeFull { instances } => {
                write!(
                    f,
                    "the node has {instances} instances already: at most {INSTANCES_MAX}, and fewer where names are long"
                )
            }
            Self::InsufficientCpu { wanted, free } => {
                write!(f, "{wanted} thousandths of a processor are wanted, {free} are free")
            }
            Self::InsufficientMemory { wanted, free } => {
                write!(f, "{wanted} bytes of memory are wanted, {free} are free")
            }
            Self::GpuMissing { .. }
            | Self::GpuModel { .. }
            | Self::GpuUnhealthy { .. }
            | Self::GpuDivided
            | Self::GpuProfile { .. }
            | Self::GpuIsolation { .. }
            | Self::GpuTaken { .. }
            | Self::GpuCompute { .. }
            | Self::GpuMemory { .. } => self.fmt_gpu(f),
        }
    }
}

impl Reason {
    /// Of GPUs, as a sentence.
    fn fmt_gpu(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GpuMissing { found: 0, .. } => f.write_str("the node has no GPU, or has not told of it yet"),
            Self::GpuMissing { wanted, found } => {
                write!(f, "{wanted} GPUs of one node are wanted, and it has {found}")
            }
            Self::GpuModel { models } => write!(f, "no GPU of the node is of a model that is meant: {models}"),
            Self::GpuUnhealthy { gpu, why } => {
                write!(f, "GPU {gpu} takes nothing new ({why}), and no other one of the node would do")
            }
            Self::GpuDivided => f.write_str(
                "the node's GPUs are divided into parts, and neither whole ones nor shares can be had (migProfile)",
            ),
            Self::GpuProfile { profile } => write!(f, "no GPU of the node is divided into parts {profile}"),
            Self::GpuIsolation { wanted, granted } => write!(
                f,
                "isolation {wanted} is wanted at least (isolationMin), and the node's GPUs have {granted} at best"
            ),
            Self::GpuTaken { wanted: 1, .. } => {
                f.write_str("other instances have what would do of the node's GPUs (`skerry get allocations` shows who)")
            }
            Self::GpuTaken { wanted, free } => {
                write!(f, "{wanted} GPUs are wanted, and {free} that would do are free of other instances")
            }
            Self::GpuCompute { wanted, free } => {
                write!(f, "{wanted} percent of one GPU's compute are wanted, and at most {free} are free on one")
            }
            Self::GpuMemory { wanted, free } => {
                write!(f, "{wanted} bytes of one GPU's memory are wanted, and at most {free} are free on one")
            }
            _ => f.write_str(self.word()),
        }
    }
}
