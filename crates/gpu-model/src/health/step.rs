//! What is known of a device's health, and how an input changes it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::reason::{Finding, Health, Reason};
use super::rules::{Level, Rate, Rules};
use super::trigger::{Growth, LevelState, RateState};
use crate::event::Event;
use crate::field::throttle;
use crate::xid::{self, Class};
use crate::{Absent, Field, Sample};

/// What holds a device down that is not how it is meant to be.
const HELD_DOWN: i64 = throttle::HARDWARE_SLOWDOWN
    | throttle::SOFTWARE_THERMAL
    | throttle::HARDWARE_THERMAL
    | throttle::POWER_BRAKE;
/// A flag of the device's own: it says so until it is not so.
const FLAG: Level = Level { enter: 1, leave: 1, enter_after: 0, leave_after: 0 };

/// Something that bears on a device's health.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// It was sampled.
    Sample(&'a Sample),
    /// Something happened to it.
    Event(&'a Event),
    /// Time passed, and nothing else.
    Tick,
}

/// An error that is remembered until the device is reset, or for a time. What is to outlive the process that looks is this alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latch {
    /// What is wrong.
    pub reason: Reason,
    /// The number of the last such error; 0 where it is none of the driver's.
    pub code: u32,
    /// When the first one was, in milliseconds since 1970.
    pub since: i64,
    /// When it is forgotten. `None`: at a reset.
    pub until: Option<i64>,
}

/// What is known of a device. A new one knows nothing, and waits for its first sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// When it was last sampled; of one that never was, when it was first looked at.
    seen: Option<i64>,
    unseen: Option<i64>,
    slowdown: Option<i64>,
    memory_max: Option<i64>,
    hot: LevelState,
    too_hot: LevelState,
    memory_hot: LevelState,
    memory_too_hot: LevelState,
    throttled: LevelState,
    memory_full: LevelState,
    repair_pending: LevelState,
    repair_failed: LevelState,
    recovery: LevelState,
    silent: LevelState,
    lost: LevelState,
    ecc_corrected: (Growth, RateState),
    ecc_uncorrected: (Growth, RateState),
    pcie_replays: (Growth, RateState),
    xid_application: RateState,
    latches: BTreeMap<Reason, Latch>,
}

impl State {
    /// What remembers these errors, of an earlier process. Errors before the device's last reset are none of them.
    pub fn remembering(latches: impl IntoIterator<Item = Latch>) -> Self {
        let latches = latches.into_iter().map(|latch| (latch.reason, latch)).collect();
        Self { latches, ..Self::default() }
    }

    /// The errors that are remembered.
    pub fn latches(&self) -> impl Iterator<Item = &Latch> {
        self.latches.values()
    }
}

/// Takes an input at `now`, in milliseconds since 1970; a clock that was set back makes what lasts a time last longer, and nothing worse.
#[must_use]
pub fn step(rules: &Rules, mut state: State, input: Input<'_>, now: i64) -> (State, Health) {
    match input {
        Input::Sample(sample) => state.sample(rules, sample, now),
        Input::Event(event) => state.event(rules, event, now),
        Input::Tick => {}
    }
    let leak = [
        (&mut state.ecc_corrected.1, rules.ecc_corrected),
        (&mut state.ecc_uncorrected.1, rules.ecc_uncorrected),
        (&mut state.pcie_replays.1, rules.pcie_replays),
        (&mut state.xid_application, rules.xid_application),
    ];
    for (rate, rule) in leak {
        rate.take(rule, 0, now);
    }
    state.latches.retain(|_, latch| latch.until.is_none_or(|until| now < until));
    let seen = *state.seen.get_or_insert(now);
    let unseen = now.saturating_sub(seen) >= rules.unseen_millis;
    state.unseen = unseen.then(|| state.unseen.unwrap_or(now));
    let health = state.health(rules);
    (state, health)
}

