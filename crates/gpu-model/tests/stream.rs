//! The laws of streams: what is received differs from what was read by less than the threshold, whatever is lost shows, and no bytes are too much.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;
use skerry_gpu_model::decode::{Followed, Happened, Outcome, Why};
use skerry_gpu_model::health;
use skerry_gpu_model::{Absent, Decoder, EVENTS_MAX, Encoder, Event, Field, Process, Reading, Sample};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gap::Cause;
use skerry_proto::gpu::v1::keyframe::Reason;

fn devices(count: usize) -> Vec<pb::Device> {
    (0..count).map(|at| pb::Device { uuid: format!("GPU-{at}"), ..pb::Device::default() }).collect()
}

fn encoder(count: usize) -> Encoder {
    let mut encoder = Encoder::new(77, "boot");
    encoder.set_devices(devices(count)).expect("they can be told");
    encoder
}

/// What is received is what was read, as far as is promised.
fn holds(decoder: &Decoder, samples: &[Sample]) {
    assert_eq!(decoder.places().len(), samples.len());
    for (seen, sample) in decoder.places().iter().map(Followed::sample).zip(samples) {
        for (field, reading) in sample.iter() {
            match (seen.get(field), reading) {
                (Ok(seen), Ok(read)) => {
                    let differs = seen.abs_diff(read);
                    let threshold = field.spec().threshold.unsigned_abs();
                    assert!(differs < threshold, "{field}: {seen} for {read}");
                }
                (seen, read) => assert_eq!(seen, read, "{field}"),
            }
        }
        processes_hold(seen, sample);
    }
}

fn processes_hold(seen: &Sample, sample: &Sample) {
    if sample.value(Field::Processes).is_none() {
        assert!(seen.processes.is_empty());
        return;
    }
    let sent: BTreeMap<u32, &Process> = sample.processes.iter().map(|one| (one.pid, one)).collect();
    assert!(seen.processes.iter().map(|one| one.pid).eq(sent.keys().copied()));
    for (seen, sent) in seen.processes.iter().zip(sent.values()) {
        assert_eq!(seen.instance, sent.instance);
        assert_eq!(seen.memory_bytes.is_some(), sent.memory_bytes.is_some());
        let memory = |process: &Process| process.memory_bytes.unwrap_or(0);
        assert!(memory(seen).abs_diff(memory(sent)) < 1 << 20);
        let busy = |process: &Process| process.utilization_percent.unwrap_or(0);
        assert!(busy(seen).abs_diff(busy(sent)) < 2);
    }
}

fn reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        8 => (-50i64..150).prop_map(Ok),
        4 => (0i64..100_000_000_000).prop_map(Ok),
        1 => any::<i64>().prop_map(Ok),
        1 => prop::sample::select(Absent::ALL.to_vec()).prop_map(Err),
    ]
}

fn process() -> impl Strategy<Value = Process> {
    (1u32..6, 0u32..3, prop::option::of(0u64..4_000_000), prop::option::of(0u32..100)).prop_map(
        |(pid, instance, memory_bytes, utilization_percent)| Process {
            pid,
            instance: format!("a/b/c/{instance}"),
            memory_bytes,
            utilization_percent,
            ..Process::default()
        },
    )
}

/// What changes from one sample to the next: a few fields, and now and then the processes.
#[derive(Debug, Clone)]
struct Change {
    device: usize,
    fields: Vec<(usize, Reading)>,
    processes: Option<Vec<Process>>,
    elapsed: i64,
}

fn change() -> impl Strategy<Value = Change> {
    let fields = prop::collection::vec((0..Field::ALL.len(), reading()), 0..6);
    let processes = prop::option::weighted(0.3, prop::collection::vec(process(), 0..4));
    let elapsed = prop_oneof![9 => 900i64..1100, 1 => -100_000i64..700_000];
    (0usize..2, fields, processes, elapsed).prop_map(|(device, fields, processes, elapsed)| Change {
        device,
        fields,
        processes,
        elapsed,
    })
}

/// Samples of two devices, with their times.
#[derive(Debug)]
struct Node {
    now: i64,
    samples: Vec<Sample>,
}

impl Node {
    fn new() -> Self {
        Self { now: 1_000_000, samples: vec![Sample::new(), Sample::new()] }
    }

