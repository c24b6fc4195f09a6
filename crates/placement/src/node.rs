//! One node's plan: what stays, what comes, what cannot and why.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use skerry_model::app::{Amounts, Kind, Port, Protocol, ServiceSpec};
use skerry_model::{
    AppName, ClusterName, ConfigName, ContentHash, InstanceName, NodeName, SealId, SecretName, SecretVersion,
};

use crate::state::{App, Node, Secret, Wanted};

/// Most instances of one node: what an agent, its reports and its assignment are made for.
pub const INSTANCES_MAX: usize = 256;
/// Most bytes of a node's assignment, by the estimate of [`Placed::bytes`]: below the 64 KiB that the store allows.
const ASSIGNMENT_BYTES_MAX: usize = 56 * 1024;

/// An instance on a node, with what it takes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which instance.
    pub instance: InstanceName,
    /// Revision of its app.
    pub revision: ContentHash,
    /// Content of each config that it mounts.
    pub configs: BTreeMap<ConfigName, ContentHash>,
    /// Each secret that it uses.
    pub secrets: BTreeMap<SecretName, SealedSecret>,
    /// What is kept free for it.
    pub booked: Amounts,
    /// Ports of the machine that it takes.
    pub ports: Vec<Port>,
}

/// A secret as a node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealedSecret {
    /// Its values.
    pub version: SecretVersion,
    /// What it is sealed to.
    pub seal: SealId,
}

impl Placed {
    /// About how large it is in an assignment: its name and a hash, and as much for each config, with room for the encoding.
    fn bytes(&self) -> usize {
        let entry = |name: usize| name + 64 + 12;
        entry(self.instance.to_string().len())
            + self.configs.keys().map(|config| entry(config.as_str().len())).sum::<usize>()
            + self.secrets.keys().map(|secret| entry(secret.as_str().len())).sum::<usize>()
    }
}

/// An instance that could not be placed as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Which instance.
    pub instance: InstanceName,
    /// Why.
    pub reason: Reason,
    /// It runs on in the revision that it had.
    pub kept: bool,
}

/// Why an instance could not be placed as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The node takes nothing new.
    NodeCordoned,
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
            Self::NodeCordoned => "NodeCordoned",
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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeCordoned => f.write_str("the node is cordoned and takes nothing new"),
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

/// What one node shall run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// By instance name.
    pub placed: Vec<Placed>,
    /// What could not be placed as wanted, by instance name.
    pub unplaced: Vec<Unplaced>,
}

/// What is taken on the node while it is planned.
struct Books {
    cpu_millis: Option<u64>,
    memory_bytes: Option<u64>,
    entries: BTreeMap<InstanceName, Placed>,
}

/// Plans one node. What it runs already has its place and comes first; then what is new, both in the order of names. An instance whose new
/// revision does not fit keeps running in the old one, with the reason.
pub(crate) fn plan(
    name: &NodeName,
    node: &Node,
    apps: &BTreeMap<AppName, App>,
    previous: &[Placed],
) -> NodePlan {
    let wanted = wanted_on(name, node, apps);
    let mut books = Books {
        cpu_millis: node.cpu_millis,
        memory_bytes: node.memory_bytes,
        entries: previous
            .iter()
            .filter(|placed| wanted.contains_key(&placed.instance))
            .map(|placed| (placed.instance.clone(), placed.clone()))
            .collect(),
    };
    let (held, new): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(instance, _)| books.entries.contains_key(instance));
    let mut open: Vec<_> = held.into_iter().chain(new).collect();
    // One that takes its place may free what another waits for: go round until nobody moves. Each moves once at most.
    let mut unplaced = loop {
        let before = open.len();
        let mut refused = Vec::new();
        open.retain(|(instance, want)| {
            let unplaced = books.settle(instance, want, node);
            let stays = unplaced.is_some();
            refused.extend(unplaced);
            stays
        });
        if open.len() == before {
            break refused;
        }
    };
    unplaced.sort_by(|a, b| a.instance.cmp(&b.instance));
    NodePlan { placed: books.entries.into_values().collect(), unplaced }
}

/// One instance that should run.
struct Want<'a> {
    app: &'a Wanted,
    service: &'a ServiceSpec,
}

fn wanted_on<'a>(
    name: &NodeName,
    node: &Node,
    apps: &'a BTreeMap<AppName, App>,
) -> BTreeMap<InstanceName, Want<'a>> {
    let cluster = ClusterName::from(name.clone());
    let mut wanted = BTreeMap::new();
    let here = apps.iter().map(|(name, app)| (name, app.wanted(&cluster)));
    for (app_name, app) in here.filter(|(_, app)| app.spec.selector.matches(&node.labels)) {
        for service in &app.spec.services {
            let count = match &service.kind {
                Kind::Deployment { replicas } => *replicas,
                Kind::DaemonSet => 1,
                Kind::Job(job) => job.instances(),
                Kind::CronJob(cron) => cron.instances(),
            };
            for ordinal in 0..count {
                let instance = InstanceName {
                    app: app_name.clone(),
                    service: service.name.clone(),
                    cluster: cluster.clone(),
                    ordinal,
                };
                wanted.insert(instance, Want { app, service });
            }
        }
    }
    wanted
}

