//! What is known of the machine's GPUs: a pure step for each thing that workers read or hear. It does no I/O, takes the time, and is the one place where
//! health is judged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use skerry_gpu_model::health::{self, Health, Input, Latch, Rules, State};
use skerry_gpu_model::{Absent, DEVICES_MAX, EVENTS_MAX, Event, Field, Place, Sample};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::types::v1::machine_status::Gpu;

use super::driver::Due;
use super::grant::is_divided;
use super::sight::Sight;
use super::watch::{Usage, Used};

/// Most numbers of errors that are counted apart for a device; there are a few hundred.
const CODES_MAX: usize = 512;
/// Every field.
const ALL: Due = Due { second: true, processes: true, ten_seconds: true, minute: true };

/// All GPUs.
pub(super) struct Board {
    rules: Rules,
    /// See [`Sight`].
    untold_after_ms: i64,
    /// What an earlier process remembered, of devices that were not seen yet.
    remembered: BTreeMap<String, Vec<Latch>>,
    cards: Vec<Card>,
    /// What happened and was not taken yet: when, to which device, what. The oldest give way.
    events: VecDeque<(i64, String, Event)>,
    /// UUIDs of the devices of which somebody has a share: their processes are looked at as those of shared ones are.
    closely: BTreeSet<String>,
    /// Those of them at which one more look is wanted before its time.
    doubted: BTreeSet<String>,
}

struct Card {
    device: pb::Device,
    /// Of the device, then of its parts.
    samples: Vec<Sample>,
    state: State,
    health: Health,
    lost: bool,
    xids: BTreeMap<u32, u64>,
    /// How often its processes were looked at, and when last.
    looks: (u64, i64),
    sight: Sight,
}

impl Board {
    /// `untold_after`: where it is not told for so long what processes use of a device, the device counts as one of which that is not told.
    pub(super) fn new(
        rules: Rules,
        remembered: BTreeMap<String, Vec<Latch>>,
        untold_after: Duration,
    ) -> Self {
        let (cards, events) = (Vec::new(), VecDeque::new());
        let (closely, doubted) = (BTreeSet::new(), BTreeSet::new());
        let untold_after_ms = i64::try_from(untold_after.as_millis()).unwrap_or(i64::MAX);
        Self { rules, untold_after_ms, remembered, cards, events, closely, doubted }
    }

    /// The devices, in the driver's order.
    pub(super) fn devices(&self) -> Vec<pb::Device> {
        self.cards.iter().map(|card| card.device.clone()).collect()
    }

    /// These are there now. Answers whether that is news; of those that stay, all that is known stays too.
    pub(super) fn put_devices(&mut self, devices: Vec<pb::Device>, now: i64) -> bool {
        if self.cards.iter().map(|card| &card.device).eq(&devices) {
            return false;
        }
        let mut old = std::mem::take(&mut self.cards);
        for device in devices {
            let at = old.iter().position(|card| card.device.uuid == device.uuid);
            let mut card = if let Some(at) = at {
                old.swap_remove(at)
            } else {
                let latches = self.remembered.remove(&device.uuid).unwrap_or_default();
                Card::new(State::remembering(latches), Sight::new(self.untold_after_ms))
            };
            if card.device.mig_devices != device.mig_devices {
                card.samples.truncate(1);
                card.sight.forget();
            }
            card.samples.resize_with(1 + device.mig_devices.len(), Sample::new);
            card.device = device;
            card.step(&self.rules, Input::Tick, now);
            self.cards.push(card);
        }
        true
    }

    /// What was read of a place: the fields that were due.
    pub(super) fn take(&mut self, place: Place, due: Due, read: &Sample, now: i64) {
        let Some(card) = self.cards.get_mut(place.device) else { return };
        let part = place.part.map_or(0, |part| part + 1);
        let Some(sample) = card.samples.get_mut(part) else { return };
        for field in due.fields() {
            sample.set(field, read.get(field));
        }
        if due.processes {
            sample.processes.clone_from(&read.processes);
        }
        if part == 0 {
            if due.processes && sample.value(Field::Processes).is_some() {
                card.looks = (card.looks.0 + 1, now);
                self.doubted.remove(&card.device.uuid);
            }
            card.sampled(&self.rules, due, now, &mut self.events);
        }
    }

