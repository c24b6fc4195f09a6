//! What can be wrong with a device, and what follows from it.

use skerry_model::{Taint, TaintEffect};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::health::State as Wire;
use skerry_proto::gpu::v1::health_reason::Effect;

/// Whether a device can be used. In ascending order of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is wrong that is looked for.
    Ok,
    /// Something is to be looked at; it does its work.
    Warning,
    /// Nothing is heard of it.
    Unknown,
    /// It does not work, or its results cannot be trusted.
    Critical,
}

impl Verdict {
    /// As it is on the wire.
    pub const fn to_wire(self) -> Wire {
        match self {
            Self::Ok => Wire::Ok,
            Self::Warning => Wire::Warning,
            Self::Unknown => Wire::Unknown,
            Self::Critical => Wire::Critical,
        }
    }
}

/// What can be wrong with a device. In ascending order of badness as far as one thing is seen at several degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The chip is near the temperature at which its clocks are halved.
    Hot,
    /// The chip is at that temperature.
    TooHot,
    /// The memory is near the temperature up to which it may be used.
    MemoryHot,
    /// The memory is at that temperature.
    MemoryTooHot,
    /// Heat or the power supply has held its clocks down for long. (That the power limit does is how it is meant to be.)
    Throttled,
    /// Hardly any memory is left.
    MemoryNearlyFull,
    /// ECC corrects errors at a high rate.
    EccCorrectedRate,
    /// ECC found errors that it could not correct.
    EccUncorrected,
    /// Memory is replaced at the next reset.
    MemoryRepairPending,
    /// Memory could not be replaced.
    MemoryRepairFailed,
    /// PCIe sends again at a high rate.
    PcieReplayRate,
    /// The driver wants something done before it is used again.
    RecoveryNeeded,
    /// Programs on it end with errors again and again.
    XidApplicationRate,
    /// The driver reported an error of an unknown kind.
    XidUnknown,
    /// The driver reported an error of the memory.
    XidMemory,
    /// The driver reported an error of a link to other devices.
    XidLink,
    /// The driver reported that the device failed.
    XidHardware,
    /// The driver reported that the device is not reached.
    XidBus,
    /// It does not answer any more.
    FallenOffBus,
    /// The driver answers nothing.
    DriverSilent,
    /// Nobody sampled it for a while.
    NoSamples,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Hot,
        Self::TooHot,
        Self::MemoryHot,
        Self::MemoryTooHot,
        Self::Throttled,
        Self::MemoryNearlyFull,
        Self::EccCorrectedRate,
        Self::EccUncorrected,
        Self::MemoryRepairPending,
        Self::MemoryRepairFailed,
        Self::PcieReplayRate,
        Self::RecoveryNeeded,
        Self::XidApplicationRate,
        Self::XidUnknown,
        Self::XidMemory,
        Self::XidLink,
        Self::XidHardware,
        Self::XidBus,
        Self::FallenOffBus,
        Self::DriverSilent,
        Self::NoSamples,
    ];

    /// A stable word in CamelCase.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hot => "Hot",
            Self::TooHot => "TooHot",
            Self::MemoryHot => "MemoryHot",
            Self::MemoryTooHot => "MemoryTooHot",
            Self::Throttled => "Throttled",
            Self::MemoryNearlyFull => "MemoryNearlyFull",
            Self::EccCorrectedRate => "EccCorrectedRate",
            Self::EccUncorrected => "EccUncorrected",
            Self::MemoryRepairPending => "MemoryRepairPending",
            Self::MemoryRepairFailed => "MemoryRepairFailed",
            Self::PcieReplayRate => "PcieReplayRate",
            Self::RecoveryNeeded => "RecoveryNeeded",
            Self::XidApplicationRate => "XidApplicationRate",
            Self::XidUnknown => "XidUnknown",
            Self::XidMemory => "XidMemory",
            Self::XidLink => "XidLink",
            Self::XidHardware => "XidHardware",
            Self::XidBus => "XidBus",
            Self::FallenOffBus => "FallenOffBus",
            Self::DriverSilent => "DriverSilent",
            Self::NoSamples => "NoSamples",
        }
    }

    /// The reason of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// How bad it is by itself.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Hot
            | Self::MemoryHot
            | Self::Throttled
            | Self::MemoryNearlyFull
            | Self::EccCorrectedRate
            | Self::MemoryRepairPending
            | Self::PcieReplayRate
            | Self::XidApplicationRate
            | Self::XidUnknown
            | Self::XidMemory => Verdict::Warning,
            Self::DriverSilent | Self::NoSamples => Verdict::Unknown,
            Self::TooHot
            | Self::MemoryTooHot
            | Self::EccUncorrected
            | Self::MemoryRepairFailed
            | Self::RecoveryNeeded
            | Self::XidLink
            | Self::XidHardware
            | Self::XidBus
            | Self::FallenOffBus => Verdict::Critical,
        }
    }

    /// What follows for scheduling: a warning keeps nothing off; what is not known, or may pass, keeps off what is new; and from a device that failed what is
    /// there leaves too.
    pub const fn effect(self) -> Option<TaintEffect> {
        match self.verdict() {
            Verdict::Ok | Verdict::Warning => None,
            Verdict::Unknown => Some(TaintEffect::NoSchedule),
            Verdict::Critical => match self {
                Self::TooHot | Self::MemoryTooHot | Self::EccUncorrected | Self::XidLink => {
                    Some(TaintEffect::NoSchedule)
                }
                _ => Some(TaintEffect::NoExecute),
            },
        }
    }

    /// The taint of a device for which it holds: `skerry.dev/gpu-` and the word in small letters. `None`: it only warns.
    pub fn taint(self) -> Option<Taint> {
        let mut key = "skerry.dev/gpu".to_owned();
        for char in self.word().chars() {
            if char.is_ascii_uppercase() {
                key.push('-');
            }
            key.push(char.to_ascii_lowercase());
        }
        self.effect().map(|effect| Taint { key, value: String::new(), effect })
    }
}

