//! The laws of health, and what each rule does.

use proptest::prelude::*;
use skerry_gpu_model::field::throttle;
use skerry_gpu_model::health::{Health, Input, Latch, Level, Reason, Rules, State, Verdict, step};
use skerry_gpu_model::xid::Class;
use skerry_gpu_model::{Absent, Event, Field, Sample};
use skerry_model::TaintEffect;

const GIB: i64 = 1 << 30;

/// A device that is looked at every second.
struct Device {
    rules: Rules,
    state: State,
    now: i64,
    health: Health,
}

impl Device {
    fn new() -> Self {
        let (rules, state) = (Rules::default(), State::default());
        Self { rules, state, now: 1_000_000_000, health: Health::default() }
    }

    fn take(&mut self, input: Input<'_>) -> Verdict {
        let state = std::mem::take(&mut self.state);
        (self.state, self.health) = step(&self.rules, state, input, self.now);
        self.health.verdict()
    }

    fn event(&mut self, event: &Event) -> Verdict {
        self.take(Input::Event(event))
    }

    /// The same readings for so many seconds.
    fn reads(&mut self, readings: &[(Field, i64)], seconds: i64) -> Verdict {
        let sample: Sample = readings.iter().map(|(field, value)| (*field, Ok(*value))).collect();
        self.samples(&sample, seconds)
    }

    fn samples(&mut self, sample: &Sample, seconds: i64) -> Verdict {
        for _ in 0..seconds {
            self.now += 1000;
            self.take(Input::Sample(sample));
        }
        self.health.verdict()
    }

    fn words(&self) -> Vec<&'static str> {
        self.health.findings.iter().map(|finding| finding.reason.word()).collect()
    }
}

#[test]
fn heat_has_to_last_and_has_two_degrees() {
    let mut device = Device::new();
    let at = |celsius| [(Field::Temperature, celsius), (Field::TemperatureSlowdown, 95)];
    assert_eq!(device.reads(&at(94), 8), Verdict::Ok);
    assert_eq!(device.reads(&at(80), 1), Verdict::Ok);
    assert_eq!(device.reads(&at(92), 10), Verdict::Ok);
    assert_eq!(device.reads(&at(92), 1), Verdict::Warning);
    assert_eq!(device.words(), ["Hot"]);
    assert!(device.health.findings[0].message.contains("90 °C"), "{:?}", device.health);
    assert_eq!(device.reads(&at(96), 6), Verdict::Critical);
    assert_eq!(device.words(), ["TooHot"]);
    assert_eq!(device.health.taints()[0].effect, TaintEffect::NoSchedule);
    // A little cooler is not cool.
    assert_eq!(device.reads(&at(91), 100), Verdict::Critical);
    assert_eq!(device.reads(&at(88), 20), Verdict::Warning);
    assert_eq!(device.reads(&at(70), 40), Verdict::Ok);
    // What the device said of itself once is known.
    assert_eq!(device.reads(&[(Field::Temperature, 92)], 20), Verdict::Warning);
}

#[test]
fn errors_of_programs_say_nothing_of_the_device_unless_they_come_and_come() {
    let mut device = Device::new();
    for code in [13, 31, 43, 45, 68, 69] {
        assert_eq!(device.event(&Event::xid(code)), Verdict::Ok, "{code}");
    }
    for _ in 0..4 {
        device.event(&Event::xid(31));
    }
    assert_eq!(device.words(), ["XidApplicationRate"]);
    assert!(device.health.taints().is_empty());
    assert_eq!(device.reads(&[(Field::Temperature, 50)], 600), Verdict::Ok);
}

#[test]
fn errors_of_the_hardware_stay_until_a_reset() {
    for (code, word, effect) in [
        (48, "XidHardware", TaintEffect::NoExecute),
        (119, "XidHardware", TaintEffect::NoExecute),
        (79, "XidBus", TaintEffect::NoExecute),
        (74, "XidLink", TaintEffect::NoSchedule),
    ] {
        let mut device = Device::new();
        device.event(&Event::xid(code));
        assert_eq!(device.reads(&[(Field::Temperature, 50)], 5_000), Verdict::Critical, "{code}");
        assert_eq!(device.words(), [word]);
        let taints = device.health.taints();
        assert_eq!((taints.len(), taints[0].effect), (1, effect), "{code}");
        assert!(device.health.findings[0].message.contains(&format!("Xid {code}: ")));
        assert_eq!(device.event(&Event::Reset), Verdict::Ok);
    }
}

