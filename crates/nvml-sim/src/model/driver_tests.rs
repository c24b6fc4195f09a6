//! Laws of the driver: handles, restarts, events, partitions; and that no control file makes any answer panic.

use proptest::prelude::*;

use super::*;
use crate::{
    control::{DeviceControl, Event, Fault, Mig, MigInstance},
    model::{curve::Activity, fields, view::ErrorKind},
    spec::MachineSpec,
};

const START_MS: u64 = 1_700_000_000_000;

fn of(machine: &str) -> Control {
    Control { seed: Some("test".to_owned()), ..Control::of(MachineSpec::parse(machine).expect("a machine")) }
}

fn driver(control: &Control) -> Driver {
    let mut driver = Driver::new(control.clone(), "host", START_MS);
    driver.init().expect("there is a driver");
    driver
}

fn card(driver: &Driver, card: u32) -> usize {
    driver.handle(Target { card, mig: None })
}

#[test]
fn names_stay_over_restarts_and_differ_between_cards() {
    let (one, again) = (driver(&of("a100x2")), driver(&of("a100x2")));
    let uuids = |driver: &Driver| [0, 1].map(|card| driver.uuid(Target { card, mig: None }));
    assert_eq!(uuids(&one), uuids(&again));
    assert_ne!(uuids(&one)[0], uuids(&one)[1]);
    let host = Control { seed: None, ..of("a100x2") };
    let named = |host_name| uuids(&Driver::new(host.clone(), host_name, START_MS));
    assert_eq!(named("edge-1"), named("edge-1"));
    assert_ne!(named("edge-1"), named("edge-2"));
}

#[test]
fn each_device_is_found_by_what_names_it() {
    let control = Control {
        device: vec![DeviceControl { mig: Some(Mig::of(&["1g.10gb"])), ..DeviceControl::of(1) }],
        ..of("a100x2")
    };
    let driver = driver(&control);
    for target in driver.targets() {
        let uuid = driver.uuid(target);
        assert!(uuid.starts_with(if target.mig.is_some() { "MIG-" } else { "GPU-" }));
        let found = driver.find(|view| view.uuid() == uuid).expect("there");
        assert_eq!(driver.target(found), Ok(target));
    }
    assert_eq!(driver.find(|view| view.uuid() == "GPU-0"), Err(Code::NOT_FOUND));
}

#[test]
fn after_a_restart_nothing_of_before_is_valid() {
    let control = of("t4");
    let mut driver = driver(&control);
    let (handle, set) = (card(&driver, 0), driver.make_set().expect("a set"));
    let mut next = control;
    next.driver.generation += 1;
    driver.adopt(next, "host", START_MS + 1);
    assert_eq!(driver.ready(), Err(Code::UNINITIALIZED));
    driver.init().expect("again");
    assert_eq!(driver.target(handle), Err(Code::INVALID_ARGUMENT));
    assert_eq!(driver.poll(set), Err(Code::INVALID_ARGUMENT));
    assert!(driver.view("nvmlDeviceGetName", card(&driver, 0)).is_ok());
}

#[test]
fn without_a_driver_it_cannot_be_initialised() {
    let mut control = of("t4");
    let mut driver = driver(&control);
    control.driver.loaded = false;
    driver.adopt(control.clone(), "host", START_MS);
    assert_eq!(driver.ready(), Err(Code::UNINITIALIZED));
    assert_eq!(driver.init(), Err(Code::DRIVER_NOT_LOADED));
    control.driver.loaded = true;
    driver.adopt(control, "host", START_MS);
    assert_eq!(driver.init(), Ok(()));
}

#[test]
fn initialisations_are_counted() {
    let mut driver = driver(&of("t4"));
    driver.init().expect("twice");
    driver.shutdown().expect("once");
    assert_eq!(driver.ready(), Ok(()));
    driver.shutdown().expect("twice");
    assert_eq!((driver.ready(), driver.shutdown()), (Err(Code::UNINITIALIZED), Err(Code::UNINITIALIZED)));
}

#[test]
fn an_event_is_told_once_to_each_set_that_asked_before() {
    let mut control = Control { event: vec![Event::xid(1, 0, 13)], ..of("a10x2") };
    let mut driver = driver(&control);
    let [one, other, late] = [(); 3].map(|()| driver.make_set().expect("a set"));
    for set in [one, other] {
        driver.register(card(&driver, 0), EventKind::Xid.bit(), set).expect("registered");
    }
    control.event.extend([Event::xid(2, 0, 31), Event::xid(3, 0, 31), Event::xid(4, 1, 43)]);
    driver.adopt(control.clone(), "host", START_MS);
    driver.register(card(&driver, 0), EventKind::Xid.bit(), late).expect("registered");
    // The same file again changes nothing.
    driver.adopt(control, "host", START_MS);
    let mut told = |set| {
        std::iter::from_fn(|| driver.poll(set).expect("a set")).map(|event| event.data).collect::<Vec<_>>()
    };
    assert_eq!((told(one), told(other), told(late)), (vec![31, 31], vec![31, 31], vec![]));
}

