//! What one node has while its cluster is planned, and what more it has room for.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use skerry_model::app::{Amounts, Port, Protocol, Spread, UpdateBounds};
use skerry_model::{
    AppName, ConfigName, ContentHash, GpuBooking, GpuId, GpuShare, InstanceName, SealId, SecretName,
    SecretVersion,
};

use crate::gpu;
use crate::reason::Reason;
use crate::state::Node;
use crate::want::Want;

/// Most instances of one node: what an agent, its reports and its assignment are made for.
pub const INSTANCES_MAX: usize = 256;
/// Most bytes of a node's assignment, by the estimate of [`Placed::bytes`]: below the 64 KiB that the store allows.
const ASSIGNMENT_BYTES_MAX: usize = 56 * 1024;

/// Most bytes of the bounds of an update: two times and a flag.
const BOUNDS_BYTES: usize = 40;

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
    /// By what its node takes an update back while nobody is there to decide. Absent: nothing is said.
    pub bounds: Option<UpdateBounds>,
    /// What it has of the node's GPUs, by GPU.
    pub gpus: Vec<GpuBooking>,
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
            + self.bounds.map_or(0, |_| BOUNDS_BYTES)
            + self.gpus.iter().map(GpuBooking::bytes).sum::<usize>()
    }
}

/// What one node has while its cluster is planned.
#[derive(Debug, Clone)]
pub(crate) struct Books<'a> {
    pub(crate) node: &'a Node,
    entries: BTreeMap<InstanceName, Placed>,
    /// Instances of each service that the cluster shall have.
    counts: Vec<u32>,
    cpu_millis: u64,
    memory_bytes: u64,
    assignment_bytes: usize,
}

impl<'a> Books<'a> {
    /// Nothing yet, of so many services.
    pub(crate) fn new(node: &'a Node, services: usize) -> Self {
        Self {
            node,
            entries: BTreeMap::new(),
            counts: vec![0; services],
            cpu_millis: 0,
            memory_bytes: 0,
            assignment_bytes: 0,
        }
    }

    /// How many instances of a service it has.
    pub(crate) fn count(&self, service: usize) -> u32 {
        self.counts[service]
    }

    /// How many instances it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How much of processor and memory is free once `more` is taken, in thousandths of each, added up. Absent: it has not told how much it has.
    pub(crate) fn free(&self, more: Amounts) -> Option<u64> {
        let share = |capacity: u64, used: u64, more: Option<u64>| {
            let free = capacity.saturating_sub(used).saturating_sub(more.unwrap_or(0));
            free.saturating_mul(1000) / capacity.max(1)
        };
        let cpu = self.node.cpu_millis.map(|cpu| share(cpu, self.cpu_millis, more.cpu_millis));
        let memory = self.node.memory_bytes.map(|memory| share(memory, self.memory_bytes, more.memory_bytes));
        match (cpu, memory) {
            (None, None) => None,
            (cpu, memory) => Some(cpu.unwrap_or(1000) + memory.unwrap_or(1000)),
        }
    }

    /// Gives an instance of a service its place.
    pub(crate) fn insert(&mut self, service: usize, placed: Placed) {
        self.counts[service] += 1;
        self.cpu_millis += placed.booked.cpu_millis.unwrap_or(0);
        self.memory_bytes += placed.booked.memory_bytes.unwrap_or(0);
        self.assignment_bytes += placed.bytes();
        self.entries.insert(placed.instance.clone(), placed);
    }

    /// Takes its place from an instance of a service, if it has one.
    pub(crate) fn remove(&mut self, service: usize, instance: &InstanceName) -> Option<Placed> {
        let placed = self.entries.remove(instance)?;
        self.counts[service] -= 1;
        self.cpu_millis -= placed.booked.cpu_millis.unwrap_or(0);
        self.memory_bytes -= placed.booked.memory_bytes.unwrap_or(0);
        self.assignment_bytes -= placed.bytes();
        Some(placed)
    }

    /// By instance name.
    pub(crate) fn into_placed(self) -> Vec<Placed> {
        self.entries.into_values().collect()
    }

