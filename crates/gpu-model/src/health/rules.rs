//! The thresholds of the rules.

use std::collections::BTreeMap;

use crate::xid::Class;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// When a level counts as too high: once it was `enter` or more for `enter_after`, until it was less than `leave` for `leave_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// From here on it is too high.
    pub enter: i64,
    /// Below this it is right again. At most `enter`.
    pub leave: i64,
    /// For how long it has to be too high, in milliseconds. 0: at once.
    pub enter_after: i64,
    /// For how long it has to be right again, in milliseconds.
    pub leave_after: i64,
}

/// When things that happen count as too many: `limit` at once, or more than that in `per`, until half of what was too many is forgotten. Each is forgotten at the
/// same pace, `limit` of them in `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many are too many. At least 1.
    pub limit: u32,
    /// In how long, in milliseconds. At least 1.
    pub per: i64,
}

/// By what a device is judged. The default suits most machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The temperature at which clocks are halved, in degrees Celsius, where the device does not say.
    pub slowdown_celsius: i64,
    /// How far the chip is above that temperature (below: negative), in degrees, to be `Hot`.
    pub hot: Level,
    /// The same, to be `TooHot`.
    pub too_hot: Level,
    /// The temperature up to which memory may be used, in degrees Celsius, where the device does not say.
    pub memory_celsius_max: i64,
    /// How far the memory is above that temperature, to be `MemoryHot`.
    pub memory_hot: Level,
    /// The same, to be `MemoryTooHot`.
    pub memory_too_hot: Level,
    /// Whether heat or the power supply holds its clocks down: 1 or 0.
    pub throttled: Level,
    /// How full its memory is, in thousandths.
    pub memory_full: Level,
    /// Corrected errors.
    pub ecc_corrected: Rate,
    /// Errors that were not corrected.
    pub ecc_uncorrected: Rate,
    /// What PCIe sent again.
    pub pcie_replays: Rate,
    /// Errors of programs.
    pub xid_application: Rate,
    /// For how long an error of the memory is remembered without a reset, in milliseconds.
    pub xid_memory_millis: i64,
    /// For how long an error of an unknown kind is.
    pub xid_unknown_millis: i64,
    /// Classes of errors that are to be taken otherwise than [`Class::of`] does.
    pub xid_classes: BTreeMap<u32, Class>,
    /// Whether nothing can be read because the driver fails or does not answer: 1 or 0.
    pub silent: Level,
    /// Whether it is lost: 1 or 0.
    pub lost: Level,
    /// Nobody sampled it for so long, in milliseconds.
    pub unseen_millis: i64,
}

impl Rules {
    /// The class of an error under these rules.
    pub fn class(&self, code: u32) -> Class {
        self.xid_classes.get(&code).copied().unwrap_or(Class::of(code))
    }
}

impl Default for Rules {
    fn default() -> Self {
        let held = |enter, leave, seconds| Level {
            enter,
            leave,
            enter_after: seconds * SECOND,
            leave_after: 3 * seconds * SECOND,
        };
        Self {
            slowdown_celsius: 90,
            hot: held(-5, -8, 10),
            too_hot: held(0, -5, 5),
            memory_celsius_max: 95,
            memory_hot: held(-5, -8, 10),
            memory_too_hot: held(0, -5, 5),
            throttled: held(1, 1, 60),
            memory_full: held(970, 930, 30),
            ecc_corrected: Rate { limit: 100, per: HOUR },
            // One is too many, for twelve hours.
            ecc_uncorrected: Rate { limit: 1, per: 24 * HOUR },
            pcie_replays: Rate { limit: 100, per: 10 * MINUTE },
            xid_application: Rate { limit: 10, per: 10 * MINUTE },
            xid_memory_millis: 24 * HOUR,
            xid_unknown_millis: HOUR,
            xid_classes: BTreeMap::new(),
            silent: held(1, 1, 10),
            lost: Level { enter: 1, leave: 1, enter_after: 0, leave_after: 10 * SECOND },
            unseen_millis: 30 * SECOND,
        }
    }
}