#[test]
fn a_card_knows_which_events_it_has() {
    let mut driver = driver(&of("orin+t4+a100"));
    let set = driver.make_set().expect("a set");
    let mut register = |card_index, mask| driver.register(card(&driver, card_index), mask, set);
    assert_eq!(register(0, EventKind::Xid.bit()), Err(Code::NOT_SUPPORTED));
    assert_eq!(register(1, EventKind::MigConfig.bit()), Err(Code::NOT_SUPPORTED));
    assert_eq!(register(2, EventKind::MigConfig.bit() | EventKind::Xid.bit()), Ok(()));
}

#[test]
fn a_card_that_is_lost_says_so_first() {
    let mut driver = driver(&of("lost"));
    let (handle, set) = (card(&driver, 0), driver.make_set().expect("a set"));
    driver.register(handle, EventKind::Xid.bit(), set).expect("registered");
    driver.advance(START_MS + 29_999);
    assert!(driver.view("nvmlDeviceGetPowerUsage", handle).is_ok());
    driver.advance(START_MS + 30_000);
    assert_eq!(driver.view("nvmlDeviceGetPowerUsage", handle).err(), Some(Code::GPU_IS_LOST));
    assert_eq!(driver.poll(set).map(|event| event.map(|event| event.data)), Ok(Some(XID_LOST)));
    assert_eq!(driver.poll(set), Err(Code::GPU_IS_LOST));
}

#[test]
fn a_card_is_lost_and_comes_back_as_the_file_says() {
    let mut control = of("t4");
    let mut driver = driver(&control);
    let (handle, set) = (card(&driver, 0), driver.make_set().expect("a set"));
    driver.register(handle, EventKind::Xid.bit(), set).expect("registered");
    for round in 0..2 {
        control.device_mut(0).lost = true;
        driver.adopt(control.clone(), "host", START_MS);
        assert!(driver.view("nvmlDeviceGetName", handle).is_err());
        assert_eq!(
            driver.poll(set).map(|event| event.map(|event| event.data)),
            Ok(Some(XID_LOST)),
            "{round}"
        );
        control.device_mut(0).lost = false;
        driver.adopt(control.clone(), "host", START_MS);
        assert!(driver.view("nvmlDeviceGetName", handle).is_ok());
        assert_eq!(driver.poll(set), Ok(None));
    }
}

#[test]
fn handles_that_were_never_given_are_none() {
    let driver = driver(&of("t4"));
    for handle in [
        0,
        1,
        TAG + 1,
        usize::MAX,
        card(&driver, 1),
        card(&driver, 0) + 1,
        driver.handle(Target { card: 0, mig: Some(0) }),
    ] {
        assert_eq!(driver.target(handle), Err(Code::INVALID_ARGUMENT), "{handle}");
    }
}

#[test]
fn a_partitioned_card_has_devices_of_their_own() {
    let control = Control {
        device: vec![DeviceControl { mig: Some(Mig::of(&["3g.40gb", "1g.10gb"])), ..DeviceControl::of(0) }],
        ..of("a100")
    };
    let driver = driver(&control);
    let whole = card(&driver, 0);
    assert_eq!(driver.view("nvmlDeviceGetUtilizationRates", whole).err(), Some(Code::NOT_SUPPORTED));
    let view = driver.view("nvmlDeviceGetMigMode", whole).expect("answered");
    let second = driver.handle(view.mig_device(1).expect("there"));
    assert_eq!(view.mig_device(2), Err(Code::NOT_FOUND));
    assert_eq!(view.mig_device(u32::MAX), Err(Code::INVALID_ARGUMENT));
    let instance = driver.view("nvmlDeviceGetMemoryInfo_v2", second).expect("answered");
    assert_eq!(
        (instance.memory().total, instance.name()),
        (9728 << 20, "NVIDIA A100-SXM4-80GB MIG 1g.10gb".to_owned())
    );
    assert_eq!(driver.view("nvmlDeviceGetPowerUsage", second).err(), Some(Code::NOT_SUPPORTED));
}

