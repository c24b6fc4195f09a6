//! What a control file says of one card.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ControlError, is_default};
use crate::profile::Profile;

/// So many links has no card, and nothing else of which there are several either.
const MANY_MAX: usize = 1024;

/// What is particular to a card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceControl {
    /// Which card: its place in the machine, from 0.
    pub index: u32,
    /// Whether it has fallen off the bus: its calls answer `GPU_IS_LOST`, and XID 79 happens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lost: bool,
    /// Memory in use in MiB, at least what the processes use together; where nothing stands here it follows from processes and load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_mib: Option<u64>,
    /// Temperature around the card, in degrees Celsius: 25 by default, at most 90. With 60 and much load it throttles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambient_c: Option<u8>,
    /// The power limit, in watts, within the card's bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_w: Option<u32>,
    /// How often the PCIe link repeated something.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pcie_replays: u32,
    /// Who may compute on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compute_mode: ComputeMode,
    /// What it does; without it and with processes that say so, what they do; else a lively load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Errors of memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ecc: EccErrors,
    /// Retired pages, on cards that retire them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retired_pages: RetiredPages,
    /// Remapped rows, on cards that remap them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub remapped_rows: RemappedRows,
    /// Links to other cards, on cards that have them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nvlink: NvLinkControl,
    /// Partitions, on cards that can be partitioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// What runs on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<Process>,
}

impl DeviceControl {
    /// Of a card of which nothing else is said.
    pub fn of(index: u32) -> Self {
        Self { index, ..Self::default() }
    }

    pub(super) fn check(&self, field: &str, profile: &Profile) -> Result<(), ControlError> {
        let fault = |key: &str, text: String| Err(ControlError::value(format!("{field}.{key}"), text));
        let usable = profile.memory.total_mib - profile.memory.reserved_mib;
        let mut rest = usable;
        if self.process.len() > MANY_MAX {
            return fault("process", format!("has more than {MANY_MAX} entries"));
        }
        for (at, process) in self.process.iter().enumerate() {
            if process.pid == 0 {
                return fault(
                    &format!("process[{at}].pid"),
                    "0 is no process: write the number of one".to_owned(),
                );
            }
            let Some(left) = rest.checked_sub(process.memory_mib.unwrap_or(0)) else {
                let key = format!("process[{at}].memory_mib");
                return fault(
                    &key,
                    format!("processes use more together than the {usable} MiB that there are"),
                );
            };
            rest = left;
            let instances = self.instances().len();
            if let Some(mig) = process.mig
                && usize::try_from(mig).is_ok_and(|mig| mig >= instances)
            {
                let text =
                    format!("there is no instance {mig}: card {} has {instances} with MIG on", self.index);
                return fault(&format!("process[{at}].mig"), text);
            }
        }
        if let Some(used) = self.memory_used_mib
            && !(usable - rest..=usable).contains(&used)
        {
            let least = usable - rest;
            return fault(
                "memory_used_mib",
                format!("{used} is not within {least} (what processes use) and {usable}"),
            );
        }
        if let Some(ambient) = self.ambient_c.filter(|ambient| *ambient > 90) {
            return fault("ambient_c", format!("{ambient} degrees are too hot: at most 90"));
        }
        let bounds = profile.power.limit_min_w..=profile.power.limit_max_w;
        if let Some(limit) = self.power_limit_w.filter(|limit| !bounds.contains(limit)) {
            let text = format!("{limit} W is not within {} and {} W", bounds.start(), bounds.end());
            return fault("power_limit_w", text);
        }
        if let Some(load) = &self.load
            && load.period_s.is_some_and(|period| !(1..=86400).contains(&period))
        {
            return fault("load.period_s", "is not within 1 second and a day (86400)".to_owned());
        }
        let links = profile.nvlink.as_ref().map_or(0, |nvlink| nvlink.links);
        if let Some(link) = self.nvlink.down.iter().find(|link| **link >= links) {
            return fault("nvlink.down", format!("there is no link {link}: {} has {links}", profile.name));
        }
        let pages = [self.retired_pages.single_bit, self.retired_pages.double_bit];
        if pages.iter().any(|count| usize::try_from(*count).is_ok_and(|count| count > MANY_MAX)) {
            return fault("retired_pages", format!("are more than {MANY_MAX}"));
        }
        self.mig.as_ref().map_or(Ok(()), |mig| mig.check(&format!("{field}.mig"), profile))
    }

    /// Instances that are there: none while MIG is off.
    pub(crate) fn instances(&self) -> &[MigInstance] {
        self.mig.as_ref().filter(|mig| mig.enabled).map_or(&[], |mig| &mig.instances)
    }
}

/// A part of a hundred: 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Percent(u8);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// All.
    pub const FULL: Self = Self(100);

    /// What is more than 100 counts as 100.
    pub const fn saturating(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent })
    }

    pub(crate) fn get(self) -> f64 {
        f64::from(self.0)
    }
}

impl From<Percent> for u32 {
    fn from(percent: Percent) -> Self {
        Self::from(percent.0)
    }
}