    fn change(&mut self, change: Change) {
        self.now += change.elapsed;
        let sample = &mut self.samples[change.device];
        for (field, reading) in change.fields {
            sample.set(Field::ALL[field], reading);
        }
        if let Some(processes) = change.processes {
            sample.set(Field::Processes, Ok(i64::try_from(processes.len()).expect("a few")));
            sample.processes = processes;
        }
    }
}

/// Frames as no encoder makes them, but of the right form.
fn wild() -> impl Strategy<Value = pb::Frame> {
    let words = || prop::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(6)], 0..6);
    let steps = || prop::collection::vec(prop_oneof![any::<i64>(), -3i64..3], 0..70);
    let absent = (any::<i32>(), words()).prop_map(|(reason, fields)| pb::AbsentSet { reason, fields });
    let changes = (0u32..3, words(), steps(), prop::collection::vec(absent, 0..3)).prop_map(
        |(place, fields, mut steps, absent)| {
            // Mostly as many as there are fields: the others are refused at once.
            let count: u32 = fields.iter().map(|word| word.count_ones()).sum();
            if steps.len() % 4 > 0 {
                steps.resize(count as usize, i64::MAX);
            }
            pb::Changes { place, fields, steps, absent }
        },
    );
    let process = (0u32..3, 0u32..4, any::<[bool; 2]>(), prop::option::of(any::<i64>())).prop_map(
        |(place, pid, [there, gone], memory_bytes)| pb::ProcessChange {
            place,
            pid,
            process: there.then(pb::Process::default),
            memory_bytes,
            gone,
            ..pb::ProcessChange::default()
        },
    );
    let event = (any::<u64>(), any::<i64>()).prop_map(|(sequence, time)| pb::FrameEvent {
        sequence,
        time_unix_millis: time,
        kind: sequence.is_multiple_of(2).then_some(pb::frame_event::Kind::Lost(pb::LostEvent {})),
        ..pb::FrameEvent::default()
    });
    let keyframe = (any::<i32>(), any::<i64>(), 0usize..3).prop_map(|(reason, time, count)| pb::Keyframe {
        reason,
        time_unix_millis: time,
        boot_id: count.to_string(),
        devices: devices(count),
    });
    let many = (
        prop::collection::vec(changes, 0..3),
        prop::collection::vec(process, 0..3),
        prop::collection::vec(event, 0..3),
    );
    let head = (0u32..2, prop_oneof![0u32..6, any::<u32>()], any::<i64>(), prop::option::of(keyframe));
    (head, many).prop_map(|((stream, sequence, elapsed_millis, keyframe), (changes, processes, events))| {
        pb::Frame {
            stream,
            sequence,
            elapsed_millis,
            keyframe,
            changes,
            processes,
            events,
            ..pb::Frame::default()
        }
    })
}

