//! The watchdog: who uses more of a shared GPU than is booked for it. Pure: it is told what is booked and what was seen, and answers who is above.
//!
//! One look may have met a peak that was over at once, or a process of a run that has ended since. So it takes two looks, one after the other, to be
//! above in memory; after the first the second is soon, see [`Watchdog::doubted`]. Compute is a mean over a span: each look is a mean over a second, in which any work runs at full speed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use skerry_model::app::OnOveruse;
use skerry_model::{GpuBooking, GpuIsolation, GpuShare, InstanceName};

/// Looks over which the use of compute is taken together.
const SPAN_LOOKS: usize = 10;
/// So much above what is booked of compute is let pass, in percent of the device: that much it is measured wrong.
const SLACK_PERCENT: u32 = 5;
/// Of memory, in bytes: what a context itself takes is not always told apart, and drivers round.
const SLACK_BYTES: u64 = 2 << 20;
/// The same where MPS holds each process to what is booked: above are only several processes together, and what MPS keeps for each is not told apart.
const SLACK_BYTES_MPS: u64 = 256 << 20;

/// What is booked for an instance that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Booked {
    /// Which instance.
    pub(crate) instance: InstanceName,
    /// What of which GPU, and how it is kept to that.
    pub(crate) booking: GpuBooking,
    /// What follows from using more.
    pub(crate) policy: OnOveruse,
}

/// What was seen of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Which look it was: another number is another look.
    pub(crate) look: u64,
    /// When, in milliseconds since 1970.
    pub(crate) time_ms: i64,
    /// Of each instance all its processes together.
    pub(crate) by_instance: BTreeMap<String, Used>,
}

/// What an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Bytes of memory: of those processes of which it is told. Absent: of none it is.
    pub(crate) memory_bytes: Option<u64>,
    /// Of the multiprocessors' time: 0 to 100.
    pub(crate) percent: u32,
}

/// What somebody uses more of than is booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    /// Memory, in bytes.
    Memory {
        /// At the last look.
        used: u64,
        /// For it.
        booked: u64,
    },
    /// Compute, in percent of the device.
    Compute {
        /// On the mean of the last looks.
        used: u32,
        /// For it.
        booked: u32,
    },
}

/// Somebody who uses more than is booked, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overuse {
    /// Who.
    pub(crate) instance: InstanceName,
    /// UUID of the GPU.
    pub(crate) gpu: String,
    /// Of what.
    pub(crate) above: Above,
    /// When the first of the looks was that show it, in milliseconds since 1970: a run that began later is not meant.
    pub(crate) since_ms: i64,
    /// Whether it is to be stopped.
    pub(crate) stop: bool,
}

impl Overuse {
    /// For people, without figures that move.
    pub(crate) fn words(&self) -> String {
        let gpu = &self.gpu;
        match self.above {
            Above::Memory { booked: 0, .. } => {
                format!("it uses memory of {gpu}, of which it has booked nothing")
            }
            Above::Memory { booked, .. } => {
                format!("it uses more memory of {gpu} than the {} MiB that are booked for it", booked >> 20)
            }
            Above::Compute { booked, .. } => {
                format!("it uses more of the compute of {gpu} than the {booked} % that are booked for it")
            }
        }
    }

    /// How much it uses, for people.
    pub(crate) fn figure(&self) -> String {
        match self.above {
            Above::Memory { used, .. } => format!("{} MiB", used >> 20),
            Above::Compute { used, .. } => format!("{used} %"),
        }
    }
}

/// What is remembered of an instance on a GPU.
#[derive(Debug)]
struct Seen {
    /// What it might use then: with another bound it begins anew.
    bound: Bound,
    look: u64,
    /// When it was above in memory at the look before.
    memory: Option<i64>,
    /// The last looks: when, and the percent then.
    compute: VecDeque<(i64, u32)>,
    now: Vec<Overuse>,
}

/// Who is watched on which GPU: the instance, and the GPU's UUID.
type Key = (InstanceName, String);

/// What somebody may use of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    /// Of memory: what is booked, and how much above that is let pass.
    memory: Option<(u64, u64)>,
    /// Of compute, in percent of the device.
    compute: Option<u32>,
    policy: OnOveruse,
}

/// The watchdog.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    seen: BTreeMap<Key, Seen>,
}