#[test]
fn errors_of_memory_and_unknown_ones_only_warn_and_are_forgotten() {
    for (code, word, hours) in [(63, "XidMemory", 24), (94, "XidMemory", 24), (9_999, "XidUnknown", 1)] {
        let mut device = Device::new();
        device.event(&Event::xid(code));
        // Another one begins the time anew.
        device.now += 1_800_000;
        device.event(&Event::xid(code));
        device.now += hours * 3_600_000 - 1;
        device.take(Input::Sample(&Sample::new()));
        assert_eq!(device.words(), [word], "{code}");
        assert!(device.health.taints().is_empty());
        device.now += 1;
        assert_eq!(device.take(Input::Tick), Verdict::Ok, "{code}");
    }
}

#[test]
fn what_an_error_means_can_be_said_otherwise() {
    let mut device = Device::new();
    device.rules.xid_classes.insert(109, Class::Application);
    assert_eq!(device.event(&Event::xid(109)), Verdict::Ok);
}

#[test]
fn what_is_remembered_outlives_the_process() {
    let mut device = Device::new();
    device.event(&Event::xid(62));
    let kept: Vec<Latch> = device.state.latches().cloned().collect();
    let mut next = Device::new();
    next.state = State::remembering(kept);
    assert_eq!(next.reads(&[(Field::Temperature, 50)], 1), Verdict::Critical);
    assert_eq!(next.words(), ["XidHardware"]);
}

#[test]
fn a_device_that_is_gone_counts_as_gone_at_once_and_as_back_after_a_while() {
    let mut device = Device::new();
    device.reads(&[(Field::Temperature, 50)], 3);
    assert_eq!(device.samples(&Sample::absent(Absent::Lost), 1), Verdict::Critical);
    assert_eq!(device.words(), ["FallenOffBus"]);
    assert_eq!(device.health.taints()[0].key, "skerry.dev/gpu-fallen-off-bus");
    device.samples(&Sample::absent(Absent::NotYet), 30);
    assert_eq!(device.words(), ["FallenOffBus"]);
    assert_eq!(device.reads(&[(Field::Temperature, 50)], 10), Verdict::Critical);
    assert_eq!(device.reads(&[(Field::Temperature, 50)], 1), Verdict::Ok);
    assert_eq!(device.event(&Event::Lost), Verdict::Critical);
}

#[test]
fn silence_is_unknown_and_not_sound() {
    let mut device = Device::new();
    device.reads(&[(Field::Temperature, 50)], 3);
    assert_eq!(device.samples(&Sample::absent(Absent::TimedOut), 12), Verdict::Unknown);
    assert_eq!(device.words(), ["DriverSilent"]);
    device.reads(&[(Field::Temperature, 50)], 40);
    device.now += 30_000;
    assert_eq!(device.take(Input::Tick), Verdict::Unknown);
    assert_eq!(device.words(), ["NoSamples"]);
    assert_eq!(device.health.taints()[0].effect, TaintEffect::NoSchedule);
    assert_eq!(device.reads(&[(Field::Temperature, 50)], 1), Verdict::Ok);
}

#[test]
fn a_device_without_a_sensor_is_not_sick_for_it() {
    let mut device = Device::new();
    let mut orin = Sample::absent(Absent::NotSupported);
    assert_eq!(device.samples(&orin, 200), Verdict::Ok);
    orin.set(Field::GpuUtilization, Ok(99));
    assert_eq!(device.samples(&orin, 200), Verdict::Ok);
}

