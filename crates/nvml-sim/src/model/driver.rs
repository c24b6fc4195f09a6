//! The driver and its cards: who is initialised, which handles are valid, what has happened.

use std::collections::{BTreeMap, HashSet};

use super::{
    card::Card,
    chance::{derive, seed, uuid},
    events::{EventSet, Happened},
    gpm::GpmSample,
    view::View,
};
use crate::{
    code::{Answer, Code},
    control::{Control, EventKind},
};

/// What happens when a card is lost: "GPU has fallen off the bus".
const XID_LOST: u64 = 79;
/// Nobody needs more sets or samples at once.
const OBJECTS_MAX: usize = 65_536;
/// In every handle of a device, so that none is null and few other numbers are one.
const TAG: usize = 0b1_0101;

/// Calls that a MIG device answers; all others are of whole cards.
const OF_INSTANCES: &[&str] = &[
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetIndex",
    "nvmlDeviceGetBrand",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetBAR1MemoryInfo",
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceIsMigDeviceHandle",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
];

/// Calls that a card does not answer while it is partitioned.
const NOT_WITH_MIG: &[&str] = &[
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetEncoderUtilization",
    "nvmlDeviceGetDecoderUtilization",
    "nvmlDeviceGetJpgUtilization",
    "nvmlDeviceGetOfaUtilization",
    "nvmlDeviceGetProcessUtilization",
];

/// What a handle of a device stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) card: u32,
    /// The MIG device, where it is one.
    pub(crate) mig: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Driver {
    control: Control,
    /// Of the host or the file.
    seed: u64,
    /// How often `nvmlInit` was called more than `nvmlShutdown`.
    inits: u32,
    /// Rises with each restart; part of each handle.
    epoch: u8,
    now_ms: u64,
    loaded_ms: u64,
    cards: Vec<Card>,
    lost: Vec<bool>,
    sets: BTreeMap<usize, EventSet>,
    samples: BTreeMap<usize, Option<GpmSample>>,
    next_object: usize,
    /// Events of the file that have happened.
    seen: HashSet<u64>,
}

impl Driver {
    /// A driver that was loaded at `now_ms`, on a host of that name.
    pub(crate) fn new(control: Control, host: &str, now_ms: u64) -> Self {
        let mut driver = Self {
            seed: seed(control.seed.as_deref().unwrap_or(host)),
            seen: control.event.iter().map(|event| event.id).collect(),
            control,
            inits: 0,
            epoch: 0,
            now_ms,
            loaded_ms: now_ms,
            cards: Vec::new(),
            lost: Vec::new(),
            sets: BTreeMap::new(),
            samples: BTreeMap::new(),
            next_object: 1,
        };
        driver.load();
        driver
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Another file. What it changes in time changes now.
    pub(crate) fn adopt(&mut self, control: Control, host: &str, now_ms: u64) {
        self.advance(now_ms);
        let (old, new) = (&self.control, &control);
        let restart = old.machine != new.machine
            || old.seed != new.seed
            || old.driver.generation != new.driver.generation
            || old.driver.loaded != new.driver.loaded;
        self.seed = seed(control.seed.as_deref().unwrap_or(host));
        self.control = control;
        if restart {
            self.inits = 0;
            self.epoch = self.epoch.wrapping_add(1);
            self.loaded_ms = self.now_ms;
            self.sets.clear();
            self.samples.clear();
            self.load();
        }
        self.find_lost();
        let ids: HashSet<_> = self.control.event.iter().map(|event| event.id).collect();
        for event in self.control.event.clone() {
            if !self.seen.contains(&event.id) {
                let data = event.xid.unwrap_or(0);
                self.happened(Happened { card: event.device, kind: event.kind, data, mig: event.mig });
            }
        }
        self.seen = ids;
    }

    fn load(&mut self) {
        let (seed, now) = (self.seed, self.now_ms);
        let cards = self.control.machine.profiles().zip(0..);
        self.cards = cards.map(|(profile, index)| Card::new(profile, derive(seed, index), now)).collect();
        self.lost = vec![false; self.cards.len()];
        self.tick();
    }

    /// Goes on to `now_ms`; time never goes back.
    pub(crate) fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.tick();
        self.find_lost();
    }

    fn tick(&mut self) {
        for (card, index) in self.cards.iter_mut().zip(0..) {
            card.advance(self.now_ms, self.control.device(index));
        }
    }

