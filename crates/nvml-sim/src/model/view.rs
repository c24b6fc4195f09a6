//! What a call on a device sees: the answers that are made of a card, its control and its profile.

use super::{
    card::{Card, whole, whole_u64},
    chance::{derive, noise, serial},
    driver::{Driver, Target},
};
use crate::{
    code::{Answer, Code},
    control::{DeviceControl, Process, ProcessKind},
    profile::{MigProfile, NvLink},
};

const MIB: u64 = 1 << 20;
/// What the driver itself holds on a card that does something.
const CONTEXT_MIB: u64 = 3;

pub(crate) struct View<'a> {
    pub(crate) driver: &'a Driver,
    pub(crate) card: &'a Card,
    /// Where the file says something of the card.
    pub(crate) control: Option<&'a DeviceControl>,
    pub(crate) target: Target,
}

/// In bytes.
pub(crate) struct MemoryUse {
    pub(crate) total: u64,
    pub(crate) reserved: u64,
    pub(crate) used: u64,
}

/// Percent of a process's part, at a time in microseconds.
pub(crate) struct ProcessUse {
    pub(crate) pid: u32,
    pub(crate) at_us: u64,
    pub(crate) sm: u32,
    pub(crate) memory: u32,
    pub(crate) encoder: u32,
    pub(crate) decoder: u32,
}

/// Where an error of memory is counted, and which.
#[derive(Clone, Copy)]
pub(crate) struct ErrorKind {
    pub(crate) uncorrected: bool,
    pub(crate) aggregate: bool,
}