    /// The driver did not answer in time when it was asked for this of a device.
    pub(super) fn timed_out(&mut self, uuid: &str, due: Due, now: i64) {
        let Some(card) = self.cards.iter_mut().find(|card| card.device.uuid == uuid) else { return };
        card.has_none_of(due, Absent::TimedOut);
        card.sampled(&self.rules, due, now, &mut self.events);
    }

    /// The driver is away: nothing can be read.
    pub(super) fn driver_away(&mut self, now: i64) {
        for card in &mut self.cards {
            card.has_none_of(ALL, Absent::DriverError);
            card.sampled(&self.rules, ALL, now, &mut self.events);
        }
    }

    /// The driver was loaded anew, and with it the devices began anew.
    pub(super) fn driver_came_back(&mut self, now: i64) {
        for card in &mut self.cards {
            card.lost = false;
            card.forget(Absent::Lost);
            card.forget(Absent::DriverError);
            card.sight.forget();
            card.step(&self.rules, Input::Event(&Event::Reset), now);
            note(&mut self.events, now, &card.device.uuid, Event::Reset);
        }
    }

    /// Something happened to a device.
    pub(super) fn happened(&mut self, uuid: &str, event: &Event, now: i64) {
        let Some(card) = self.cards.iter_mut().find(|card| card.device.uuid == uuid) else { return };
        match event {
            Event::Xid { code, pid, message, instance } => {
                if card.xids.len() < CODES_MAX || card.xids.contains_key(code) {
                    *card.xids.entry(*code).or_default() += 1;
                }
                let times = card.xids.get(code).copied().unwrap_or(1);
                // What repeats a thousand times is told some times.
                if times <= 8 || times.is_power_of_two() {
                    tracing::warn!(
                        gpu = uuid,
                        xid = *code,
                        times,
                        pid,
                        instance,
                        message,
                        "the GPU's driver reports an error"
                    );
                }
            }
            Event::Ecc { corrected: false, count } => {
                tracing::warn!(gpu = uuid, count, "memory of the GPU has errors that ECC could not correct");
            }
            Event::Ecc { corrected: true, .. } | Event::Lost | Event::Reset => {}
        }
        card.step(&self.rules, Input::Event(event), now);
        note(&mut self.events, now, uuid, event.clone());
    }

    /// What happened since the last call, in order.
    pub(super) fn take_events(&mut self) -> VecDeque<(i64, String, Event)> {
        std::mem::take(&mut self.events)
    }

    /// Whether there is no device.
    pub(super) fn is_empty(&self) -> bool {
        self.cards.is_empty()
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: i64) {
        for card in &mut self.cards {
            card.step(&self.rules, Input::Tick, now);
        }
    }

    /// As the control plane is told, by UUID.
    pub(super) fn report(&self) -> Vec<Gpu> {
        let mut all: Vec<Gpu> = self.cards.iter().map(Card::report).collect();
        all.sort_by(|a, b| uuid(a).cmp(uuid(b)));
        all
    }

    /// The devices, in the driver's order, with what each does not measure.
    pub(super) fn described(&self) -> Vec<pb::Device> {
        self.cards.iter().map(Card::described).collect()
    }

    /// How each device is, in the same order.
    pub(super) fn healths(&self) -> impl Iterator<Item = &Health> {
        self.cards.iter().map(|card| &card.health)
    }

    /// What is known of these places.
    pub(super) fn samples(&self, places: &[Place]) -> Vec<Sample> {
        places.iter().map(|place| self.sample(*place).cloned().unwrap_or_default()).collect()
    }

