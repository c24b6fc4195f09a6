//! What goes wrong: answers, calls that hang, drivers that restart, files that are wrong; and that nothing of it harms who calls.

use std::{
    env, fs,
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{Nvml, error::NvmlError};
use skerry_nvml_sim::{
    CallPattern, Code, Control, DeviceControl, Fault, Latencies, Latency, LatencyTable, MachineSpec, Outcome,
    built_library, calls,
};

use crate::machine::{Machine, becomes, of, pause, until};

fn fault(call: &str, device: Option<u32>, answer: Outcome) -> Fault {
    Fault { call: CallPattern::parse(call).expect("a call"), device, answer }
}

#[test]
fn a_call_answers_what_the_file_says() {
    let mut machine = Machine::of("t4x2");
    let nvml = machine.nvml();
    let [first, second] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    machine.change(|control| {
        control.fault = vec![fault("nvmlDeviceGetPower*", Some(1), Outcome::Code(Code::NO_PERMISSION))];
    });
    becomes(|| second.power_usage(), |answer| matches!(answer, Err(NvmlError::NoPermission)));
    assert!(matches!(second.power_management_limit(), Err(NvmlError::NoPermission)));
    assert!(first.power_usage().is_ok() && second.utilization_rates().is_ok());
    machine.change(|control| control.fault.clear());
    becomes(|| second.power_usage(), Result::is_ok);
}

#[test]
fn a_call_that_hangs_holds_up_no_other_and_is_let_go() {
    let mut machine = Machine::of("t4x2");
    let nvml = machine.nvml();
    let [first, second] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    machine.change(|control| {
        control.fault = vec![
            fault("nvmlDeviceGetPowerUsage", Some(0), Outcome::Hang),
            // By this one it is seen that the file is.
            fault("nvmlDeviceGetSerial", Some(1), Outcome::Code(Code::NO_DATA)),
        ];
    });
    becomes(|| second.serial(), |answer| matches!(answer, Err(NvmlError::NoData)));
    let (told, tell) = mpsc::channel();
    thread::scope(|scope| {
        let hung = &first;
        scope.spawn(move || {
            told.send(None).expect("heard");
            told.send(Some(hung.power_usage())).expect("heard");
        });
        assert!(tell.recv().expect("it calls").is_none());
        for _ in 0..200 {
            assert!(first.utilization_rates().is_ok(), "another call on the same card");
            assert!(second.power_usage().is_ok(), "the same call on another card");
        }
        assert!(tell.try_recv().is_err(), "it hangs");
        machine.change(|control| control.fault.clear());
        assert!(tell.recv().expect("let go").expect("it was called").is_ok());
    });
}

#[test]
fn after_a_restart_of_the_driver_a_program_begins_anew() {
    let mut machine = Machine::of("a10");
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    let uuid = device.uuid().expect("told");
    machine.change(|control| control.driver.generation = 1);
    becomes(|| device.power_usage(), |answer| matches!(answer, Err(NvmlError::Uninitialized)));
    assert!(matches!(nvml.device_count(), Err(NvmlError::Uninitialized)));
    assert!(matches!(nvml.create_event_set().map(|_| ()), Err(NvmlError::Uninitialized)));
    let anew = machine.nvml();
    assert!(matches!(device.power_usage(), Err(NvmlError::InvalidArg)), "a handle of before");
    assert_eq!(anew.device_by_index(0).expect("there").uuid().expect("told"), uuid, "the card is the same");
    machine.change(|control| control.driver.loaded = false);
    becomes(|| anew.device_count(), |answer| matches!(answer, Err(NvmlError::Uninitialized)));
    assert!(matches!(machine.init().map(|_| ()), Err(NvmlError::DriverNotLoaded)));
    machine.change(|control| control.driver.loaded = true);
    becomes(|| machine.init().map(|_| ()), Result::is_ok);
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_told() {
    let machine = Machine::of("t4x2");
    let nvml = machine.nvml();
    let said = machine.placed.control.with_extension("toml.error");
    fs::write(&machine.placed.control, "machine = \"t4x2\"\n[[device]]\nindex = 5\n").expect("written");
    let text = until(
        || {
            assert_eq!(nvml.device_count().expect("told"), 2);
            fs::read_to_string(&said).unwrap_or_default()
        },
        |text| !text.is_empty(),
    );
    assert_eq!(text, "device[0].index: there is no card 5: the machine t4x2 has 0 to 1\n");
    fs::remove_file(&machine.placed.control).expect("removed");
    becomes(
        || fs::read_to_string(&said).unwrap_or_default(),
        |text| {
            assert_eq!(nvml.device_count().expect("told"), 2);
            text.contains("control") || text.contains("No such file")
        },
    );
    machine.control.write(&machine.placed.control).expect("written");
    becomes(|| (nvml.device_count().expect("told"), said.exists()), |(count, said)| *count == 2 && !said);
}

#[test]
fn where_nothing_good_was_said_there_is_no_driver() {
    let machine = Machine::of("t4");
    fs::write(&machine.placed.control, "machine = \"v100\"").expect("written");
    assert!(matches!(machine.init().map(|_| ()), Err(NvmlError::DriverNotLoaded)));
    let said = fs::read_to_string(machine.placed.control.with_extension("toml.error")).expect("said");
    assert!(said.contains("line 1, column 11") && said.contains("there are t4, a10"), "{said}");
}

#[test]
fn calls_take_as_long_as_the_table_says() {
    let slow = Latency { p50_us: 30_000.0, p99_us: 30_000.0 };
    let table = LatencyTable {
        recorded: false,
        source: "a test".to_owned(),
        other: None,
        calls: [("nvmlDeviceGetPcieThroughput".to_owned(), slow)].into(),
    };
    let mut machine = Machine::of("t4");
    let path = machine.placed.control.with_file_name("table.json");
    fs::write(path, serde_json::to_string(&table).expect("written")).expect("written");
    machine.change(|control| control.latencies = Latencies::File("table.json".into()));
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    let began = Instant::now();
    device.pcie_throughput(nvml_wrapper::enum_wrappers::device::PcieUtilCounter::Send).expect("told");
    // No less, whatever else the machine does; more is nobody's fault.
    assert!(began.elapsed() >= Duration::from_millis(30));
    machine.change(|control| control.latencies = Latencies::File("none.json".into()));
    let said = machine.placed.control.with_extension("toml.error");
    becomes(
        || {
            device.power_usage().expect("told");
            fs::read_to_string(&said).unwrap_or_default()
        },
        |text| text.contains("none.json"),
    );
}

#[test]
fn many_threads_ask_while_the_file_changes() {
    let mut machine = Machine::of("a100x2");
    let nvml = machine.nvml();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..6_u32)
            .map(|thread| {
                let (nvml, done) = (&nvml, &done);
                scope.spawn(move || {
                    let mut calls = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        let device = nvml.device_by_index(thread % 2).expect("there");
                        let memory = device.memory_info().expect("told");
                        assert_eq!(memory.total, memory.used + memory.free + memory.reserved);
                        device.power_usage().expect("told");
                        device.running_compute_processes().expect("told");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for round in 0..20_u64 {
            machine.change(|control| {
                control.time_offset_ms = round * 1000;
                control.device =
                    vec![DeviceControl { memory_used_mib: Some(round * 100), ..DeviceControl::of(0) }];
            });
            pause();
        }
        let first = nvml.device_by_index(0).expect("there");
        becomes(|| first.memory_info().expect("told").used, |used| *used == 1900 << 20);
        done.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().expect("did not panic") > 0);
        }
    });
}

#[test]
fn the_library_has_every_function() {
    let machine = Machine::of("t4");
    let nvml = machine.nvml();
    for name in calls() {
        #[allow(unsafe_code, reason = "looks for a symbol and does not use it")]
        // SAFETY: a symbol is only looked for.
        let found = unsafe { nvml.lib().__library.get::<*const ()>(name.as_bytes()).is_ok() };
        assert!(found, "{name}");
    }
    // One that nothing simulates.
    assert!(matches!(nvml.device_by_index(0).expect("there").irq_num(), Err(NvmlError::NotSupported)));
}

#[test]
fn the_variable_names_the_file() {
    const CHILD: &str = "SKERRY_NVML_SIM_TEST_CHILD";
    if env::var_os(CHILD).is_some() {
        let library = built_library().expect("built");
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().expect("initialised");
        assert_eq!(nvml.device_count().expect("told"), 3);
        println!("three cards");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gpus.toml");
    Control::of(MachineSpec::parse("a10x3").expect("a machine")).write(&path).expect("written");
    let child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "faults::the_variable_names_the_file", "--nocapture"])
        .env(CHILD, "1")
        .env("SKERRY_NVML_SIM", &path)
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("three cards"),
        "{text}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn the_same_file_makes_the_same_machine_in_every_copy() {
    let control = of("h100x2");
    let uuids = |machine: &Machine| {
        let nvml = machine.nvml();
        [0, 1].map(|index| nvml.device_by_index(index).expect("there").uuid().expect("told"))
    };
    let (one, other) = (Machine::new(control.clone()), Machine::new(control.clone()));
    assert_eq!(uuids(&one), uuids(&other));
    assert_ne!(uuids(&one), uuids(&Machine::new(Control { seed: Some("other".to_owned()), ..control })));
}