proptest! {
    #[test]
    fn no_frame_is_too_much(frames in prop::collection::vec(wild(), 1..20)) {
        let mut decoder = Decoder::new();
        for frame in frames {
            let taken = decoder.take(&frame);
            let follows = decoder.stream().is_some();
            prop_assert!(follows || matches!(taken.outcome, Outcome::Wanted(_)), "{taken:?}");
            prop_assert!(taken.gap.is_none_or(|gap| gap.since < gap.until));
            prop_assert!(taken.events.is_sorted_by_key(|event| event.sequence));
        }
    }

    #[test]
    fn what_is_received_differs_by_less_than_the_threshold_at_each_time(
        changes in prop::collection::vec(change(), 1..60),
    ) {
        let (mut encoder, mut decoder, mut node) = (encoder(2), Decoder::new(), Node::new());
        for change in changes {
            node.change(change);
            if let Some(frame) = encoder.encode(node.now, &node.samples) {
                let taken = decoder.take(&frame);
                prop_assert!(matches!(taken.outcome, Outcome::Sampled | Outcome::Begun), "{taken:?}");
                prop_assert_eq!(taken.gap, None);
                prop_assert_eq!(decoder.time(), Some(node.now));
            }
            holds(&decoder, &node.samples);
        }
    }

    #[test]
    fn what_is_lost_on_the_way_shows_and_never_makes_a_wrong_value(
        changes in prop::collection::vec((change(), 0u8..10, any::<bool>()), 1..80),
    ) {
        let (mut encoder, mut decoder, mut node) = (encoder(2), Decoder::new(), Node::new());
        let mut before: Option<pb::Frame> = None;
        // Frames were lost since the last that was taken, and its time.
        let (mut lost, mut last) = (false, None);
        for (change, fate, event) in changes {
            node.change(change);
            if event {
                encoder.event(node.now, "GPU-0", &Event::xid(31));
            }
            let Some(frame) = encoder.encode(node.now, &node.samples) else { continue };
            if fate < 2 {
                lost = true;
                continue;
            }
            if fate == 3 && let Some(before) = &before {
                let repeated = decoder.take(before).outcome;
                prop_assert!(matches!(repeated, Outcome::Repeated | Outcome::Wanted(_)));
            }
            let taken = decoder.take(&frame);
            before = Some(frame.clone());
            match taken.outcome {
                Outcome::Sampled => prop_assert!(!lost),
                Outcome::Begun => {
                    let since = last.filter(|last| lost && *last < node.now);
                    prop_assert_eq!(taken.gap.map(|gap| (gap.since, gap.until)), since.map(|since| (since, node.now)));
                    lost = false;
                }
                Outcome::Wanted(_) => {
                    prop_assert!(lost);
                    prop_assert_eq!(decoder.devices().len(), 0);
                    encoder.feedback(&pb::Feedback { stream: 77, keyframe: true, events_through: 0 });
                    continue;
                }
                Outcome::Repeated => prop_assert!(false, "it is new"),
            }
            last = Some(node.now);
            holds(&decoder, &node.samples);
        }
    }

    #[test]
    fn each_event_is_told_once_whatever_is_lost_and_whenever_it_is_acknowledged(
        steps in prop::collection::vec((0u8..4, 0u8..4, any::<bool>()), 1..80),
    ) {
        let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
        let samples = [Sample::new()];
        let mut told: Vec<Happened> = Vec::new();
        let mut sent = 0;
        let mut now = 0;
        let mut feedback = pb::Feedback { stream: 77, ..pb::Feedback::default() };
        for (events, fate, acknowledges) in steps {
            now += 1000;
            for _ in 0..events {
                sent = encoder.event(now, "GPU-0", &Event::xid(13));
            }
            if let Some(frame) = encoder.encode(now, &samples) && fate > 0 {
                let taken = decoder.take(&frame);
                prop_assert_eq!(taken.events_missed, 0);
                told.extend(taken.events);
                feedback.keyframe = matches!(taken.outcome, Outcome::Wanted(_));
            }
            if acknowledges {
                feedback.events_through = decoder.events().map_or(0, |mark| mark.sequence);
                encoder.feedback(&feedback);
            }
        }
        encoder.begin_anew(Reason::LinkRestored);
        told.extend(decoder.take(&encoder.encode(now + 1000, &samples).expect("a keyframe")).events);
        prop_assert!(told.iter().map(|event| event.sequence).eq(1..=sent));
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(frame) = pb::Frame::decode(&bytes[..]) {
            Decoder::new().take(&frame);
        }
    }

    #[test]
    fn a_frame_that_was_changed_on_the_way_is_no_danger(
        changes in prop::collection::vec(change(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (mut encoder, mut decoder, mut node) = (encoder(2), Decoder::new(), Node::new());
        for change in changes {
            node.change(change);
            let Some(frame) = encoder.encode(node.now, &node.samples) else { continue };
            let mut bytes = frame.encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(frame) = pb::Frame::decode(&bytes[..]) {
                decoder.take(&frame);
            }
        }
    }
}

#[test]
fn a_drift_too_slow_to_be_seen_from_one_sample_to_the_next_is_sent_all_the_same() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    let mut samples = [Sample::new()];
    for second in 0..5_000 {
        // 0.3 W in each minute: far below the threshold of 1 W.
        samples[0].set(Field::Power, Ok(100_000 + second * 5));
        if let Some(frame) = encoder.encode(second * 1000, &samples) {
            decoder.take(&frame);
        }
        holds(&decoder, &samples);
    }
    // What differs at all is sent within a minute, to the nearest step.
    samples[0].set(Field::Power, Ok(100_450));
    for second in 5_000..5_062 {
        if let Some(frame) = encoder.encode(second * 1000, &samples) {
            decoder.take(&frame);
        }
    }
    let seen = decoder.places()[0].sample();
    assert!(seen.value(Field::Power).expect("it has power").abs_diff(100_450) <= 50);
}

#[test]
fn what_changes_by_little_waits_a_minute_and_is_sent_then() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    let sample = |milliwatts: i64, percent: u32| {
        let mut sample: Sample =
            [(Field::Power, Ok(milliwatts)), (Field::Processes, Ok(1))].into_iter().collect();
        sample.processes = vec![Process { pid: 1, utilization_percent: Some(percent), ..Process::default() }];
        [sample]
    };
    decoder.take(&encoder.encode(0, &sample(100_000, 50)).expect("a keyframe"));
    assert_eq!(encoder.encode(1_000, &sample(100_900, 51)), None);
    for second in 2..61 {
        if let Some(frame) = encoder.encode(second * 1000, &sample(100_900, 51)) {
            decoder.take(&frame);
            let seen = decoder.places()[0].sample();
            let early = second < 60;
            assert_eq!(seen.value(Field::Power), Some(if early { 100_000 } else { 100_900 }), "{second}");
            assert_eq!(seen.processes[0].utilization_percent, Some(if early { 50 } else { 51 }), "{second}");
        }
    }
    assert_eq!(decoder.time(), Some(60_000));
    assert_eq!(encoder.encode(61_000, &sample(101_000, 52)), None);
}