    /// What is to be remembered by the next process, by UUID: of the devices that are here, and then of those that were not seen, up to [`DEVICES_MAX`].
    pub(super) fn latches(&self) -> BTreeMap<String, Vec<Latch>> {
        let of_card = |card: &Card| (card.device.uuid.clone(), card.state.latches().cloned().collect());
        let here =
            self.cards.iter().map(of_card).filter(|(_, latches): &(_, Vec<Latch>)| !latches.is_empty());
        let mut all: BTreeMap<String, Vec<Latch>> = here.collect();
        let room = DEVICES_MAX.saturating_sub(all.len());
        let gone = self.remembered.iter().take(room);
        all.extend(gone.map(|(device, latches)| (device.clone(), latches.clone())));
        all
    }

    /// Of these devices somebody has a share.
    pub(super) fn look_closely(&mut self, devices: BTreeSet<String>) {
        self.closely = devices;
    }

    /// At the processes of these devices one more look is wanted now.
    pub(super) fn look_again(&mut self, devices: BTreeSet<String>) {
        self.doubted = devices;
    }

    /// UUIDs of those devices.
    pub(super) fn doubted(&self) -> &BTreeSet<String> {
        &self.doubted
    }

    /// Whether somebody has a share of any.
    pub(super) fn looks_closely(&self) -> bool {
        !self.closely.is_empty()
    }

    /// Who uses how much of those, by UUID, as far as it was seen.
    pub(super) fn usages(&self) -> BTreeMap<String, Usage> {
        let cards =
            self.cards.iter().filter(|card| self.closely.contains(&card.device.uuid) && card.looks.0 > 0);
        cards.map(|card| (card.device.uuid.clone(), card.usage())).collect()
    }

    /// Whether several have a context on a device, as far as is known.
    pub(super) fn is_shared(&self, device: usize) -> bool {
        let Some(card) = self.cards.get(device) else { return false };
        if self.closely.contains(&card.device.uuid) {
            return true;
        }
        let sample = card.samples.first();
        sample.and_then(|sample| sample.value(Field::Processes)).is_some_and(|processes| processes > 1)
    }

    pub(super) fn sample(&self, place: Place) -> Option<&Sample> {
        self.cards.get(place.device)?.samples.get(place.part.map_or(0, |part| part + 1))
    }

    #[cfg(test)]
    pub(super) fn xids(&self, uuid: &str) -> BTreeMap<u32, u64> {
        let card = self.cards.iter().find(|card| card.device.uuid == uuid);
        card.map(|card| card.xids.clone()).unwrap_or_default()
    }
}

impl Card {
    fn new(state: State, sight: Sight) -> Self {
        Self {
            device: pb::Device::default(),
            samples: Vec::new(),
            state,
            health: Health::default(),
            lost: false,
            xids: BTreeMap::new(),
            looks: (0, 0),
            sight,
        }
    }

    fn step(&mut self, rules: &Rules, input: Input<'_>, now: i64) {
        let state = std::mem::take(&mut self.state);
        (self.state, self.health) = health::step(rules, state, input, now);
    }

