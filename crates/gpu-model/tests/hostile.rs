//! Frames as no encoder makes them: what of them is taken, and what is not.

use skerry_gpu_model::decode::{Outcome, Why};
use skerry_gpu_model::{Decoder, EVENTS_MAX, NODE_PROCESSES_MAX, PROCESSES_MAX};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::keyframe::Reason;

fn devices(count: usize) -> Vec<pb::Device> {
    (0..count).map(|at| pb::Device { uuid: format!("GPU-{at}"), ..pb::Device::default() }).collect()
}

/// A keyframe of one device with these events.
fn keyframe_with(sequence: u32, time: i64, events: Vec<pb::FrameEvent>) -> pb::Frame {
    let keyframe = pb::Keyframe {
        reason: Reason::Periodic.into(),
        time_unix_millis: time,
        boot_id: "boot".into(),
        devices: devices(1),
    };
    pb::Frame { stream: 77, sequence, keyframe: Some(keyframe), events, ..pb::Frame::default() }
}

/// A process that a place has from now on.
fn process(place: usize, pid: usize) -> pb::ProcessChange {
    pb::ProcessChange {
        place: place.try_into().expect("a few"),
        pid: pid.try_into().expect("a few"),
        process: Some(pb::Process::default()),
        ..pb::ProcessChange::default()
    }
}

fn lost(sequence: u64, uuid: &str) -> pb::FrameEvent {
    let kind = Some(pb::frame_event::Kind::Lost(pb::LostEvent {}));
    pb::FrameEvent { sequence, uuid: uuid.into(), kind, ..pb::FrameEvent::default() }
}

#[test]
fn an_event_that_is_none_is_passed_over_and_those_around_it_are_taken() {
    let mut decoder = Decoder::new();
    let events = vec![lost(1, "GPU-0"), lost(2, &"x".repeat(65)), lost(3, &"x".repeat(64))];
    let taken = decoder.take(&keyframe_with(1, 1_000, events));
    assert_eq!(taken.outcome, Outcome::Begun);
    assert_eq!(taken.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(taken.events_missed, 1);
    // It is acknowledged with the others, and so not sent for ever.
    assert_eq!(decoder.events().map(|mark| mark.sequence), Some(3));
}

#[test]
fn of_a_frame_with_too_many_events_nothing_is_taken() {
    let mut decoder = Decoder::new();
    decoder.take(&keyframe_with(1, 1_000, vec![lost(1, "GPU-0")]));
    let many = (2..=EVENTS_MAX as u64 + 2).map(|sequence| lost(sequence, "GPU-0")).collect();
    let taken = decoder.take(&keyframe_with(2, 2_000, many));
    assert!(matches!(taken.outcome, Outcome::Wanted(Why::Malformed(_))), "{taken:?}");
    assert_eq!(decoder.time(), Some(1_000), "a gap begins with what was taken last");
    assert_eq!(decoder.events().map(|mark| mark.sequence), Some(1));
    let taken = decoder.take(&keyframe_with(3, 3_000, vec![lost(2, "GPU-0")]));
    assert_eq!(taken.events.len(), 1);
    assert_eq!(taken.gap.map(|gap| (gap.since, gap.until)), Some((1_000, 3_000)));
}

#[test]
fn a_frame_that_jumps_between_places_has_the_processes_of_each() {
    let (places, each) = (16, 256);
    let mut frame = keyframe_with(1, 1_000, Vec::new());
    frame.keyframe.as_mut().expect("it is one").devices = devices(places);
    frame.processes = (0..each).flat_map(|pid| (0..places).map(move |place| process(place, pid))).collect();
    let mut decoder = Decoder::new();
    assert_eq!(decoder.take(&frame).outcome, Outcome::Begun);
    for followed in decoder.places() {
        let pids = followed.sample().processes.iter().map(|one| one.pid as usize);
        assert!(pids.eq(0..each));
    }
}

#[test]
fn a_node_has_no_more_processes_than_it_may_however_many_places_it_has() {
    let places = NODE_PROCESSES_MAX / PROCESSES_MAX + 1;
    let mut frame = keyframe_with(1, 1_000, Vec::new());
    frame.keyframe.as_mut().expect("it is one").devices = devices(places);
    let full = (0..places - 1).flat_map(|place| (0..PROCESSES_MAX).map(move |pid| process(place, pid)));
    frame.processes = full.collect();
    let mut decoder = Decoder::new();
    assert_eq!(decoder.take(&frame).outcome, Outcome::Begun);
    // One that goes makes room for another.
    let gone = pb::ProcessChange { gone: true, process: None, ..process(0, 7) };
    let next = |sequence, processes| pb::Frame { stream: 77, sequence, processes, ..pb::Frame::default() };
    let taken = decoder.take(&next(2, vec![gone, process(places - 1, 0)]));
    assert_eq!(taken.outcome, Outcome::Sampled);
    let taken = decoder.take(&next(3, vec![process(places - 1, 1)]));
    assert!(matches!(taken.outcome, Outcome::Wanted(Why::Malformed(_))), "{taken:?}");
}