impl Watchdog {
    /// Who is above what is booked for it, by what was seen up to now: by UUID of the GPU.
    pub(crate) fn step(&mut self, booked: &[Booked], usage: &BTreeMap<String, Usage>) -> Vec<Overuse> {
        let mut watched = strangers(booked, usage);
        let of_share =
            |one: &Booked| Some(((one.instance.clone(), one.booking.gpu.to_string()), bound(one)?));
        watched.extend(booked.iter().filter_map(of_share));
        self.seen.retain(|key, seen| watched.get(key) == Some(&seen.bound));
        let mut all = Vec::new();
        for (key, bound) in watched {
            let (instance, gpu) = &key;
            let Some(usage) = usage.get(gpu) else { continue };
            let seen = self.seen.entry(key.clone()).or_insert_with(|| Seen::new(bound));
            if seen.look != usage.look {
                seen.look = usage.look;
                let used = usage.by_instance.get(&instance.to_string()).copied();
                let found = [
                    seen.memory(used, bound.memory, usage.time_ms),
                    seen.compute(used, bound.compute, usage.time_ms),
                ];
                let overuse = |(above, since_ms)| Overuse {
                    instance: instance.clone(),
                    gpu: gpu.clone(),
                    above,
                    since_ms,
                    stop: matches!(above, Above::Memory { .. }) && bound.policy == OnOveruse::Stop,
                };
                seen.now = found.into_iter().flatten().map(overuse).collect();
            }
            all.extend(seen.now.iter().cloned());
        }
        all
    }

    /// UUIDs of the GPUs of which somebody was above in memory at the last look and not at the one before: one more look tells whether it stays so.
    pub(crate) fn doubted(&self) -> BTreeSet<String> {
        let doubted = self.seen.iter().filter(|(_, seen)| seen.is_doubted());
        doubted.map(|((_, gpu), _)| gpu.clone()).collect()
    }
}

/// Instances that are on a device of which others have booked something and they have nothing, so that they may use no memory of it. What they were made to see of
/// it is their spec's affair; those of them that have booked another device, and would be stopped for more of that, are stopped.
fn strangers(booked: &[Booked], usage: &BTreeMap<String, Usage>) -> BTreeMap<Key, Bound> {
    let mut all = BTreeMap::new();
    for (gpu, usage) in usage {
        for name in usage.by_instance.keys() {
            let own = || booked.iter().filter(|one| one.instance.to_string() == *name);
            let Ok(instance) = InstanceName::parse(name) else { continue };
            if own().any(|one| one.booking.gpu.as_str() == gpu) {
                continue;
            }
            let is_to_stop = own().any(|one| one.policy == OnOveruse::Stop);
            let policy = if is_to_stop { OnOveruse::Stop } else { OnOveruse::Report };
            let nothing = Bound { memory: Some((0, SLACK_BYTES)), compute: None, policy };
            all.insert((instance, gpu.clone()), nothing);
        }
    }
    all
}

/// What somebody may use of the share that it has booked. `None`: nobody watches that.
fn bound(one: &Booked) -> Option<Bound> {
    let GpuShare::Part { memory_bytes, compute_percent } = one.booking.share else { return None };
    let slack = slack_of(one.booking.isolation)?;
    // The driver tells work of MPS's clients as the server's.
    let compute = compute_percent.filter(|_| one.booking.isolation == GpuIsolation::Accounted);
    Some(Bound { memory: memory_bytes.map(|bytes| (bytes, slack)), compute, policy: one.policy })
}

/// How much more memory than is booked is let pass. `None`: nobody watches, since hardware holds it to that, or nothing can be seen.
fn slack_of(isolation: GpuIsolation) -> Option<u64> {
    match isolation {
        GpuIsolation::Accounted => Some(SLACK_BYTES),
        GpuIsolation::Mps => Some(SLACK_BYTES_MPS),
        GpuIsolation::None | GpuIsolation::Mig | GpuIsolation::Exclusive => None,
    }
}

impl Seen {
    fn new(bound: Bound) -> Self {
        Self { bound, look: 0, memory: None, compute: VecDeque::new(), now: Vec::new() }
    }

    fn is_doubted(&self) -> bool {
        let is_found = self.now.iter().any(|found| matches!(found.above, Above::Memory { .. }));
        self.memory.is_some() && !is_found
    }

    fn memory(&mut self, used: Option<Used>, booked: Option<(u64, u64)>, now: i64) -> Option<(Above, i64)> {
        let used = used.and_then(|used| used.memory_bytes);
        let above = used.zip(booked).filter(|(used, (booked, slack))| *used > booked.saturating_add(*slack));
        let before = std::mem::replace(&mut self.memory, above.map(|_| now));
        let (used, (booked, _)) = above?;
        Some((Above::Memory { used, booked }, before?))
    }

    fn compute(&mut self, used: Option<Used>, booked: Option<u32>, now: i64) -> Option<(Above, i64)> {
        let Some(used) = used else {
            self.compute.clear();
            return None;
        };
        if self.compute.len() >= SPAN_LOOKS {
            self.compute.pop_front();
        }
        self.compute.push_back((now, used.percent));
        let (first, booked) = (self.compute.front()?.0, booked?);
        let sum: u32 = self.compute.iter().map(|(_, percent)| percent.min(&100)).sum();
        let mean = sum / u32::try_from(SPAN_LOOKS).unwrap_or(1);
        let is_above = self.compute.len() == SPAN_LOOKS && mean > booked.saturating_add(SLACK_PERCENT);
        is_above.then_some((Above::Compute { used: mean, booked }, first))
    }
}

#[cfg(test)]
mod tests;