impl TryFrom<u32> for Percent {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        let fits = u8::try_from(number).ok().filter(|number| *number <= 100);
        fits.map(Self).ok_or_else(|| format!("{number} is no percentage: write 0 to 100"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// What a card does over time. Noise comes on top, always the same for a seed and a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// The course.
    pub shape: Shape,
    /// Utilisation at the highest of the course: 85 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_percent: Option<Percent>,
    /// Of the memory controller, in the same way; half of the GPU's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<Percent>,
    /// Of the encoder: 0 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub encoder_percent: Percent,
    /// Of the decoder: 0 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub decoder_percent: Percent,
    /// How far noise goes up and down: 6 by default, 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_percent: Option<Percent>,
    /// How long one course takes: 60 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_s: Option<u32>,
}

/// The course of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Nothing.
    Idle,
    /// Always the highest.
    Steady,
    /// Up and down as a sine.
    #[default]
    Wave,
    /// Nothing, and then all for a while, at times that look like chance: requests.
    Bursts,
    /// High for most of a period, and down at its end: steps of training with a checkpoint.
    Training,
}

/// Who may compute on a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeMode {
    /// Any process.
    #[default]
    Default = 0,
    /// None.
    Prohibited = 2,
    /// One process; where MPS runs that is its server.
    ExclusiveProcess = 3,
}

/// Errors of memory: since the driver was loaded (volatile) and over the card's life (aggregate).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EccErrors {
    /// Corrected, volatile.
    pub corrected: u64,
    /// Uncorrected, volatile.
    pub uncorrected: u64,
    /// Corrected, aggregate.
    pub corrected_aggregate: u64,
    /// Uncorrected, aggregate.
    pub uncorrected_aggregate: u64,
}

/// Pages of memory that were retired, by cause; at most 1024 each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetiredPages {
    /// For several single-bit errors.
    pub single_bit: u32,
    /// For a double-bit error.
    pub double_bit: u32,
    /// Whether one waits for the next restart.
    pub pending: bool,
}

/// Rows of memory that were remapped, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemappedRows {
    /// For corrected errors.
    pub corrected: u32,
    /// For uncorrected errors.
    pub uncorrected: u32,
    /// Whether one waits for a reset.
    pub pending: bool,
    /// Whether one failed: the card should be replaced.
    pub failed: bool,
}

/// Links to other cards. The counters are those of link 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NvLinkControl {
    /// Which links are down.
    pub down: Vec<u32>,
    /// Replays of the data link.
    pub replays: u64,
    /// Recoveries of the data link.
    pub recoveries: u64,
    /// CRC errors in flits.
    pub crc_flits: u64,
    /// CRC errors in data.
    pub crc_data: u64,
    /// ECC errors in data.
    pub ecc_data: u64,
}

/// Partitions of a card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mig {
    /// Whether the card is partitioned.
    pub enabled: bool,
    /// GPU instances, each with one compute instance that takes all of it; the first is MIG device 0.
    pub instances: Vec<MigInstance>,
}

/// A GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigInstance {
    /// Its size, as `1g.10gb`.
    pub profile: String,
}

impl Mig {
    /// MIG is on, with instances of these sizes.
    pub fn of(profiles: &[&str]) -> Self {
        let instance = |profile: &&str| MigInstance { profile: (*profile).to_owned() };
        Self { enabled: true, instances: profiles.iter().map(instance).collect() }
    }

    fn check(&self, field: &str, profile: &Profile) -> Result<(), ControlError> {
        let fault = |key: String, text: String| Err(ControlError::value(format!("{field}{key}"), text));
        if profile.mig.is_empty() && *self != Self::default() {
            return fault(String::new(), format!("{} cannot be partitioned: leave `mig` out", profile.name));
        }
        let (mut slices, mut memory) = (0, 0);
        for (at, instance) in self.instances.iter().enumerate() {
            let key = || format!(".instances[{at}].profile");
            let Some(size) = profile.mig(&instance.profile) else {
                let known: Vec<_> = profile.mig.iter().map(|size| size.name.as_str()).collect();
                return fault(
                    key(),
                    format!("{:?} is no size of it: there are {}", instance.profile, known.join(", ")),
                );
            };
            slices += size.slices;
            memory += size.memory_slices;
            let alike = self.instances[..=at].iter().filter(|other| other.profile == size.name).count();
            let many = u32::try_from(alike).is_ok_and(|alike| alike > size.instances);
            if slices > 7 || memory > 8 || many {
                return fault(key(), "there is no room for it beside those above: leave it out".to_owned());
            }
        }
        Ok(())
    }
}

/// A process on a card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number on this machine.
    pub pid: u32,
    /// What it does there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: ProcessKind,
    /// Memory that it uses, in MiB; where nothing stands here the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Its part of the multiprocessors' time; where nothing stands here, what others leave of the card's, in equal parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_percent: Option<Percent>,
    /// Of the memory controller; half of `sm_percent` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<Percent>,
    /// Of the encoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoder_percent: Percent,
    /// Of the decoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decoder_percent: Percent,
    /// Which instance it runs in, where the card is partitioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<u32>,
}

/// What a process does on a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessKind {
    /// It computes.
    #[default]
    Compute,
    /// It draws.
    Graphics,
    /// It computes as a client of MPS: it is among those of MPS, and not among those that compute (NVIDIA/dcgm-exporter, issue 478).
    Mps,
}