    fn find_lost(&mut self) {
        let since_s = (self.now_ms - self.loaded_ms) / 1000;
        for index in 0..self.cards.len() {
            let (card, number) = (&self.cards[index], u32::try_from(index).unwrap_or(u32::MAX));
            let told = self.control.device(number).is_some_and(|device| device.lost);
            let lost = told || card.profile.lost_after_s.is_some_and(|after| since_s >= after);
            let newly = lost && !self.lost[index];
            self.lost[index] = lost;
            if newly {
                self.happened(Happened { card: number, kind: EventKind::Xid, data: XID_LOST, mig: None });
            }
        }
    }

    fn happened(&mut self, event: Happened) {
        for set in self.sets.values_mut() {
            set.happened(event);
        }
    }

    // Initialisation.

    pub(crate) fn init(&mut self) -> Answer<()> {
        if !self.control.driver.loaded {
            return Err(Code::DRIVER_NOT_LOADED);
        }
        self.inits = self.inits.saturating_add(1);
        Ok(())
    }

    pub(crate) fn shutdown(&mut self) -> Answer<()> {
        self.inits = self.inits.checked_sub(1).ok_or(Code::UNINITIALIZED)?;
        if self.inits == 0 {
            self.sets.clear();
            self.samples.clear();
        }
        Ok(())
    }

    /// Whether calls are answered at all.
    pub(crate) fn ready(&self) -> Answer<()> {
        if self.inits == 0 { Err(Code::UNINITIALIZED) } else { Ok(()) }
    }

    // Devices.

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.cards.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn is_lost(&self, card: u32) -> bool {
        usize::try_from(card).ok().and_then(|card| self.lost.get(card)).copied().unwrap_or(false)
    }

    /// The handle of a card or of a MIG device; never 0.
    pub(crate) fn handle(&self, target: Target) -> usize {
        let card = usize::try_from(target.card).unwrap_or(0);
        (usize::from(self.epoch) << 20) | (card << 12) | (target.mig.map_or(0, |mig| mig + 1) << 6) | TAG
    }

    /// What a handle stands for.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: for nothing, or for what is no more.
    pub(crate) fn target(&self, handle: usize) -> Answer<Target> {
        let mig = (handle >> 6) & 0x3f;
        let card = u32::try_from((handle >> 12) & 0xff).map_err(|_| Code::INVALID_ARGUMENT)?;
        let target = Target { card, mig: mig.checked_sub(1) };
        let instances = self.control.device(card).map_or(0, |device| device.instances().len());
        let there = card < self.count() && target.mig.is_none_or(|mig| mig < instances);
        if there && self.handle(target) == handle { Ok(target) } else { Err(Code::INVALID_ARGUMENT) }
    }

