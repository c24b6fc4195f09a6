//! Events: each once for each set, and none that repeats is missed.

use std::{sync::mpsc, thread};

use nvml_wrapper::{EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError};
use skerry_nvml_sim::{Event, EventKind};

use crate::machine::{Machine, becomes, of};

fn set(nvml: &Nvml, events: EventTypes) -> EventSet<'_> {
    let mut set = nvml.create_event_set().expect("a set");
    for index in 0..nvml.device_count().expect("told") {
        set = nvml.device_by_index(index).expect("there").register_events(events, set).expect("registered");
    }
    set
}

/// The card and the number of the next XID.
fn xid(set: &EventSet<'_>, timeout_ms: u32) -> Option<(u32, u64)> {
    match set.wait(timeout_ms) {
        Ok(event) => match event.event_data {
            Some(XidError::Value(xid)) => Some((event.device.index().expect("told"), xid)),
            other => panic!("{other:?}"),
        },
        Err(NvmlError::Timeout) => None,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_set_is_told_each_event_once_and_repeats_are_counted() {
    let mut control = of("t4x2");
    control.event = vec![Event::xid(1, 0, 13)];
    let mut machine = Machine::new(control);
    let nvml = machine.nvml();
    let (one, other) =
        (set(&nvml, EventTypes::CRITICAL_XID_ERROR), set(&nvml, EventTypes::CRITICAL_XID_ERROR));
    assert_eq!(xid(&one, 0), None, "what was there at the start has happened before");
    machine.change(|control| {
        control.event.extend([Event::xid(2, 1, 31), Event::xid(3, 1, 31), Event::xid(4, 0, 48)]);
    });
    for set in [&one, &other] {
        let told: Vec<_> = (0..3).map(|_| xid(set, 60_000)).collect();
        assert_eq!(told, [Some((1, 31)), Some((1, 31)), Some((0, 48))]);
        assert_eq!(xid(set, 0), None);
    }
    // A set that is made later is not told of what was.
    assert_eq!(xid(&set(&nvml, EventTypes::CRITICAL_XID_ERROR), 0), None);
    // The list may be cut: what is in it no more does not happen again.
    machine.change(|control| control.event = vec![Event::xid(5, 0, 13)]);
    assert_eq!((xid(&one, 60_000), xid(&one, 0)), (Some((0, 13)), None));
}

#[test]
fn a_thread_that_waits_is_woken_and_others_go_on() {
    let mut machine = Machine::of("a100");
    let nvml = machine.nvml();
    let waiting = set(&nvml, EventTypes::CRITICAL_XID_ERROR);
    let (told, tell) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || told.send(xid(&waiting, 60_000)).expect("heard"));
        let device = nvml.device_by_index(0).expect("there");
        for _ in 0..100 {
            device.power_usage().expect("not held up");
        }
        assert!(tell.try_recv().is_err(), "nothing has happened yet");
        machine.change(|control| control.event = vec![Event::xid(9, 0, 74)]);
        assert_eq!(tell.recv().expect("told"), Some((0, 74)));
    });
}

#[test]
fn only_what_was_asked_for_is_told() {
    let mut machine = Machine::of("a100");
    let nvml = machine.nvml();
    let ecc = set(&nvml, EventTypes::DOUBLE_BIT_ECC_ERROR | EventTypes::MIG_CONFIG_CHANGE);
    let other = |id, kind| Event { kind, xid: None, ..Event::xid(id, 0, 0) };
    machine.change(|control| {
        control.event = vec![
            Event::xid(1, 0, 48),
            other(2, EventKind::SingleBitEcc),
            other(3, EventKind::DoubleBitEcc),
            other(4, EventKind::MigConfig),
        ];
    });
    let told = [(); 2].map(|()| ecc.wait(60_000).expect("told"));
    assert_eq!(told[0].event_type, EventTypes::DOUBLE_BIT_ECC_ERROR);
    assert_eq!(told[1].event_type, EventTypes::MIG_CONFIG_CHANGE);
    assert!(told[0].event_data.is_none());
    assert!(matches!(ecc.wait(0), Err(NvmlError::Timeout)));
    ecc.release_events().expect("freed");
}

#[test]
fn a_card_that_is_lost_is_an_event_and_then_an_answer() {
    let mut machine = Machine::of("lost+t4");
    let nvml = machine.nvml();
    let both = set(&nvml, EventTypes::CRITICAL_XID_ERROR);
    let [first, second] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    assert!(first.power_usage().is_ok(), "not lost yet");
    machine.change(|control| control.time_offset_ms = 40_000);
    becomes(|| first.power_usage(), |answer| matches!(answer, Err(NvmlError::GpuLost)));
    assert!(
        matches!(first.uuid(), Err(NvmlError::GpuLost))
            && matches!(nvml.device_by_index(0), Err(NvmlError::GpuLost))
    );
    assert!(second.power_usage().is_ok(), "the other is still there");
    assert_eq!(nvml.device_count().expect("told"), 2);
    let event = both.wait(0).expect("told");
    assert!(matches!(event.event_data, Some(XidError::Value(79))));
    assert!(matches!(both.wait(60_000), Err(NvmlError::GpuLost)));
}