    /// Judges what was read, and notices that the device went, or came back.
    fn sampled(&mut self, rules: &Rules, due: Due, now: i64, events: &mut VecDeque<(i64, String, Event)>) {
        let Some(sample) = self.samples.first() else { return };
        let is =
            |of: fn(&skerry_gpu_model::Reading) -> bool| due.fields().any(|field| of(&sample.get(field)));
        let (lost, answers) = (is(|reading| *reading == Err(Absent::Lost)), is(Result::is_ok));
        if lost && !self.lost {
            self.lost = true;
            tracing::warn!(gpu = self.device.uuid, "the GPU does not answer any more");
            self.has_none_of(ALL, Absent::Lost);
            self.step(rules, Input::Event(&Event::Lost), now);
            note(events, now, &self.device.uuid, Event::Lost);
        } else if answers && !lost && self.lost {
            self.lost = false;
            tracing::info!(gpu = self.device.uuid, "the GPU answers again");
            self.forget(Absent::Lost);
            self.step(rules, Input::Event(&Event::Reset), now);
            note(events, now, &self.device.uuid, Event::Reset);
        }
        let Some(sample) = self.samples.first() else { return };
        // Of one that is divided its parts tell.
        if due.processes && !is_divided(&self.device) && self.sight.saw(sample, now) {
            match self.sight.untold() {
                Some(why) => {
                    let gpu = &self.device.uuid;
                    tracing::warn!(
                        gpu,
                        ?why,
                        "the driver does not tell what processes use of the GPU: shares of it are not counted"
                    );
                }
                None => {
                    tracing::info!(gpu = self.device.uuid, "it is told again what processes use of the GPU");
                }
            }
        }
        let state = std::mem::take(&mut self.state);
        (self.state, self.health) = health::step(rules, state, Input::Sample(sample), now);
    }

    fn usage(&self) -> Usage {
        let (look, time_ms) = self.looks;
        let mut by_instance: BTreeMap<String, Used> = BTreeMap::new();
        let processes = self.samples.first().into_iter().flat_map(|sample| &sample.processes);
        for process in processes.filter(|process| !process.instance.is_empty()) {
            let used = by_instance.entry(process.instance.clone()).or_default();
            if let Some(bytes) = process.memory_bytes {
                used.memory_bytes = Some(used.memory_bytes.unwrap_or(0).saturating_add(bytes));
            }
            used.percent = used.percent.saturating_add(process.utilization_percent.unwrap_or(0)).min(100);
        }
        Usage { look, time_ms, by_instance }
    }

    /// What was absent for this reason is read anew in its turn.
    fn forget(&mut self, absent: Absent) {
        for sample in &mut self.samples {
            for field in Field::ALL {
                if sample.get(field) == Err(absent) {
                    sample.set(field, Err(Absent::NotYet));
                }
            }
        }
    }

    /// What the device does not have stays so.
    fn has_none_of(&mut self, due: Due, absent: Absent) {
        for sample in &mut self.samples {
            for field in due.fields() {
                if !matches!(sample.get(field), Err(Absent::NotSupported | Absent::NotInThisMode)) {
                    sample.set(field, Err(absent));
                }
            }
            if due.processes {
                sample.processes.clear();
            }
        }
    }

    fn report(&self) -> Gpu {
        Gpu { device: Some(self.described()), health: Some(self.health.to_wire()), ..Gpu::default() }
    }

    fn described(&self) -> pb::Device {
        let mut device = self.device.clone();
        let sample = self.samples.first();
        let lacking = |reason: Absent| {
            let fields =
                sample.into_iter().flat_map(Sample::iter).filter(|(_, reading)| *reading == Err(reason));
            let fields: Vec<i32> = fields.map(|(field, _)| field.to_wire().into()).collect();
            (!fields.is_empty()).then(|| pb::AbsentFields { reason: reason.to_wire().into(), fields })
        };
        device.unsupported =
            [Absent::NotSupported, Absent::NotInThisMode].into_iter().filter_map(lacking).collect();
        // Processes may be told, and nothing of what they use: for who counts that is as much as nothing.
        if let Some(why) = self.sight.untold() {
            let fields = vec![pb::Field::Processes.into()];
            device.unsupported.push(pb::AbsentFields { reason: why.to_wire().into(), fields });
        }
        device
    }
}

fn note(events: &mut VecDeque<(i64, String, Event)>, now: i64, uuid: &str, event: Event) {
    if events.len() >= EVENTS_MAX {
        events.pop_front();
    }
    events.push_back((now, uuid.to_owned(), event));
}

fn uuid(gpu: &Gpu) -> &str {
    gpu.device.as_ref().map_or("", |device| &device.uuid)
}

#[cfg(test)]
mod tests;