#[test]
fn a_receiver_that_comes_late_asks_and_has_all_at_once() {
    let mut encoder = encoder(1);
    let samples = [[(Field::Temperature, Ok(61))].into_iter().collect::<Sample>()];
    assert!(encoder.encode(0, &samples).is_some_and(|frame| frame.keyframe.is_some()));
    let mut late = Decoder::new();
    let frame = encoder.encode(20_000, &samples).expect("silence has an end");
    assert_eq!(late.take(&frame).outcome, Outcome::Wanted(Why::Beginning));
    encoder.feedback(&pb::Feedback { stream: 78, keyframe: true, events_through: 0 });
    assert_eq!(encoder.encode(21_000, &samples), None, "another stream's feedback");
    encoder.feedback(&pb::Feedback { stream: 77, keyframe: true, events_through: 0 });
    let frame = encoder.encode(22_000, &samples).expect("a keyframe");
    assert_eq!(late.take(&frame).outcome, Outcome::Begun);
    holds(&late, &samples);
}

#[test]
fn a_gap_has_its_cause() {
    let samples = [Sample::new()];
    let mut first = encoder(1);
    let mut decoder = Decoder::new();
    decoder.take(&first.encode(1_000, &samples).expect("a keyframe"));
    first.begin_anew(Reason::LinkRestored);
    let gap = decoder.take(&first.encode(60_000, &samples).expect("a keyframe")).gap.expect("a gap");
    assert_eq!((gap.since, gap.until, gap.cause), (1_000, 60_000, Cause::LinkLost));
    // Another process, with another stream.
    let mut second = Encoder::new(78, "boot-2");
    second.set_devices(devices(2)).expect("they can be told");
    let taken = decoder.take(&second.encode(90_000, &samples).expect("a keyframe"));
    let gap = taken.gap.expect("a gap");
    assert_eq!((taken.outcome, gap.since, gap.cause), (Outcome::Begun, 60_000, Cause::AgentRestarted));
    assert_eq!(decoder.devices().len(), 2);
    // What comes late of the old one changes nothing.
    let late = first.encode(91_000, &[[(Field::Power, Ok(1))].into_iter().collect()]).expect("a frame");
    assert_eq!(decoder.take(&late).outcome, Outcome::Wanted(Why::OtherStream));
    assert_eq!((decoder.stream(), decoder.time()), (Some(78), Some(90_000)));
    // Other devices are no gap, and neither is a keyframe because it is time for one.
    second.set_devices(devices(1)).expect("they can be told");
    let taken = decoder.take(&second.encode(91_500, &samples).expect("a keyframe"));
    assert_eq!((taken.outcome, taken.gap), (Outcome::Begun, None));
    let periodic = second.encode(91_500 + 600_000, &samples).expect("a keyframe");
    assert_eq!(decoder.take(&periodic).gap, None);
    // Who took over from another receiver knows only up to when that one had come.
    let mut resumed = Decoder::resume(Some(91_500), decoder.events().cloned());
    second.begin_anew(Reason::Asked);
    let taken = resumed.take(&second.encode(92_000 + 600_000, &samples).expect("a keyframe"));
    assert_eq!(taken.gap.map(|gap| (gap.since, gap.cause)), Some((91_500, Cause::Dropped)));
}