impl State {
    fn sample(&mut self, rules: &Rules, sample: &Sample, now: i64) {
        self.seen = Some(now);
        let value = |field| sample.value(field);
        self.slowdown = value(Field::TemperatureSlowdown).or(self.slowdown);
        self.memory_max = value(Field::MemoryTemperatureMax).or(self.memory_max);
        let above = |field, limit: i64| value(field).map(|celsius| celsius.saturating_sub(limit));
        let chip = above(Field::Temperature, self.slowdown(rules));
        let memory = above(Field::MemoryTemperature, self.memory_max(rules));
        let held_down = value(Field::ThrottleReasons).map(|bits| i64::from(bits & HELD_DOWN != 0));
        let pending = flag(&[value(Field::RetiredPagesPending), value(Field::RowRemapPending)]);
        let lost = sample.iter().any(|(_, reading)| reading == Err(Absent::Lost));
        let answers = sample.iter().any(|(_, reading)| reading.is_ok());
        let fails = |reading| matches!(reading, Err(Absent::TimedOut | Absent::DriverError));
        let silent = !answers && sample.iter().any(|(_, reading)| fails(reading));
        let levels = [
            (&mut self.hot, rules.hot, chip),
            (&mut self.too_hot, rules.too_hot, chip),
            (&mut self.memory_hot, rules.memory_hot, memory),
            (&mut self.memory_too_hot, rules.memory_too_hot, memory),
            (&mut self.throttled, rules.throttled, held_down),
            (&mut self.memory_full, rules.memory_full, fullness(sample)),
            (&mut self.repair_pending, FLAG, pending),
            (&mut self.repair_failed, FLAG, flag(&[value(Field::RowRemapFailure)])),
            (&mut self.recovery, FLAG, flag(&[value(Field::RecoveryAction)])),
            (&mut self.silent, rules.silent, (answers || silent).then_some(i64::from(silent))),
            (&mut self.lost, rules.lost, (answers || lost).then_some(i64::from(lost))),
        ];
        for (level, rule, value) in levels {
            level.take(rule, value, now);
        }
        let rates = [
            (&mut self.ecc_corrected, rules.ecc_corrected, Field::EccCorrected),
            (&mut self.ecc_uncorrected, rules.ecc_uncorrected, Field::EccUncorrected),
            (&mut self.pcie_replays, rules.pcie_replays, Field::PcieReplays),
        ];
        for ((growth, rate), rule, field) in rates {
            rate.take(rule, growth.take(value(field)), now);
        }
    }

    fn event(&mut self, rules: &Rules, event: &Event, now: i64) {
        match event {
            Event::Xid { code, .. } => self.xid(rules, *code, now),
            // What was corrected is counted by the samples.
            Event::Ecc { corrected: true, .. } => {}
            Event::Ecc { corrected: false, count } => {
                self.ecc_uncorrected.1.take(rules.ecc_uncorrected, u64::from(*count), now);
            }
            Event::Lost => {
                let since = self.lost.active.unwrap_or(now);
                self.lost = LevelState::active(since);
            }
            Event::Reset => {
                let (slowdown, memory_max) = (self.slowdown, self.memory_max);
                *self = Self { seen: Some(now), slowdown, memory_max, ..Self::default() };
            }
        }
    }

    fn xid(&mut self, rules: &Rules, code: u32, now: i64) {
        let (reason, millis) = match rules.class(code) {
            Class::Notice => return,
            Class::Application => return self.xid_application.take(rules.xid_application, 1, now),
            Class::Unknown => (Reason::XidUnknown, Some(rules.xid_unknown_millis)),
            Class::Memory => (Reason::XidMemory, Some(rules.xid_memory_millis)),
            Class::Link => (Reason::XidLink, None),
            Class::Hardware => (Reason::XidHardware, None),
            Class::Bus => (Reason::XidBus, None),
        };
        let until = millis.map(|millis| now.saturating_add(millis));
        let latch = self.latches.entry(reason).or_insert(Latch { reason, code, since: now, until });
        latch.code = code;
        latch.until = latch.until.zip(until).map(|(a, b)| a.max(b));
    }

    fn slowdown(&self, rules: &Rules) -> i64 {
        self.slowdown.unwrap_or(rules.slowdown_celsius)
    }

    fn memory_max(&self, rules: &Rules) -> i64 {
        self.memory_max.unwrap_or(rules.memory_celsius_max)
    }

    fn health(&self, rules: &Rules) -> Health {
        let latched = self.latches.values().map(|latch| (latch.reason, Some(latch.since)));
        let holding = self.standing().into_iter().chain(latched);
        let holding = holding.filter_map(|(reason, since)| since.map(|since| (reason, since)));
        let mut findings: Vec<Finding> = holding
            .map(|(reason, since)| Finding { reason, since, message: self.sentence(rules, reason) })
            .collect();
        findings.sort_by_key(|finding| (Reverse(finding.reason.verdict()), finding.reason));
        Health { findings }
    }