#[test]
fn counters_are_judged_by_how_they_grow() {
    let mut device = Device::new();
    let ecc = |corrected, not| [(Field::EccCorrected, corrected), (Field::EccUncorrected, not)];
    // What was before anybody looked is old.
    assert_eq!(device.reads(&ecc(1_000_000, 4), 2), Verdict::Ok);
    assert_eq!(device.reads(&ecc(1_000_050, 4), 2), Verdict::Ok);
    assert_eq!(device.reads(&ecc(1_000_200, 4), 1), Verdict::Warning);
    assert_eq!(device.words(), ["EccCorrectedRate"]);
    assert_eq!(device.reads(&ecc(1_000_200, 4), 7_200), Verdict::Ok);
    // What is far too much is not remembered longer for that.
    assert_eq!(device.reads(&ecc(9_000_000, 4), 1), Verdict::Warning);
    assert_eq!(device.reads(&ecc(9_000_000, 4), 5_401), Verdict::Ok);
    assert_eq!(device.reads(&ecc(9_000_000, 5), 1), Verdict::Critical);
    assert_eq!(device.words(), ["EccUncorrected"]);
    // A driver that was loaded again counts from 0.
    device.event(&Event::Reset);
    assert_eq!(device.reads(&ecc(0, 0), 5), Verdict::Ok);
    assert_eq!(device.event(&Event::Ecc { corrected: false, count: 1 }), Verdict::Critical);
}

#[test]
fn flags_of_the_device_are_taken_at_their_word() {
    for (field, word, verdict) in [
        (Field::RowRemapPending, "MemoryRepairPending", Verdict::Warning),
        (Field::RetiredPagesPending, "MemoryRepairPending", Verdict::Warning),
        (Field::RowRemapFailure, "MemoryRepairFailed", Verdict::Critical),
        (Field::RecoveryAction, "RecoveryNeeded", Verdict::Critical),
    ] {
        let mut device = Device::new();
        assert_eq!(device.reads(&[(field, 1)], 1), verdict, "{field}");
        assert_eq!(device.words(), [word]);
        assert_eq!(device.reads(&[(field, 0)], 1), Verdict::Ok, "{field}");
    }
}

#[test]
fn a_full_memory_and_a_long_throttle_warn() {
    let mut device = Device::new();
    let memory = |used| [(Field::MemoryUsed, used * GIB), (Field::MemoryFree, (100 - used) * GIB)];
    assert_eq!(device.reads(&memory(98), 31), Verdict::Warning);
    assert_eq!(device.words(), ["MemoryNearlyFull"]);
    assert_eq!(device.reads(&memory(95), 300), Verdict::Warning);
    assert_eq!(device.reads(&memory(80), 91), Verdict::Ok);
    // That the power limit holds it down is how it is meant to be.
    assert_eq!(device.reads(&[(Field::ThrottleReasons, throttle::POWER_CAP)], 600), Verdict::Ok);
    assert_eq!(device.reads(&[(Field::ThrottleReasons, throttle::HARDWARE_THERMAL)], 59), Verdict::Ok);
    assert_eq!(device.reads(&[(Field::ThrottleReasons, throttle::POWER_BRAKE)], 2), Verdict::Warning);
    assert_eq!(device.words(), ["Throttled"]);
}

#[test]
fn the_api_has_the_worst_first() {
    let mut device = Device::new();
    device.event(&Event::xid(63));
    device.event(&Event::xid(79));
    let wire = device.health.to_wire();
    assert_eq!(wire.state(), skerry_proto::gpu::v1::health::State::Critical);
    let words: Vec<&str> = wire.reasons.iter().map(|reason| reason.reason.as_str()).collect();
    assert_eq!(words, ["XidBus", "XidMemory"]);
    assert!(wire.reasons.iter().all(|reason| reason.since.is_some_and(|since| since.seconds == 1_000_000)));
}

/// What two devices have in common, and by how much the second one is worse.
#[derive(Debug, Clone)]
struct Moment {
    temperature: (i64, i64),
    memory: (i64, i64),
    throttled: (bool, bool),
    corrected: (i64, i64),
    uncorrected: (i64, i64),
    event: Option<(u32, bool)>,
    absent: bool,
    reset: bool,
    seconds: i64,
}