#[test]
fn a_link_that_was_lost_is_a_gap_whatever_else_was_to_be_told() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    decoder.take(&encoder.encode(0, &[Sample::new()]).expect("a keyframe"));
    encoder.set_devices(devices(2)).expect("they can be told");
    encoder.begin_anew(Reason::LinkRestored);
    encoder.begin_anew(Reason::Dropped);
    let taken = decoder.take(&encoder.encode(60_000, &[]).expect("a keyframe"));
    assert_eq!(taken.gap.map(|gap| gap.cause), Some(Cause::LinkLost));
}

#[test]
fn devices_that_no_receiver_would_take_are_refused_by_the_sender() {
    let mut encoder = encoder(1);
    let refused = |encoder: &mut Encoder, change: fn(&mut Vec<pb::Device>)| {
        let mut wrong = devices(2);
        change(&mut wrong);
        encoder.set_devices(wrong).expect_err("it is wrong").to_string()
    };
    assert!(refused(&mut encoder, |devices| devices[1].uuid.clear()).contains("device 1 cannot be told"));
    assert!(refused(&mut encoder, |devices| devices[1].uuid = "GPU-0".to_owned()).contains("twice"));
    assert!(refused(&mut encoder, |devices| devices[0].model = "x".repeat(257)).contains("256 bytes"));
    let part = |at: usize| pb::MigDevice { uuid: format!("MIG-{at}"), ..pb::MigDevice::default() };
    let mut many = devices(1);
    many[0].mig_devices = (0..256).map(part).collect();
    assert!(encoder.set_devices(many.clone()).is_err());
    assert_eq!(encoder.places().len(), 1);
    many[0].mig_devices.pop();
    assert_eq!(encoder.set_devices(many), Ok(()));
    assert_eq!(encoder.places().len(), 256);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    let mut samples = [Sample::new()];
    let times = [(10_000_000, 50), (10_100_000, 51), (10_050_000, 51), (1_000_000, 52), (1_001_000, 53)];
    for (now, degrees) in times {
        samples[0].set(Field::Temperature, Ok(degrees));
        let frame = encoder.encode(now, &samples).expect("something is to be told");
        decoder.take(&frame);
        assert_eq!(frame.keyframe.is_some(), [10_000_000, 1_000_000].contains(&now), "{now}");
        assert_eq!(decoder.time(), Some(now));
        holds(&decoder, &samples);
    }
}

#[test]
fn events_that_nobody_takes_give_way_and_that_shows() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    for _ in 0..EVENTS_MAX + 5 {
        encoder.event(0, "", &Event::Reset);
    }
    assert_eq!(encoder.events_waiting(), EVENTS_MAX);
    let taken = decoder.take(&encoder.encode(0, &[Sample::new()]).expect("a keyframe"));
    assert_eq!((taken.events.len(), taken.events_missed), (EVENTS_MAX, 5));
    let through = decoder.events().expect("it took some").sequence;
    encoder.feedback(&pb::Feedback { stream: 77, keyframe: false, events_through: through });
    assert_eq!(encoder.events_waiting(), 0);
}

#[test]
fn many_processes_come_in_several_frames() {
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    let mut sample = Sample::new();
    sample.set(Field::Processes, Ok(800));
    let process = |pid| Process { pid, instance: "a/b/c/0".to_owned(), ..Process::default() };
    sample.processes = (1..=800).map(process).collect();
    let samples = [sample];
    let seen = |decoder: &Decoder| decoder.places()[0].sample().processes.len();
    decoder.take(&encoder.encode(0, &samples).expect("a keyframe"));
    assert_eq!(seen(&decoder), 512);
    decoder.take(&encoder.encode(1_000, &samples).expect("the rest"));
    assert_eq!(seen(&decoder), 800);
    holds(&decoder, &samples);
}