    /// What may hold beside errors that are remembered, and since when it does.
    fn standing(&self) -> [(Reason, Option<i64>); 16] {
        [
            // Of two degrees the worse one is told.
            (Reason::Hot, self.hot.active.filter(|_| self.too_hot.active.is_none())),
            (Reason::TooHot, self.too_hot.active),
            (Reason::MemoryHot, self.memory_hot.active.filter(|_| self.memory_too_hot.active.is_none())),
            (Reason::MemoryTooHot, self.memory_too_hot.active),
            (Reason::Throttled, self.throttled.active),
            (Reason::MemoryNearlyFull, self.memory_full.active),
            (Reason::EccCorrectedRate, self.ecc_corrected.1.active),
            (Reason::EccUncorrected, self.ecc_uncorrected.1.active),
            (Reason::MemoryRepairPending, self.repair_pending.active),
            (Reason::MemoryRepairFailed, self.repair_failed.active),
            (Reason::PcieReplayRate, self.pcie_replays.1.active),
            (Reason::RecoveryNeeded, self.recovery.active),
            (Reason::XidApplicationRate, self.xid_application.active),
            (Reason::FallenOffBus, self.lost.active),
            (Reason::DriverSilent, self.silent.active),
            (Reason::NoSamples, self.unseen),
        ]
    }

    fn sentence(&self, rules: &Rules, reason: Reason) -> String {
        let chip = |level: Level| {
            let limit = self.slowdown(rules);
            let came = limit.saturating_add(level.enter);
            format!("the chip came to {came} °C; at {limit} °C its clocks are halved")
        };
        let memory = |level: Level| {
            let limit = self.memory_max(rules);
            let came = limit.saturating_add(level.enter);
            format!("its memory came to {came} °C; it may be used up to {limit} °C")
        };
        let too_many =
            |rate: Rate| format!("{} times or more, too often for {} min", rate.limit, rate.per / 60_000);
        match reason {
            Reason::Hot => chip(rules.hot),
            Reason::TooHot => chip(rules.too_hot),
            Reason::MemoryHot => memory(rules.memory_hot),
            Reason::MemoryTooHot => memory(rules.memory_too_hot),
            Reason::Throttled => {
                let seconds = rules.throttled.enter_after / 1000;
                format!("heat or the power supply held its clocks down for {seconds} s without a break")
            }
            Reason::MemoryNearlyFull => {
                format!("{} % of its memory is used, or more", rules.memory_full.enter / 10)
            }
            Reason::EccCorrectedRate => {
                format!("ECC corrected its memory {}", too_many(rules.ecc_corrected))
            }
            Reason::EccUncorrected => "ECC found errors in its memory that it could not correct".to_owned(),
            Reason::MemoryRepairPending => "parts of its memory are replaced at its next reset".to_owned(),
            Reason::MemoryRepairFailed => {
                "a part of its memory failed and could not be replaced: it needs service".to_owned()
            }
            Reason::PcieReplayRate => format!("PCIe sent packets again {}", too_many(rules.pcie_replays)),
            Reason::RecoveryNeeded => "its driver asks for a reset of it, or of the machine".to_owned(),
            Reason::XidApplicationRate => {
                format!("programs on it failed {}", too_many(rules.xid_application))
            }
            Reason::FallenOffBus => "it does not answer any more".to_owned(),
            Reason::DriverSilent => "its driver fails, or does not answer".to_owned(),
            Reason::NoSamples => format!("it was not sampled for {} s", rules.unseen_millis / 1000),
            Reason::XidUnknown
            | Reason::XidMemory
            | Reason::XidLink
            | Reason::XidHardware
            | Reason::XidBus => self.latches.get(&reason).map_or_else(String::new, Latch::sentence),
        }
    }
}

impl Latch {
    fn sentence(&self) -> String {
        match xid::title(self.code) {
            Some(title) => format!("its driver reported Xid {}: {title}", self.code),
            None => format!("its driver reported Xid {}", self.code),
        }
    }
}

/// 1 where one of the flags is up, 0 where one is down and none up.
fn flag(flags: &[Option<i64>]) -> Option<i64> {
    flags.iter().flatten().map(|flag| i64::from(*flag != 0)).max()
}

/// How full the memory is, in thousandths.
fn fullness(sample: &Sample) -> Option<i64> {
    let used = i128::from(sample.value(Field::MemoryUsed)?.max(0));
    let free = i128::from(sample.value(Field::MemoryFree)?.max(0));
    let all = used + free;
    if all == 0 { None } else { i64::try_from(used * 1000 / all).ok() }
}