#[test]
fn an_instance_of_another_size_has_another_name() {
    let named = |profile: &str| {
        let mig = Mig { enabled: true, instances: vec![MigInstance { profile: profile.to_owned() }] };
        let control =
            Control { device: vec![DeviceControl { mig: Some(mig), ..DeviceControl::of(0) }], ..of("a100") };
        driver(&control).uuid(Target { card: 0, mig: Some(0) })
    };
    assert_eq!(named("1g.10gb"), named("1g.10gb"));
    assert_ne!(named("1g.10gb"), named("2g.20gb"));
}

/// All that is asked of a device, with whatever it answers.
fn ask_everything(view: &View<'_>) {
    let memory = view.memory();
    assert!(memory.used + memory.reserved <= memory.total);
    let Activity { gpu, memory, encoder, decoder } = view.card.now;
    assert!([gpu, memory, encoder, decoder].iter().all(|percent| (0.0..=100.0).contains(percent)));
    for usage in view.process_use(0) {
        assert!([usage.sm, usage.memory, usage.encoder, usage.decoder].iter().all(|percent| *percent <= 100));
    }
    for kind in 0..6 {
        let _ = (
            view.clock(kind),
            view.max_clock(kind),
            view.fan(kind),
            view.nvlink_errors(kind, kind),
            view.size_numbered(kind),
        );
    }
    for policy in 0..13 {
        let _ = view.held_back_ns(policy);
    }
    for (uncorrected, aggregate) in [(false, false), (false, true), (true, false), (true, true)] {
        let _ = view.ecc_errors(ErrorKind { uncorrected, aggregate });
    }
    for id in 0..300 {
        for scope in [0, 5, 17, 18, u32::MAX] {
            let _ = fields::value(view, id, scope);
        }
    }
    let _ = (
        view.name(),
        view.uuid(),
        view.serial(),
        view.power_mw(),
        view.energy_mj(),
        view.bar1().used,
        view.mig_mode(),
    );
    let _ = (view.retired(true), view.remapped(), view.performance_state(), view.pcie_generation());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_sequence_of_files_makes_anything_panic(
        files in prop::collection::vec((crate::control::tests_control(), 0..500_000_u64), 1..6),
    ) {
        let mut driver = Driver::new(Control::default(), "host", START_MS);
        let mut now = START_MS;
        for (control, later) in files {
            now += later;
            let energies = |driver: &Driver| driver.cards.iter().map(|card| card.energy_j).collect::<Vec<_>>();
            let (epoch, before) = (driver.epoch, energies(&driver));
            let faults: Vec<Fault> = control.fault.clone();
            driver.adopt(control, "host", now);
            driver.advance(now + control_offset(&driver));
            let _ = driver.init();
            if epoch == driver.epoch {
                prop_assert!(energies(&driver).iter().zip(&before).all(|(after, before)| after >= before));
            }
            let set = driver.make_set().expect("a set");
            for target in driver.targets().collect::<Vec<_>>() {
                let handle = driver.handle(target);
                prop_assert_eq!(driver.target(handle), Ok(target));
                ask_everything(&driver.look(target).expect("there"));
                let _ = driver.register(handle, EventKind::Xid.bit(), set);
                let _ = faults.iter().any(|fault| fault.fits("nvmlDeviceGetName", Some(target.card)));
            }
            let _ = driver.poll(set);
        }
    }
}

fn control_offset(driver: &Driver) -> u64 {
    driver.control().time_offset_ms
}

#[test]
fn fields_are_told_by_the_generations_that_have_them() {
    let told = |version: &str, id| {
        let mut control = of("t4+a100+a10+h100");
        control.driver.version = version.to_owned();
        let driver = driver(&control);
        let value = |index| {
            let view = driver.view("nvmlDeviceGetFieldValues", card(&driver, index)).expect("there");
            fields::value(&view, id, 0).ok()
        };
        [0, 1, 2, 3].map(value)
    };
    let has = |id| told("570.133.20", id).map(|value| value.is_some());
    assert_eq!(has(185), [false, false, true, true], "power, averaged");
    assert_eq!(has(186), [true; 4], "power now");
    for (id, limit) in [(193, -8), (194, -2), (195, 0), (196, 0)] {
        assert_eq!(told("570.133.20", id), [None, None, None, Some(fields::Value::I32(limit))], "{id}");
    }
    assert_eq!(told("570.133.20", 230), [Some(fields::Value::U32(0)); 4], "what to do to recover: nothing");
    assert_eq!(told("560.35.03", 230), [None; 4], "the driver is too old to say");
}
