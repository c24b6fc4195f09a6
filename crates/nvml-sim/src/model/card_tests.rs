//! Laws of one card: bounds, lag, throttling, and that counters only rise.

use proptest::prelude::*;

use super::*;
use crate::{
    control::{Load, Percent, Shape},
    profile,
};

const START_MS: u64 = 1_700_000_000_000;

fn control(shape: Shape, gpu: u8) -> DeviceControl {
    let load = Load { shape, gpu_percent: Some(Percent::saturating(gpu)), ..Load::default() };
    DeviceControl { load: Some(load), ..DeviceControl::of(0) }
}

fn card(name: &str) -> Card {
    Card::new(profile::find(name).expect(name), 11, START_MS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_stays_in_bounds_and_counters_rise(
        name in prop::sample::select(profile::names()),
        seed: u64,
        gpu in 0..=100_u8,
        ambient in 0..=90_u8,
        gaps in prop::collection::vec(0..400_000_u64, 1..12),
    ) {
        let mut card = Card::new(profile::find(name).expect(name), seed, START_MS);
        let control = DeviceControl { ambient_c: Some(ambient), ..control(Shape::Steady, gpu) };
        let mut now = START_MS;
        for gap in gaps {
            let before = card.clone();
            now += gap;
            card.advance(now, Some(&control));
            prop_assert!(card.at_ms <= now && now - card.at_ms < TICK_MS);
            prop_assert!(card.energy_j >= before.energy_j);
            prop_assert!(card.held_back.power >= before.held_back.power);
            prop_assert!(card.work.seconds >= before.work.seconds && card.work.gpu >= before.work.gpu);
            let most = f64::from(card.profile.power.limit_w) * 1.02;
            prop_assert!(card.power_w > 0.0 && card.power_w <= most, "{} W", card.power_w);
            let shutdown = f64::from(card.profile.temperature.shutdown_c);
            prop_assert!((0.0..shutdown).contains(&card.temperature_c), "{} C", card.temperature_c);
            prop_assert!(card.sm_mhz <= card.profile.clocks.max_sm_mhz + 15);
            prop_assert!(card.fan_percent() <= 100);
        }
    }
}

#[test]
fn power_follows_work_with_a_lag_and_temperature_follows_power_later() {
    let mut card = card("t4");
    card.advance(START_MS, Some(&control(Shape::Idle, 0)));
    let (idle_w, idle_c) = (card.power_w, card.temperature_c);
    let busy = control(Shape::Steady, 80);
    card.advance(START_MS + 200, Some(&busy));
    let soon = card.power_w;
    card.advance(START_MS + 5_000, Some(&busy));
    assert!(idle_w < soon && soon < card.power_w, "{idle_w} {soon} {}", card.power_w);
    let warming = card.temperature_c;
    card.advance(START_MS + 110_000, Some(&busy));
    assert!(
        idle_c < warming && warming + 5.0 < card.temperature_c,
        "{idle_c} {warming} {}",
        card.temperature_c
    );
}

#[test]
fn at_the_power_limit_clocks_give_way() {
    let mut card = card("t4");
    let full = control(Shape::Steady, 100);
    card.advance(START_MS, Some(&full));
    assert!(card.reasons & reason::POWER_CAP != 0);
    assert!(card.sm_mhz < card.profile.clocks.max_sm_mhz);
    let held = card.held_back.power;
    card.advance(START_MS + 10_000, Some(&full));
    assert!((card.held_back.power - held - 10.0).abs() < 1.0, "{}", card.held_back.power - held);
}

#[test]
fn in_heat_it_slows_down_and_stays_alive() {
    let mut card = card("a10");
    let full = DeviceControl { ambient_c: Some(75), ..control(Shape::Steady, 100) };
    card.advance(START_MS, Some(&full));
    assert!(card.reasons & reason::SW_THERMAL != 0, "{card:?}");
    assert!(card.held_back.sw_thermal > 10.0);
    assert!(card.sm_mhz < card.profile.clocks.max_sm_mhz * 9 / 10);
}

#[test]
fn two_that_look_at_different_times_see_the_same() {
    let wave = control(Shape::Wave, 90);
    let (mut one, mut other) = (card("a100"), card("a100"));
    for late in (0..60_000).step_by(250) {
        one.advance(START_MS + late, Some(&wave));
    }
    other.advance(START_MS, Some(&wave));
    other.advance(START_MS + 60_000, Some(&wave));
    one.advance(START_MS + 60_000, Some(&wave));
    // Steps are of one size, however often somebody looks.
    assert_eq!((one.now, one.sm_mhz, one.reasons), (other.now, other.sm_mhz, other.reasons));
    assert!((one.energy_j - other.energy_j).abs() < 1e-6);
}

#[test]
fn a_program_that_begins_later_sees_the_same_card() {
    let wave = control(Shape::Wave, 90);
    let (mut early, mut late) =
        (card("a100"), Card::new(profile::find("a100").expect("there"), 11, START_MS + 60_000));
    early.advance(START_MS + 60_000, Some(&wave));
    late.advance(START_MS + 60_000, Some(&wave));
    assert_eq!((early.now, early.reasons), (late.now, late.reasons));
    assert!((early.power_w - late.power_w).abs() < 0.5, "{} {}", early.power_w, late.power_w);
    assert!(
        (early.temperature_c - late.temperature_c).abs() < 0.5,
        "{} {}",
        early.temperature_c,
        late.temperature_c
    );
}

#[test]
fn energy_is_the_sum_of_power() {
    let mut card = card("h100");
    let steady = control(Shape::Steady, 60);
    card.advance(START_MS, Some(&steady));
    let (before, mut sum) = (card.energy_j, 0.0);
    for step in 1..=600 {
        card.advance(START_MS + step * TICK_MS, Some(&steady));
        sum += card.power_w * 0.1;
    }
    assert!((card.energy_j - before - sum).abs() < 1.0, "{} {sum}", card.energy_j - before);
}