    /// Brings an instance that is here to the wanted revision, or leaves it as it is and says why.
    pub(crate) fn settle(
        &mut self,
        service: usize,
        instance: &InstanceName,
        want: &Want<'_>,
    ) -> Result<(), Reason> {
        let before = self.remove(service, instance);
        let met = before.as_ref().filter(|placed| want.is_met_by(placed, self.node.seal));
        let settled = match met {
            Some(placed) => Ok(placed.clone()),
            None => self.fit_from(instance, want, before.as_ref().map_or(&[], |placed| &placed.gpus)),
        };
        let (placed, result) = match settled {
            Ok(placed) => (Some(placed), Ok(())),
            Err(reason) => (before, Err(reason)),
        };
        if let Some(placed) = placed {
            self.insert(service, placed);
        }
        result
    }

    /// Whether an instance that is here has something of a GPU that who may leaves.
    pub(crate) fn is_sick(&self, instance: &InstanceName) -> bool {
        self.entries.get(instance).is_some_and(|placed| gpu::is_sick(&self.node.gpus, &placed.gpus))
    }

    /// Gives an instance that is here, and has something of a GPU that it may leave, its place on others; answers whether there are any.
    pub(crate) fn heal(&mut self, service: usize, instance: &InstanceName, want: &Want<'_>) -> bool {
        let Some(before) = self.remove(service, instance) else { return false };
        let healed = self.fit(instance, want);
        let is_healed = healed.is_ok();
        self.insert(service, healed.unwrap_or(before));
        is_healed
    }

    /// For who would rather fill GPUs: how much of them would be left with an instance more, and where that is the same, how many have some of them already. Less
    /// comes first. Absent: it does not care, or they have no room.
    pub(crate) fn gpu_fill(&self, want: &Want<'_>) -> Option<(u64, Reverse<usize>)> {
        let ask = want.service.gpu.as_ref().filter(|ask| ask.spread == Some(Spread::Pack))?;
        let choice = gpu::choose(&self.node.gpus, self.taken_gpus(want.name), ask, &[]).ok()?;
        Some((choice.left, Reverse(self.taken_gpus(want.name).count())))
    }

    /// What is had of GPUs, or is to be. What runs still in another revision, or shall be here no more, has what it was given until it has ended. Within an app, of
    /// which somebody comes, that is the node's to wait for: an update makes room for itself.
    fn taken_gpus<'b>(&'b self, app: &'b AppName) -> impl Iterator<Item = (&'b GpuId, Cow<'b, GpuShare>)> {
        let booked = self.entries.values().flat_map(|placed| &placed.gpus);
        let held = self.node.held_gpus.iter().filter(move |(name, _)| name.app != *app);
        let beyond = held.flat_map(|(name, held)| {
            let booked = self.entries.get(name).map_or(&[][..], |placed| &placed.gpus);
            held.iter().filter_map(|one| {
                let same = booked.iter().find(|booking| booking.gpu == one.gpu);
                let share =
                    same.map_or_else(|| Some(one.share.clone()), |same| one.share.beyond(&same.share));
                Some((&one.gpu, Cow::Owned(share?)))
            })
        });
        booked.map(|booking| (&booking.gpu, Cow::Borrowed(&booking.share))).chain(beyond)
    }

    /// An instance as it would be here, if there is room.
    pub(crate) fn fit(&self, instance: &InstanceName, want: &Want<'_>) -> Result<Placed, Reason> {
        self.fit_from(instance, want, &[])
    }

    /// The same of one that has this of GPUs here.
    fn fit_from(
        &self,
        instance: &InstanceName,
        want: &Want<'_>,
        before: &[GpuBooking],
    ) -> Result<Placed, Reason> {
        let configs = want.configs()?;
        let secrets = want.secrets(self.node.seal)?;
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
        if let Some((wanted, free)) = short(self.node.cpu_millis, self.cpu_millis, booked.cpu_millis) {
            return Err(Reason::InsufficientCpu { wanted, free });
        }
        if let Some((wanted, free)) = short(self.node.memory_bytes, self.memory_bytes, booked.memory_bytes) {
            return Err(Reason::InsufficientMemory { wanted, free });
        }
        let gpus = match &want.service.gpu {
            Some(ask) => gpu::choose(&self.node.gpus, self.taken_gpus(want.name), ask, before)?.bookings,
            None => Vec::new(),
        };
        let placed = Placed {
            instance: instance.clone(),
            revision: want.app.revision,
            configs,
            secrets,
            booked,
            ports,
            bounds: want.app.bounds,
            gpus,
        };
        let bytes = self.assignment_bytes + placed.bytes();
        if self.entries.len() >= INSTANCES_MAX || bytes > ASSIGNMENT_BYTES_MAX {
            return Err(Reason::NodeFull { instances: self.entries.len() });
        }
        Ok(placed)
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