#[test]
fn parts_of_a_device_have_places_after_the_devices() {
    let mut two = devices(2);
    let part = |name: &str| pb::MigDevice { uuid: format!("MIG-{name}"), ..pb::MigDevice::default() };
    two[0].mig_devices = vec![part("a"), part("b")];
    two[1].mig_devices = vec![part("c")];
    let mut encoder = Encoder::new(77, "boot");
    encoder.set_devices(two.clone()).expect("they can be told");
    let uuids: Vec<_> =
        encoder.places().iter().filter_map(|place| place.uuid(&two)).map(str::to_owned).collect();
    assert_eq!(uuids, ["GPU-0", "GPU-1", "MIG-a", "MIG-b", "MIG-c"]);
    let used = |bytes: i64| [(Field::MemoryUsed, Ok(bytes << 20))].into_iter().collect::<Sample>();
    let samples: Vec<Sample> = (0..5).map(used).collect();
    let mut decoder = Decoder::new();
    decoder.take(&encoder.encode(0, &samples).expect("a keyframe"));
    holds(&decoder, &samples);
    let last = &decoder.places()[4];
    assert_eq!(last.place().uuid(decoder.devices()), Some("MIG-c"));
}

#[test]
fn health_is_told_when_it_changed_and_with_each_keyframe() {
    let fails = Event::xid(79);
    let sick = || {
        let rules = health::Rules::default();
        health::step(&rules, health::State::default(), health::Input::Event(&fails), 0).1
    };
    let (mut encoder, mut decoder) = (encoder(1), Decoder::new());
    let samples = [Sample::new()];
    decoder.take(&encoder.encode(0, &samples).expect("a keyframe"));
    assert_eq!(decoder.places()[0].health(), None);
    encoder.set_health(0, &sick());
    decoder.take(&encoder.encode(1_000, &samples).expect("it changed"));
    assert_eq!(decoder.places()[0].health(), Some(&sick().to_wire()));
    encoder.set_health(0, &sick());
    assert_eq!(encoder.encode(2_000, &samples), None);
    encoder.begin_anew(Reason::Asked);
    let mut late = Decoder::new();
    late.take(&encoder.encode(3_000, &samples).expect("a keyframe"));
    assert_eq!(late.places()[0].health(), Some(&sick().to_wire()));
    // Of other devices nothing is known yet.
    encoder.set_devices(devices(2)).expect("they can be told");
    late.take(&encoder.encode(4_000, &samples).expect("a keyframe"));
    assert!(late.places().iter().all(|place| place.health().is_none()));
}

#[test]
fn what_breaks_the_rules_is_named() {
    let malformed = |change: fn(&mut pb::Frame)| {
        let sample = [(Field::Temperature, Ok(50))].into_iter().collect::<Sample>();
        let mut frame = encoder(1).encode(0, &[sample]).expect("a keyframe");
        change(&mut frame);
        let mut decoder = Decoder::new();
        match decoder.take(&frame).outcome {
            Outcome::Wanted(Why::Malformed(why)) => {
                assert_eq!(decoder.devices().len(), 0);
                why
            }
            other => panic!("{other:?}"),
        }
    };
    let keyframe = |frame: &mut pb::Frame| frame.keyframe.as_mut().expect("it is one").devices.clone();
    assert_eq!(keyframe(&mut encoder(1).encode(0, &[]).expect("a keyframe")).len(), 1);
    assert!(malformed(|frame| frame.changes[0].place = 9).contains("place"));
    assert!(malformed(|frame| frame.changes[0].fields = vec![3]).contains("one change for each field"));
    assert!(malformed(|frame| frame.changes[0].fields = vec![0; 5]).contains("too long"));
    assert!(
        malformed(|frame| {
            let keyframe = frame.keyframe.as_mut().expect("it is one");
            keyframe.devices = vec![keyframe.devices[0].clone(); 2];
        })
        .contains("twice")
    );
    assert!(
        malformed(|frame| frame.keyframe.as_mut().expect("it is one").devices[0].uuid = "../x".to_owned())
            .contains("UUID")
    );
    assert!(
        malformed(|frame| frame.processes.push(pb::ProcessChange { pid: 1, ..Default::default() }))
            .contains("not there")
    );
}

#[test]
fn fields_of_a_newer_agent_are_passed_over() {
    let mut frame =
        encoder(1).encode(0, &[[(Field::Temperature, Ok(40))].into_iter().collect()]).expect("a keyframe");
    let changes = &mut frame.changes[0];
    changes.fields = vec![1 << 7, 0, 0, 1 << 63];
    changes.steps = vec![40, 9];
    let mut decoder = Decoder::new();
    assert_eq!(decoder.take(&frame).outcome, Outcome::Begun);
    let seen = decoder.places()[0].sample();
    assert_eq!(seen.iter().filter(|(_, reading)| reading.is_ok()).count(), 1);
}