/// Something that is wrong with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub reason: Reason,
    /// Since when, in milliseconds since 1970, by the clock of who looks.
    pub since: i64,
    /// A sentence for people. It stays the same for as long as the reason holds, unless something new comes to it.
    pub message: String,
}

/// Whether a device can be used, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The worst first, each reason once.
    pub findings: Vec<Finding>,
}

impl Health {
    /// The worst of its findings.
    pub fn verdict(&self) -> Verdict {
        self.findings.iter().map(|finding| finding.reason.verdict()).max().unwrap_or(Verdict::Ok)
    }

    /// Whether a reason is among its findings.
    pub fn has(&self, reason: Reason) -> bool {
        self.findings.iter().any(|finding| finding.reason == reason)
    }

    /// The taints of the device, by what is worst.
    pub fn taints(&self) -> Vec<Taint> {
        self.findings.iter().filter_map(|finding| finding.reason.taint()).collect()
    }

    /// As it is on the API.
    pub fn to_wire(&self) -> pb::Health {
        let reasons = self.findings.iter().map(|finding| pb::HealthReason {
            reason: finding.reason.word().to_owned(),
            state: finding.reason.verdict().to_wire().into(),
            message: finding.message.clone(),
            since: Some(crate::timestamp(finding.since)),
            effect: match finding.reason.effect() {
                None => Effect::Unspecified,
                Some(TaintEffect::NoSchedule) => Effect::NoSchedule,
                Some(TaintEffect::NoExecute) => Effect::NoExecute,
            }
            .into(),
        });
        pb::Health { state: self.verdict().to_wire().into(), reasons: reasons.collect() }
    }
}

#[cfg(test)]
mod tests {
    use skerry_model::meta::is_label_key;

    use super::*;

    #[test]
    fn taints_have_keys_that_taints_may_have_and_only_what_is_worse_than_a_warning_has_one() {
        for reason in Reason::ALL {
            let taint = reason.taint();
            assert_eq!(taint.is_some(), reason.verdict() > Verdict::Warning, "{reason:?}");
            assert!(taint.is_none_or(|taint| is_label_key(&taint.key)), "{reason:?}");
            assert_eq!(Reason::from_word(reason.word()), Some(reason));
        }
        let lost = Reason::FallenOffBus.taint().map(|taint| (taint.key, taint.effect));
        assert_eq!(lost, Some(("skerry.dev/gpu-fallen-off-bus".to_owned(), TaintEffect::NoExecute)));
    }

    #[test]
    fn times_before_1970_are_times_too() {
        let before = crate::timestamp(-1);
        assert_eq!((before.seconds, before.nanos), (-1, 999_000_000));
    }
}
