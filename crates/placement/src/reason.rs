//! Why an instance could not be placed as wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use skerry_model::{ConfigName, InstanceName, NodeName, SecretName, Selector, Taint};

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
        }
    }
}