impl Want<'_> {
    /// The configs at their current content, or the first that does not exist.
    fn configs(&self) -> Result<BTreeMap<ConfigName, ContentHash>, Reason> {
        self.service
            .config_names()
            .into_iter()
            .map(|name| match self.app.configs.get(name) {
                Some(hash) => Ok((name.clone(), *hash)),
                None => Err(Reason::ConfigMissing { config: name.clone() }),
            })
            .collect()
    }

    /// The secrets at their current values, sealed to a node, or the first that cannot be.
    fn secrets(&self, seal: Option<SealId>) -> Result<BTreeMap<SecretName, SealedSecret>, Reason> {
        let sealed = |name: &SecretName| {
            let secret = name.clone();
            match (self.app.secrets.get(name), seal) {
                (None, _) => Err(Reason::SecretMissing { secret }),
                (Some(_), None) => Err(Reason::NodeHasNoSealingKey { secret }),
                (Some(Secret { unreadable: Some(why), .. }), _) => {
                    Err(Reason::SecretUnreadable { secret, why: why.clone() })
                }
                (Some(Secret { version, .. }), Some(seal)) => {
                    Ok((secret, SealedSecret { version: *version, seal }))
                }
            }
        };
        self.service.secret_names().into_iter().map(sealed).collect()
    }

    fn is_met_by(&self, placed: &Placed, seal: Option<SealId>) -> bool {
        // What cannot be sealed now need not be, where the node has it.
        let has = |secret: &Secret, placed: &SealedSecret| {
            secret.version == placed.version
                && (secret.unreadable.is_some() || seal.is_none_or(|seal| seal == placed.seal))
        };
        let names = self.service.secret_names();
        let has_secrets = names.len() == placed.secrets.len()
            && names.iter().all(|name| {
                self.app.secrets.get(*name).zip(placed.secrets.get(*name)).is_some_and(|(a, b)| has(a, b))
            });
        placed.revision == self.app.revision
            && has_secrets
            && self.configs().is_ok_and(|configs| configs == placed.configs)
    }
}

impl Books {
    /// Gives an instance its place in the wanted revision, or leaves it as it was and says why.
    fn settle(&mut self, instance: &InstanceName, want: &Want<'_>, node: &Node) -> Option<Unplaced> {
        let before = self.entries.remove(instance);
        if let Some(placed) = before.as_ref().filter(|placed| want.is_met_by(placed, node.seal)) {
            self.entries.insert(instance.clone(), placed.clone());
            return None;
        }
        match self.fit(instance, want, node, before.is_none()) {
            Ok(placed) => {
                self.entries.insert(instance.clone(), placed);
                None
            }
            Err(reason) => {
                let kept = before.is_some();
                self.entries.extend(before.map(|before| (instance.clone(), before)));
                Some(Unplaced { instance: instance.clone(), reason, kept })
            }
        }
    }

    fn fit(
        &self,
        instance: &InstanceName,
        want: &Want<'_>,
        node: &Node,
        is_new: bool,
    ) -> Result<Placed, Reason> {
        if node.cordoned && is_new {
            return Err(Reason::NodeCordoned);
        }
        let configs = want.configs()?;
        let secrets = want.secrets(node.seal)?;
        let ports = want.service.ports_of(instance.ordinal).to_vec();
        for port in &ports {
            if let Some(by) = self.holder(port) {
                return Err(Reason::PortTaken { port: port.host_port, by: by.clone() });
            }
        }
        let booked = want.service.booked_by(instance.ordinal);
        let short = |capacity: Option<u64>, used: u64, wanted: Option<u64>| {
            let (capacity, wanted) = (capacity?, wanted?);
            let free = capacity.saturating_sub(used);
            (wanted > free).then_some((wanted, free))
        };
        let sum = |amount: fn(&Amounts) -> Option<u64>| {
            self.entries.values().filter_map(|e| amount(&e.booked)).sum()
        };
        if let Some((wanted, free)) = short(self.cpu_millis, sum(|a| a.cpu_millis), booked.cpu_millis) {
            return Err(Reason::InsufficientCpu { wanted, free });
        }
        if let Some((wanted, free)) = short(self.memory_bytes, sum(|a| a.memory_bytes), booked.memory_bytes) {
            return Err(Reason::InsufficientMemory { wanted, free });
        }
        let placed = Placed {
            instance: instance.clone(),
            revision: want.app.revision,
            configs,
            secrets,
            booked,
            ports,
        };
        if self.entries.len() >= INSTANCES_MAX || self.bytes() + placed.bytes() > ASSIGNMENT_BYTES_MAX {
            return Err(Reason::NodeFull { instances: self.entries.len() });
        }
        Ok(placed)
    }

    fn bytes(&self) -> usize {
        self.entries.values().map(Placed::bytes).sum()
    }

    /// Who has a port that `port` would collide with.
    fn holder(&self, port: &Port) -> Option<&InstanceName> {
        self.entries
            .values()
            .find(|entry| entry.ports.iter().any(|taken| collide(taken, port)))
            .map(|entry| &entry.instance)
    }
}

fn collide(a: &Port, b: &Port) -> bool {
    let same: fn(&Port) -> (u16, Protocol) = |port| (port.host_port, port.protocol);
    let everywhere = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    same(a) == same(b)
        && (everywhere(a.host_address) || everywhere(b.host_address) || a.host_address == b.host_address)
}
