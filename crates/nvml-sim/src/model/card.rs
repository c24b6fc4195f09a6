//! One card over time: power follows work, temperature follows power, clocks give way to both, and counters only rise.

use super::{
    chance::{derive, noise},
    curve::{Activity, activity},
};
use crate::{control::DeviceControl, profile::Profile};

/// Between two steps. All times are multiples of it, so that every process that looks sees the same course.
pub(crate) const TICK_MS: u64 = 100;
/// A card is taken to have run for so long when it is first looked at; what lags has settled by then.
const WARM_MS: u64 = 120_000;
/// How fast power follows work, and temperature follows power.
const POWER_TAU_S: f64 = 0.7;
const TEMPERATURE_TAU_S: f64 = 18.0;
const AMBIENT_C: f64 = 25.0;
/// As slow as a card gets when it protects itself.
const SLOWEST: f64 = 0.3;
/// Below so much of work a card counts as idle.
const IDLE_PERCENT: f64 = 1.0;

/// Why clocks are lower than they could be, as in `nvmlClocksEventReason...`.
pub(crate) mod reason {
    pub(crate) const IDLE: u64 = 0x1;
    pub(crate) const POWER_CAP: u64 = 0x4;
    pub(crate) const HW_SLOWDOWN: u64 = 0x8;
    pub(crate) const SW_THERMAL: u64 = 0x20;
    pub(crate) const HW_THERMAL: u64 = 0x40;
    /// All that is simulated.
    pub(crate) const ALL: u64 = IDLE | POWER_CAP | HW_SLOWDOWN | SW_THERMAL | HW_THERMAL;
}

/// What has been done since the card began: sums over time, from which rates and ratios are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    pub(crate) seconds: f64,
    /// Seconds of full work.
    pub(crate) gpu: f64,
    pub(crate) memory: f64,
    pub(crate) decoder: f64,
    pub(crate) pcie_tx_bytes: f64,
    pub(crate) pcie_rx_bytes: f64,
    /// Of all links together.
    pub(crate) nvlink_tx_bytes: f64,
    pub(crate) nvlink_rx_bytes: f64,
    /// Seconds of full work of each MIG instance.
    pub(crate) instances: [f64; 8],
}

/// Seconds for which clocks were held back, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct HeldBack {
    pub(crate) power: f64,
    pub(crate) sw_thermal: f64,
    pub(crate) hw_thermal: f64,
    pub(crate) idle: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) profile: &'static Profile,
    pub(crate) seed: u64,
    /// Milliseconds since 1970, a multiple of `TICK_MS`.
    pub(crate) at_ms: u64,
    pub(crate) now: Activity,
    pub(crate) power_w: f64,
    pub(crate) temperature_c: f64,
    /// Clock of the multiprocessors.
    pub(crate) sm_mhz: u32,
    pub(crate) reasons: u64,
    pub(crate) energy_j: f64,
    pub(crate) held_back: HeldBack,
    pub(crate) work: Work,
    /// Kilobytes a second.
    pub(crate) pcie_tx_kbs: f64,
    pub(crate) pcie_rx_kbs: f64,
}

impl Card {
    /// A card that has run for a while at `now_ms`.
    pub(crate) fn new(profile: &'static Profile, seed: u64, now_ms: u64) -> Self {
        Self {
            profile,
            seed,
            at_ms: now_ms.saturating_sub(WARM_MS) / TICK_MS * TICK_MS,
            now: Activity::default(),
            power_w: f64::from(profile.power.idle_w),
            temperature_c: AMBIENT_C,
            sm_mhz: profile.clocks.idle_sm_mhz,
            reasons: reason::IDLE,
            energy_j: 0.0,
            held_back: HeldBack::default(),
            work: Work::default(),
            pcie_tx_kbs: 0.0,
            pcie_rx_kbs: 0.0,
        }
    }

    /// Goes on to `now_ms`, with what the control file says now. A long time that nobody looked is taken as it was, but for its end.
    pub(crate) fn advance(&mut self, now_ms: u64, control: Option<&DeviceControl>) {
        let behind = now_ms.saturating_sub(self.at_ms);
        if behind > WARM_MS {
            let skipped = (behind - WARM_MS) / TICK_MS * TICK_MS;
            self.at_ms += skipped;
            self.count(skipped as f64 / 1000.0, control);
        }
        while now_ms.saturating_sub(self.at_ms) >= TICK_MS {
            self.at_ms += TICK_MS;
            self.step(control);
        }
    }