fn moment() -> impl Strategy<Value = Moment> {
    let counters = ((0i64..40, 0i64..40), (prop_oneof![9 => Just(0i64), 1 => Just(1)], 0i64..2));
    let codes = prop::sample::select(vec![31u32, 63, 74, 79, 154, 5_000]);
    let rare = |weight| prop::bool::weighted(weight);
    (
        (70i64..100, 0i64..12),
        (900i64..1000, 0i64..40),
        (any::<bool>(), any::<bool>()),
        counters,
        prop::option::weighted(0.1, (codes, any::<bool>())),
        (rare(0.1), rare(0.02)),
        prop_oneof![6 => 1i64..4, 1 => 4i64..90],
    )
        .prop_map(|(temperature, memory, throttled, counters, event, (absent, reset), seconds)| Moment {
            temperature,
            memory,
            throttled,
            corrected: counters.0,
            uncorrected: counters.1,
            event,
            absent,
            reset,
            seconds,
        })
}

proptest! {
    #[test]
    fn a_device_that_is_worse_in_everything_is_never_judged_better(
        moments in prop::collection::vec(moment(), 1..120),
    ) {
        let (mut better, mut worse) = (Device::new(), Device::new());
        let mut counters = [(0, 0), (0, 0)];
        for moment in moments {
            for (counter, (grown, more)) in counters.iter_mut().zip([moment.corrected, moment.uncorrected]) {
                counter.0 += grown;
                counter.1 += grown + more;
            }
            let sample = |bad: bool| {
                let pick = |(base, more): (i64, i64)| base + if bad { more } else { 0 };
                let used = pick(moment.memory).min(1000);
                let throttled = moment.throttled.0 || (bad && moment.throttled.1);
                let count = |(base, more): (i64, i64)| if bad { more } else { base };
                let temperature =
                    if moment.absent { Err(Absent::TimedOut) } else { Ok(pick(moment.temperature)) };
                [
                    (Field::Temperature, temperature),
                    (Field::MemoryUsed, Ok(used)),
                    (Field::MemoryFree, Ok(1000 - used)),
                    (Field::ThrottleReasons, Ok(if throttled { throttle::HARDWARE_SLOWDOWN } else { 0 })),
                    (Field::EccCorrected, Ok(count(counters[0]))),
                    (Field::EccUncorrected, Ok(count(counters[1]))),
                ]
                .into_iter()
                .collect::<Sample>()
            };
            for (device, bad) in [(&mut better, false), (&mut worse, true)] {
                if let Some((code, only_worse)) = moment.event && (bad || !only_worse) {
                    device.event(&Event::xid(code));
                }
                if moment.reset {
                    device.event(&Event::Reset);
                }
                device.now += moment.seconds * 1000;
                device.take(Input::Sample(&sample(bad)));
            }
            prop_assert!(
                better.health.verdict() <= worse.health.verdict(),
                "{:?}\n{:?}", better.health, worse.health
            );
        }
    }

    #[test]
    fn noise_at_a_threshold_does_not_flap(noise in prop::collection::vec(0i64..3, 1..400)) {
        let mut device = Device::new();
        let (mut changes, mut before) = (0, Verdict::Ok);
        for noise in noise {
            // 84 to 86 of 90: around the threshold of `Hot`, and not below what makes it good again.
            let now = device.reads(&[(Field::Temperature, 84 + noise)], 1);
            changes += u32::from(now != before);
            before = now;
        }
        prop_assert!(changes <= 1, "{changes} changes");
    }

    #[test]
    fn between_two_changes_there_is_the_time_that_the_rule_asks_for(
        values in prop::collection::vec(0i64..40, 1..600),
    ) {
        let mut device = Device::new();
        let rule = Level { enter: -5, leave: -8, enter_after: 5_000, leave_after: 7_000 };
        (device.rules.hot, device.rules.too_hot.enter) = (rule, i64::MAX);
        let (mut hot, mut last) = (false, None);
        for value in values {
            device.reads(&[(Field::Temperature, 65 + value)], 1);
            if device.health.has(Reason::Hot) != hot {
                let needed = if hot { rule.leave_after } else { rule.enter_after };
                prop_assert!(last.is_none_or(|last| device.now - last >= needed));
                (hot, last) = (!hot, Some(device.now));
            }
        }
    }
}
