//! What a card is busy with at a moment: a function of its load, its seed and the time alone.

use std::f64::consts::TAU;

use super::chance::{derive, noise, unit};
use crate::control::{DeviceControl, Load, Shape};

/// Percent of each engine, each from 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Activity {
    pub(crate) gpu: f64,
    /// Of the memory controller.
    pub(crate) memory: f64,
    pub(crate) encoder: f64,
    pub(crate) decoder: f64,
}

const PERIOD_S: u32 = 60;
const GPU_PERCENT: f64 = 85.0;
const NOISE_PERCENT: f64 = 6.0;
/// Bursts begin at most so often.
const BURST_MS: u64 = 4_000;

/// What the card does at `at_ms`, milliseconds since 1970.
pub(crate) fn activity(control: Option<&DeviceControl>, seed: u64, at_ms: u64) -> Activity {
    let lively = Load::default();
    let Some(control) = control else { return of_load(&lively, seed, at_ms) };
    if let Some(load) = &control.load {
        return of_load(load, seed, at_ms);
    }
    let told = control.process.iter().any(|process| process.sm_percent.is_some());
    if !told {
        return of_load(&lively, seed, at_ms);
    }
    let mut sum = Activity::default();
    for (at, process) in control.process.iter().enumerate() {
        let sm = process.sm_percent.map_or(0.0, super::Percent::get);
        sum.gpu += sm;
        sum.memory += process.memory_percent.map_or(sm / 2.0, super::Percent::get);
        sum.encoder += process.encoder_percent.get();
        sum.decoder += process.decoder_percent.get();
        // One noise for each, so that a sum is calmer than its parts.
        if sm > 0.0 {
            sum.gpu += noise(derive(seed, 100 + at as u64), at_ms, 1_300) * NOISE_PERCENT / 2.0;
        }
    }
    bounded(sum)
}

fn of_load(load: &Load, seed: u64, at_ms: u64) -> Activity {
    let period_ms = u64::from(load.period_s.unwrap_or(PERIOD_S)) * 1000;
    let high = load.gpu_percent.map_or(GPU_PERCENT, super::Percent::get);
    // Cards of one machine are not in step.
    let shifted = at_ms + derive(seed, 1) % period_ms;
    let part = course(load.shape, seed, shifted, period_ms);
    let noise_percent = load.noise_percent.map_or(NOISE_PERCENT, super::Percent::get);
    let noisy = |level: f64, channel: u64| {
        // What does nothing makes no noise.
        let quiet = (level / 10.0).min(1.0);
        let (slow, fast) =
            (noise(derive(seed, channel), at_ms, 7_000), noise(derive(seed, channel + 1), at_ms, 900));
        level + quiet * noise_percent * (0.6 * slow + 0.4 * fast)
    };
    let memory_high = load.memory_percent.map_or(high / 2.0, super::Percent::get);
    bounded(Activity {
        gpu: noisy(high * part, 10),
        memory: noisy(memory_high * part, 12),
        encoder: noisy(load.encoder_percent.get() * part, 14),
        decoder: noisy(load.decoder_percent.get() * part, 16),
    })
}

/// Where the course is, from 0 to 1.
fn course(shape: Shape, seed: u64, at_ms: u64, period_ms: u64) -> f64 {
    let into = (at_ms % period_ms) as f64 / period_ms as f64;
    match shape {
        Shape::Idle => 0.0,
        Shape::Wave => 0.5 - 0.45 * (TAU * into).cos(),
        Shape::Bursts => {
            let slot = at_ms / BURST_MS;
            let length = 0.3 + 0.6 * unit(derive(seed, 2), slot);
            let busy = unit(derive(seed, 3), slot) < 0.6;
            let within = (at_ms % BURST_MS) as f64 / (BURST_MS as f64) < length;
            if busy && within { 0.7 + 0.3 * unit(derive(seed, 4), slot) } else { 0.0 }
        }
        Shape::Training if into > 0.92 => 0.08,
        Shape::Steady | Shape::Training => 1.0,
    }
}

fn bounded(activity: Activity) -> Activity {
    let bound = |percent: f64| percent.clamp(0.0, 100.0);
    Activity {
        gpu: bound(activity.gpu),
        memory: bound(activity.memory),
        encoder: bound(activity.encoder),
        decoder: bound(activity.decoder),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::{Percent, Process};

    const SHAPES: [Shape; 5] = [Shape::Idle, Shape::Steady, Shape::Wave, Shape::Bursts, Shape::Training];

    fn with(load: Load) -> DeviceControl {
        DeviceControl { load: Some(load), ..DeviceControl::of(0) }
    }

    proptest! {
        #[test]
        fn every_curve_stays_in_bounds_and_is_the_same_twice(
            shape in 0..SHAPES.len(), gpu in 0..=100_u8, noise in 0..=100_u8, period in 1..86_400_u32, seed: u64, at in 0..1_u64 << 45,
        ) {
            let load = Load {
                shape: SHAPES[shape],
                gpu_percent: Some(Percent::saturating(gpu)),
                noise_percent: Some(Percent::saturating(noise)),
                period_s: Some(period),
                ..Load::default()
            };
            let control = with(load);
            let once = activity(Some(&control), seed, at);
            for percent in [once.gpu, once.memory, once.encoder, once.decoder] {
                prop_assert!((0.0..=100.0).contains(&percent));
            }
            prop_assert_eq!(once, activity(Some(&control), seed, at));
        }
    }

    #[test]
    fn idle_is_idle_and_steady_is_what_was_asked_for() {
        let idle = with(Load { shape: Shape::Idle, ..Load::default() });
        let steady =
            Load { shape: Shape::Steady, gpu_percent: Some(Percent::saturating(70)), ..Load::default() };
        let quiet = with(Load { noise_percent: Some(Percent::ZERO), ..steady });
        for at in (0..600_000).step_by(777) {
            assert_eq!(activity(Some(&idle), 7, at), Activity::default());
            assert!((activity(Some(&quiet), 7, at).gpu - 70.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_wave_goes_up_and_down_and_bursts_come_and_go() {
        for shape in [Shape::Wave, Shape::Bursts, Shape::Training] {
            let control = with(Load { shape, ..Load::default() });
            let course: Vec<_> =
                (0..600_000).step_by(500).map(|at| activity(Some(&control), 3, at).gpu).collect();
            assert!(course.iter().any(|gpu| *gpu < 20.0), "{shape:?}");
            assert!(course.iter().any(|gpu| *gpu > 70.0), "{shape:?}");
        }
    }

    #[test]
    fn without_a_load_it_is_what_processes_do() {
        let process =
            |pid, sm| Process { pid, sm_percent: Some(Percent::saturating(sm)), ..Process::default() };
        let control = DeviceControl { process: vec![process(1, 20), process(2, 30)], ..DeviceControl::of(0) };
        for at in (0..60_000).step_by(777) {
            let gpu = activity(Some(&control), 5, at).gpu;
            assert!((44.0..=56.0).contains(&gpu), "{gpu}");
        }
    }
}