    /// What a call on a device sees.
    ///
    /// # Errors
    /// It is none, it is lost, or such a card does not answer this call.
    pub(crate) fn view(&self, call: &str, handle: usize) -> Answer<View<'_>> {
        let target = self.target(handle)?;
        if self.is_lost(target.card) {
            return Err(Code::GPU_IS_LOST);
        }
        let view = self.look(target)?;
        let partitioned =
            view.control.is_some_and(|control| control.mig.as_ref().is_some_and(|mig| mig.enabled));
        let answers = match target.mig {
            Some(_) => OF_INSTANCES.contains(&call),
            None => !(partitioned && NOT_WITH_MIG.contains(&call)),
        };
        if answers && view.card.profile.supports(call) { Ok(view) } else { Err(Code::NOT_SUPPORTED) }
    }

    /// A card or an instance, lost or not.
    pub(crate) fn look(&self, target: Target) -> Answer<View<'_>> {
        let at = usize::try_from(target.card).map_err(|_| Code::INVALID_ARGUMENT)?;
        let card = self.cards.get(at).ok_or(Code::INVALID_ARGUMENT)?;
        Ok(View { driver: self, card, control: self.control.device(target.card), target })
    }

    /// Every card and every instance.
    fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        (0..self.count()).flat_map(|card| {
            let instances = self.control.device(card).map_or(0, |device| device.instances().len());
            std::iter::once(None).chain((0..instances).map(Some)).map(move |mig| Target { card, mig })
        })
    }

    /// The handle of the first of which `is` holds.
    ///
    /// # Errors
    /// `NOT_FOUND`, and `GPU_IS_LOST` where it is lost.
    pub(crate) fn find(&self, is: impl Fn(&View<'_>) -> bool) -> Answer<usize> {
        let target = self.targets().find(|target| self.look(*target).is_ok_and(|view| is(&view)));
        let target = target.ok_or(Code::NOT_FOUND)?;
        if self.is_lost(target.card) { Err(Code::GPU_IS_LOST) } else { Ok(self.handle(target)) }
    }

    /// As `GPU-...` or `MIG-...`.
    pub(crate) fn uuid(&self, target: Target) -> String {
        let card = derive(self.seed, u64::from(target.card));
        let Some(mig) = target.mig else { return format!("GPU-{}", uuid(derive(card, 50))) };
        let size = self.control.device(target.card).and_then(|device| device.instances().get(mig));
        let size = size.map_or(0, |instance| seed(&instance.profile));
        format!("MIG-{}", uuid(derive(derive(card, 60 + mig as u64), size)))
    }

    /// Microseconds since 1970.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_ms.saturating_mul(1000)
    }

    // Event sets and samples.

    fn object(&mut self) -> usize {
        self.next_object += 1;
        // Unlike any handle of a device, whose lowest bits are the tag.
        self.next_object << 6
    }

    pub(crate) fn make_set(&mut self) -> Answer<usize> {
        if self.sets.len() >= OBJECTS_MAX {
            return Err(Code::UNKNOWN);
        }
        let id = self.object();
        self.sets.insert(id, EventSet::default());
        Ok(id)
    }

    pub(crate) fn free_set(&mut self, id: usize) -> Answer<()> {
        self.sets.remove(&id).map(drop).ok_or(Code::INVALID_ARGUMENT)
    }

    /// Registers a set for what happens on a device.
    ///
    /// # Errors
    /// `NOT_SUPPORTED`: kinds that the card does not know.
    pub(crate) fn register(&mut self, handle: usize, mask: u64, set: usize) -> Answer<()> {
        let view = self.view("nvmlDeviceRegisterEvents", handle)?;
        let (card, known) = (view.target.card, view.card.profile.event_mask());
        let set = self.sets.get_mut(&set).ok_or(Code::INVALID_ARGUMENT)?;
        if mask & !known != 0 || known == 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        set.register(card, mask);
        Ok(())
    }

    /// The next event of a set, if there is one.
    ///
    /// # Errors
    /// `GPU_IS_LOST`: all was told, and one of its cards is lost.
    pub(crate) fn poll(&mut self, set: usize) -> Answer<Option<Happened>> {
        let found = self.sets.get_mut(&set).ok_or(Code::INVALID_ARGUMENT)?;
        if let Some(event) = found.take() {
            return Ok(Some(event));
        }
        let cards: Vec<_> = self.sets.get(&set).into_iter().flat_map(EventSet::cards).collect();
        if cards.into_iter().any(|card| self.is_lost(card)) { Err(Code::GPU_IS_LOST) } else { Ok(None) }
    }

    pub(crate) fn make_sample(&mut self) -> Answer<usize> {
        if self.samples.len() >= OBJECTS_MAX {
            return Err(Code::UNKNOWN);
        }
        let id = self.object();
        self.samples.insert(id, None);
        Ok(id)
    }

    pub(crate) fn free_sample(&mut self, id: usize) -> Answer<()> {
        self.samples.remove(&id).map(drop).ok_or(Code::INVALID_ARGUMENT)
    }

    /// Takes a sample of a card, or of the instance with that id on it.
    pub(crate) fn sample(
        &mut self,
        call: &str,
        handle: usize,
        instance: Option<u32>,
        id: usize,
    ) -> Answer<()> {
        let view = self.view(call, handle)?;
        if !view.card.profile.gpm {
            return Err(Code::NOT_SUPPORTED);
        }
        let mig = instance.map(|instance| view.instance(instance)).transpose()?;
        let taken = GpmSample::of(view.target.card, view.card, mig);
        *self.samples.get_mut(&id).ok_or(Code::INVALID_ARGUMENT)? = Some(taken);
        Ok(())
    }

    pub(crate) fn taken(&self, id: usize) -> Answer<&GpmSample> {
        self.samples.get(&id).and_then(Option::as_ref).ok_or(Code::INVALID_ARGUMENT)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