    fn step(&mut self, control: Option<&DeviceControl>) {
        let dt = TICK_MS as f64 / 1000.0;
        self.now = activity(control, self.seed, self.at_ms);
        let (power, temperature) = (&self.profile.power, &self.profile.temperature);
        let (idle, full) = (f64::from(power.idle_w), f64::from(power.full_w));
        let limit = f64::from(self.limit_w(control));
        let wanted = idle + (full - idle) * (0.0085 * self.now.gpu + 0.0015 * self.now.memory);

        let mut reasons = 0;
        let mut speed: f64 = 1.0;
        if wanted > limit {
            reasons |= reason::POWER_CAP;
            speed = ((limit - idle) / (wanted - idle)).max(SLOWEST);
        }
        let (warm, hot) = (f64::from(temperature.max_operating_c), f64::from(temperature.slowdown_c));
        let cold_side = f64::from(temperature.shutdown_c) - 1.0;
        if self.temperature_c >= warm {
            reasons |= reason::SW_THERMAL;
            speed = speed.min((1.0 - (self.temperature_c - warm) / (cold_side - warm).max(1.0)).max(SLOWEST));
        }
        if self.temperature_c >= hot {
            reasons |= reason::HW_THERMAL | reason::HW_SLOWDOWN;
            speed = SLOWEST;
        }
        let resting =
            self.now.gpu < IDLE_PERCENT && self.now.decoder < IDLE_PERCENT && self.now.encoder < IDLE_PERCENT;
        if resting {
            reasons |= reason::IDLE;
        }
        self.reasons = reasons;

        let target = idle + (wanted - idle) * speed + if resting { 0.0 } else { 0.02 * idle };
        let shiver = 1.0 + 0.01 * noise(derive(self.seed, 30), self.at_ms, 300);
        let lag = 1.0 - (-dt / POWER_TAU_S).exp();
        self.power_w += (target.min(limit) * shiver - self.power_w) * lag;
        let ambient = control.and_then(|control| control.ambient_c).map_or(AMBIENT_C, f64::from);
        let rise = (f64::from(temperature.full_c) - AMBIENT_C) * self.power_w / f64::from(power.limit_w);
        let lag = 1.0 - (-dt / TEMPERATURE_TAU_S).exp();
        self.temperature_c += (ambient + rise - self.temperature_c) * lag;
        self.temperature_c = self.temperature_c.min(cold_side);

        let clocks = &self.profile.clocks;
        let (low, high) = (f64::from(clocks.idle_sm_mhz), f64::from(clocks.max_sm_mhz));
        let mhz = if resting { low } else { (high * speed).max(low) };
        // Clocks come in steps of 15 MHz.
        self.sm_mhz = whole(mhz / 15.0) * 15;
        self.pcie(control);
        self.count(dt, control);
    }

    /// What goes over the bus follows the memory controller.
    fn pcie(&mut self, control: Option<&DeviceControl>) {
        // 985 MB/s a lane of generation 3, and twice that with each after it.
        let pcie = &self.profile.pcie;
        let lanes =
            f64::from(pcie.width) * 985_000.0 * f64::from(1_u32 << pcie.generation.saturating_sub(3).min(4));
        let busy = self.now.memory / 100.0;
        let shiver = |channel| 1.0 + 0.3 * noise(derive(self.seed, channel), self.at_ms, 500);
        let quiet = if control.is_some_and(|control| control.lost) { 0.0 } else { 40.0 };
        let (tx, rx) = (quiet + lanes * 0.12 * busy * shiver(31), quiet + lanes * 0.30 * busy * shiver(32));
        (self.pcie_tx_kbs, self.pcie_rx_kbs) = (tx, rx);
    }

    /// Adds to the counters as if all were as now for `seconds`.
    fn count(&mut self, seconds: f64, control: Option<&DeviceControl>) {
        self.energy_j += self.power_w * seconds;
        let held = |bit| if self.reasons & bit != 0 { seconds } else { 0.0 };
        self.held_back.power += held(reason::POWER_CAP);
        self.held_back.sw_thermal += held(reason::SW_THERMAL);
        self.held_back.hw_thermal += held(reason::HW_THERMAL);
        self.held_back.idle += held(reason::IDLE);
        let work = &mut self.work;
        work.seconds += seconds;
        work.gpu += self.now.gpu / 100.0 * seconds;
        work.memory += self.now.memory / 100.0 * seconds;
        work.decoder += self.now.decoder / 100.0 * seconds;
        work.pcie_tx_bytes += self.pcie_tx_kbs * 1000.0 * seconds;
        work.pcie_rx_bytes += self.pcie_rx_kbs * 1000.0 * seconds;
        if let Some(nvlink) = &self.profile.nvlink {
            let all = f64::from(nvlink.links) * f64::from(nvlink.speed_mbps) * 1e6;
            work.nvlink_tx_bytes += all * 0.1 * self.now.gpu / 100.0 * seconds;
            work.nvlink_rx_bytes += all * 0.1 * self.now.gpu / 100.0 * seconds;
        }
        for process in control.map_or(&[][..], |control| &control.process) {
            let Some(sum) = process.mig.and_then(|mig| work.instances.get_mut(usize::try_from(mig).ok()?))
            else {
                continue;
            };
            *sum += process.sm_percent.map_or(self.now.gpu, super::Percent::get) / 100.0 * seconds;
        }
    }

    pub(crate) fn limit_w(&self, control: Option<&DeviceControl>) -> u32 {
        control.and_then(|control| control.power_limit_w).unwrap_or(self.profile.power.limit_w)
    }

    pub(crate) fn resting(&self) -> bool {
        self.reasons & reason::IDLE != 0
    }

    /// Degrees Celsius; memory is warmer than the chip under load.
    pub(crate) fn memory_temperature_c(&self) -> f64 {
        self.temperature_c + 2.0 + 0.06 * self.now.memory
    }

    /// Of the fan, in percent: it follows the temperature.
    pub(crate) fn fan_percent(&self) -> u32 {
        whole((30.0 + (self.temperature_c - 40.0).max(0.0) * 1.4).min(100.0))
    }
}

/// The nearest whole number of what is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded on the line before")]
pub(crate) fn whole(number: f64) -> u32 {
    let number = number.round().clamp(0.0, f64::from(u32::MAX));
    number as u32
}

/// As `whole`, of what may be large; fractions are dropped, so that what rises never falls.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded on the line before")]
pub(crate) fn whole_u64(number: f64) -> u64 {
    let number = number.clamp(0.0, 9e18);
    number as u64
}

#[cfg(test)]
#[path = "card_tests.rs"]
mod tests;