impl View<'_> {
    /// Of the control, where there is one; else as it is by default.
    fn told<T: Default>(&self, what: impl Fn(&DeviceControl) -> T) -> T {
        self.control.map(what).unwrap_or_default()
    }

    // Who it is.

    pub(crate) fn name(&self) -> String {
        let name = &self.card.profile.name;
        self.size().map_or_else(|| name.clone(), |size| format!("{name} MIG {}", size.name))
    }

    pub(crate) fn uuid(&self) -> String {
        self.driver.uuid(self.target)
    }

    pub(crate) fn serial(&self) -> String {
        serial(self.card.seed)
    }

    /// Where it is on the bus; the domain is 0.
    pub(crate) fn bus(&self) -> u32 {
        1 + 3 * self.target.card
    }

    // Memory.

    pub(crate) fn memory(&self) -> MemoryUse {
        let whole = &self.card.profile.memory;
        if let Some(size) = self.size() {
            let used = self.processes().filter_map(|process| process.memory_mib).sum::<u64>() + CONTEXT_MIB;
            return MemoryUse {
                total: size.memory_mib * MIB,
                reserved: 0,
                used: used.min(size.memory_mib) * MIB,
            };
        }
        let usable = whole.total_mib - whole.reserved_mib;
        let used =
            self.control.and_then(|control| control.memory_used_mib).unwrap_or_else(|| self.used_mib(usable));
        MemoryUse {
            total: whole.total_mib * MIB,
            reserved: whole.reserved_mib * MIB,
            used: used.min(usable) * MIB,
        }
    }

    fn used_mib(&self, usable: u64) -> u64 {
        let control = self.control;
        let processes = control.map_or(&[][..], |control| &control.process);
        if !processes.is_empty() {
            return processes.iter().filter_map(|process| process.memory_mib).sum::<u64>() + CONTEXT_MIB;
        }
        let load = control.and_then(|control| control.load.as_ref()).cloned().unwrap_or_default();
        if load.shape == crate::control::Shape::Idle {
            return CONTEXT_MIB;
        }
        // A program that takes about half, and now and then some more.
        let part = 0.45 + 0.1 * noise(derive(self.card.seed, 40), self.card.at_ms, 20_000);
        whole_u64(usable as f64 * part)
    }

    pub(crate) fn bar1(&self) -> MemoryUse {
        let total = self.card.profile.memory.bar1_mib * MIB;
        MemoryUse { total, reserved: 0, used: (CONTEXT_MIB * MIB).min(total) }
    }

    // Errors of memory.

    /// Whether ECC is on.
    pub(crate) fn ecc(&self) -> Answer<bool> {
        self.card.profile.ecc.ok_or(Code::NOT_SUPPORTED)
    }

    /// All errors of a kind; they are all of the device's memory.
    pub(crate) fn ecc_errors(&self, kind: ErrorKind) -> Answer<u64> {
        if !self.ecc()? {
            return Err(Code::NOT_SUPPORTED);
        }
        Ok(self.told(|control| match (kind.uncorrected, kind.aggregate) {
            (false, false) => control.ecc.corrected,
            (false, true) => control.ecc.corrected_aggregate,
            (true, false) => control.ecc.uncorrected,
            (true, true) => control.ecc.uncorrected_aggregate,
        }))
    }

    /// Retired pages of a cause: their addresses.
    pub(crate) fn retired(&self, double_bit: bool) -> Answer<Vec<u64>> {
        if !self.card.profile.retired_pages {
            return Err(Code::NOT_SUPPORTED);
        }
        let pages = |control: &DeviceControl| {
            let pages = &control.retired_pages;
            if double_bit { pages.double_bit } else { pages.single_bit }
        };
        let page = |at: u32| derive(self.card.seed, 70 + u64::from(at)) % (1 << 34) / 65_536 * 65_536;
        Ok((0..self.told(pages)).map(page).collect())
    }

    pub(crate) fn retirement_pending(&self) -> Answer<bool> {
        if self.card.profile.retired_pages {
            Ok(self.told(|control| control.retired_pages.pending))
        } else {
            Err(Code::NOT_SUPPORTED)
        }
    }

    pub(crate) fn remapped(&self) -> Answer<crate::control::RemappedRows> {
        if self.card.profile.remapped_rows {
            Ok(self.told(|control| control.remapped_rows.clone()))
        } else {
            Err(Code::NOT_SUPPORTED)
        }
    }

    // Sensors.

    /// Milliwatts.
    pub(crate) fn power_mw(&self) -> u32 {
        whole(self.card.power_w * 1000.0)
    }

    /// Milliwatts.
    pub(crate) fn limit_mw(&self) -> u32 {
        self.card.limit_w(self.control) * 1000
    }

    /// Millijoules.
    pub(crate) fn energy_mj(&self) -> u64 {
        whole_u64(self.card.energy_j * 1000.0)
    }

    /// As `nvmlClockType_t`: graphics, SM, memory, video. In MHz.
    pub(crate) fn clock(&self, kind: u32) -> Answer<u32> {
        let (clocks, card) = (&self.card.profile.clocks, self.card);
        match kind {
            0 | 1 => Ok(card.sm_mhz),
            2 if card.resting() => Ok(clocks.idle_memory_mhz),
            2 => Ok(clocks.memory_mhz),
            3 => Ok(card.sm_mhz * clocks.max_video_mhz / clocks.max_sm_mhz),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    pub(crate) fn max_clock(&self, kind: u32) -> Answer<u32> {
        let clocks = &self.card.profile.clocks;
        match kind {
            0 | 1 => Ok(clocks.max_sm_mhz),
            2 => Ok(clocks.memory_mhz),
            3 => Ok(clocks.max_video_mhz),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    /// 0 while it works; 8 while it rests, on cards that save power then.
    pub(crate) fn performance_state(&self) -> u32 {
        let clocks = &self.card.profile.clocks;
        if self.card.resting() && clocks.idle_memory_mhz < clocks.memory_mhz { 8 } else { 0 }
    }

    pub(crate) fn fan(&self, fan: u32) -> Answer<u32> {
        match self.card.profile.fans {
            0 => Err(Code::NOT_SUPPORTED),
            fans if fan >= fans => Err(Code::INVALID_ARGUMENT),
            _ => Ok(self.card.fan_percent()),
        }
    }

    pub(crate) fn pcie_generation(&self) -> u32 {
        let pcie = &self.card.profile.pcie;
        if self.card.resting() { pcie.idle_generation } else { pcie.generation }
    }

    /// As `nvmlPerfPolicyType_t`: how long clocks were held back for it, in nanoseconds.
    pub(crate) fn held_back_ns(&self, policy: u32) -> Answer<u64> {
        let held = &self.card.held_back;
        let seconds = match policy {
            0 => held.power,
            1 => held.sw_thermal.max(held.hw_thermal),
            4 => held.idle,
            2 | 3 | 5 | 10 | 11 => 0.0,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        Ok(whole_u64(seconds * 1e9))
    }

    // Links to other cards.

    pub(crate) fn nvlink(&self, link: u32) -> Answer<&NvLink> {
        let nvlink = self.card.profile.nvlink.as_ref().ok_or(Code::NOT_SUPPORTED)?;
        if link < nvlink.links { Ok(nvlink) } else { Err(Code::INVALID_ARGUMENT) }
    }

    pub(crate) fn nvlink_up(&self, link: u32) -> Answer<bool> {
        self.nvlink(link)?;
        Ok(!self.told(|control| control.nvlink.down.contains(&link)))
    }

    /// As `nvmlNvLinkErrorCounter_t`.
    pub(crate) fn nvlink_errors(&self, link: u32, counter: u32) -> Answer<u64> {
        self.nvlink(link)?;
        let nvlink = self.told(|control| control.nvlink.clone());
        let count = match counter {
            0 => nvlink.replays,
            1 => nvlink.recoveries,
            2 => nvlink.crc_flits,
            3 => nvlink.crc_data,
            4 => nvlink.ecc_data,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        Ok(if link == 0 { count } else { 0 })
    }

    // Processes.

    /// Those of the card, or of the instance.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        let all = self.control.map_or(&[][..], |control| &control.process);
        let mig = self.target.mig;
        all.iter().filter(move |process| {
            mig.is_none() || process.mig.and_then(|at| usize::try_from(at).ok()) == mig
        })
    }

    pub(crate) fn processes_of(&self, kind: ProcessKind) -> impl Iterator<Item = &Process> {
        self.processes().filter(move |process| process.kind == kind)
    }

    /// What processes do, where there is something newer than `since_us`.
    pub(crate) fn process_use(&self, since_us: u64) -> Vec<ProcessUse> {
        let (card, at_us) = (self.card, self.card.at_ms * 1000);
        let all = self.control.map_or(&[][..], |control| &control.process);
        if at_us <= since_us {
            return Vec::new();
        }
        let told: f64 = all.iter().filter_map(|process| process.sm_percent).map(super::Percent::get).sum();
        let others = all.iter().filter(|process| process.sm_percent.is_none()).count();
        let share = (card.now.gpu - told).max(0.0) / others.max(1) as f64;
        let one = |(at, process): (usize, &Process)| {
            let channel = derive(card.seed, 200 + at as u64);
            let noisy = |percent: f64| {
                let quiet = (percent / 10.0).min(1.0);
                whole((percent + quiet * 2.0 * noise(channel, card.at_ms, 800)).clamp(0.0, 100.0))
            };
            let sm = process.sm_percent.map_or(share, super::Percent::get);
            ProcessUse {
                pid: process.pid,
                at_us,
                sm: noisy(sm),
                memory: noisy(process.memory_percent.map_or(sm / 2.0, super::Percent::get)),
                encoder: noisy(process.encoder_percent.get()),
                decoder: noisy(process.decoder_percent.get()),
            }
        };
        let busy = |usage: &ProcessUse| usage.sm + usage.memory + usage.encoder + usage.decoder > 0;
        all.iter().enumerate().map(one).filter(busy).collect()
    }

    // Partitions.

    /// Whether it is partitioned.
    pub(crate) fn mig_mode(&self) -> Answer<bool> {
        if self.card.profile.mig.is_empty() {
            return Err(Code::NOT_SUPPORTED);
        }
        Ok(self.told(|control| control.mig.as_ref().is_some_and(|mig| mig.enabled)))
    }

    /// The size of the instance that this is.
    pub(crate) fn size(&self) -> Option<&MigProfile> {
        let instance = self.control?.instances().get(self.target.mig?)?;
        self.card.profile.mig(&instance.profile)
    }

    /// The size with that `NVML_GPU_INSTANCE_PROFILE_...`.
    pub(crate) fn size_numbered(&self, number: u32) -> Answer<&MigProfile> {
        let sizes = &self.card.profile.mig;
        sizes.iter().find(|size| size.number == number).ok_or(Code::NOT_SUPPORTED)
    }

    /// The id of a GPU instance, by its place among those of the card.
    pub(crate) fn instance_id(at: usize) -> u32 {
        u32::try_from(at + 1).unwrap_or(u32::MAX)
    }

    /// The place of the GPU instance with that id.
    pub(crate) fn instance(&self, id: u32) -> Answer<usize> {
        let at = usize::try_from(id).ok().and_then(|id| id.checked_sub(1)).ok_or(Code::INVALID_ARGUMENT)?;
        let there = self.control.is_some_and(|control| at < control.instances().len());
        if there { Ok(at) } else { Err(Code::NOT_FOUND) }
    }

    /// The MIG device at that place.
    pub(crate) fn mig_device(&self, at: u32) -> Answer<Target> {
        if !self.mig_mode()? {
            return Err(Code::NOT_FOUND);
        }
        let instance = at.checked_add(1).ok_or(Code::INVALID_ARGUMENT)?;
        Ok(Target { card: self.target.card, mig: Some(self.instance(instance)?) })
    }
}
