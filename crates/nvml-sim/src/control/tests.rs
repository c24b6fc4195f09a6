//! Laws of the control file: what is written is read, what is wrong is told where, and nothing panics.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::code::Code;

fn fault(text: &str) -> String {
    Control::parse(text).expect_err(text).to_string()
}

#[test]
fn the_example_of_the_documentation_is_one_and_has_every_key() {
    let text = include_str!("../example.toml");
    let control = Control::parse(text).expect("good");
    // What is written of it has no key that the example has not, and all that differ from their defaults.
    let written = control.to_toml().expect("good");
    assert_eq!(Control::parse(&written).expect("good"), control);
    let full = Control {
        event: vec![Event { mig: Some(0), ..Event::xid(1, 0, 31) }],
        fault: vec![Fault {
            call: CallPattern::parse("nvmlInit_v2").expect("a call"),
            device: Some(0),
            answer: Outcome::Hang,
        }],
        device: vec![full_device()],
        seed: Some("x".to_owned()),
        time_offset_ms: 1,
        latencies: Latencies::Typical,
        driver: DriverControl { generation: 1, ..DriverControl::default() },
        machine: MachineSpec::parse("a100").expect("a machine"),
    };
    let keys = |table: &toml::Table| {
        let mut keys = HashSet::new();
        collect(&toml::Value::Table(table.clone()), "", &mut keys);
        keys
    };
    let full: toml::Table = toml::from_str(&toml::to_string(&full).expect("written")).expect("read");
    let example: toml::Table = toml::from_str(text).expect("read");
    assert_eq!(keys(&full), keys(&example));
}

/// Each with a value that is not its default.
fn full_device() -> DeviceControl {
    DeviceControl {
        index: 0,
        lost: true,
        memory_used_mib: Some(1),
        ambient_c: Some(1),
        power_limit_w: Some(1),
        pcie_replays: 1,
        compute_mode: ComputeMode::Prohibited,
        load: Some(Load {
            shape: Shape::Idle,
            gpu_percent: Some(Percent::FULL),
            memory_percent: Some(Percent::FULL),
            encoder_percent: Percent::FULL,
            decoder_percent: Percent::FULL,
            noise_percent: Some(Percent::FULL),
            period_s: Some(1),
        }),
        ecc: EccErrors { corrected: 1, ..EccErrors::default() },
        retired_pages: RetiredPages { single_bit: 1, ..RetiredPages::default() },
        remapped_rows: RemappedRows { corrected: 1, ..RemappedRows::default() },
        nvlink: NvLinkControl { replays: 1, ..NvLinkControl::default() },
        mig: Some(Mig::of(&["1g.10gb"])),
        process: vec![Process {
            pid: 1,
            kind: ProcessKind::Mps,
            memory_mib: Some(1),
            sm_percent: Some(Percent::FULL),
            memory_percent: Some(Percent::FULL),
            encoder_percent: Percent::FULL,
            decoder_percent: Percent::FULL,
            mig: Some(0),
        }],
    }
}

fn collect(value: &toml::Value, path: &str, keys: &mut HashSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = format!("{path}.{key}");
                collect(value, &path, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect(item, path, keys)),
        _ => {}
    }
}

#[test]
fn a_wrong_value_is_told_with_its_line() {
    let text = fault("machine = \"a100\"\n[[device]]\nindex = 0\n[device.load]\ngpu_percent = 130\n");
    assert!(
        text.contains("line 5, column 15") && text.contains("130 is no percentage: write 0 to 100"),
        "{text}"
    );
    let text = fault("machine = \"a100\"\n[[fault]]\ncall = \"nvmlDeviceGetLuck\"\nanswer = \"hang\"\n");
    assert!(text.contains("line 3") && text.contains("no call fits"), "{text}");
    let text = fault("[[fault]]\ncall = \"nvmlInit_v2\"\nanswer = \"SUCCESS\"\n");
    assert!(text.contains("line 3") && text.contains("NOT_SUPPORTED"), "{text}");
    let text = fault("machin = \"a100\"\n");
    assert!(text.contains("line 1") && text.contains("machin"), "{text}");
    let text = fault("[driver]\ncuda = \"twelve\"\n");
    assert!(text.contains("line 2") && text.contains("write it as \"12.8\""), "{text}");
}

#[test]
fn what_does_not_go_together_is_told_with_its_field() {
    let device = |rest: &str| fault(&format!("machine = \"a100+t4\"\n[[device]]\nindex = 0\n{rest}"));
    assert_eq!(
        fault("machine = \"t4\"\n[[device]]\nindex = 1\n"),
        "device[0].index: there is no card 1: the machine t4 has 0 to 0"
    );
    assert!(
        device("[[device]]\nindex = 0\n").starts_with("device[1].index: card 0 is described above already")
    );
    assert!(
        device("power_limit_w = 500\n")
            .starts_with("device[0].power_limit_w: 500 W is not within 100 and 400 W")
    );
    let text = fault("time_offset_ms = 9000000000000000000\n");
    assert!(text.starts_with("time_offset_ms: is more than a hundred years"), "{text}");
    assert!(device("ambient_c = 91\n").starts_with("device[0].ambient_c"));
    let processes =
        "[[device.process]]\npid = 1\nmemory_mib = 80000\n[[device.process]]\npid = 2\nmemory_mib = 2000\n";
    assert!(
        device(processes)
            .starts_with("device[0].process[1].memory_mib: processes use more together than the 81283 MiB")
    );
    assert!(device("[[device.process]]\npid = 0\n").starts_with("device[0].process[0].pid"));
    assert!(device("[[device.process]]\npid = 1\nmig = 0\n").contains("there is no instance 0"));
    let used = "memory_used_mib = 10\n[[device.process]]\npid = 1\nmemory_mib = 20\n";
    assert!(device(used).starts_with("device[0].memory_used_mib: 10 is not within 20"));
    let mig = |sizes: &str| device(&format!("mig = {{ enabled = true, instances = [{sizes}] }}\n"));
    assert!(mig("{ profile = \"1g.5gb\" }").contains("is no size of it: there are 1g.10gb"));
    let two = "{ profile = \"4g.40gb\" }, { profile = \"4g.40gb\" }";
    assert!(mig(two).starts_with("device[0].mig.instances[1].profile: there is no room for it"));
    assert!(
        fault("machine = \"t4\"\n[[device]]\nindex = 0\nmig = { enabled = true }\n")
            .contains("Tesla T4 cannot be partitioned")
    );
    assert!(device("[device.nvlink]\ndown = [12]\n").contains("there is no link 12"));
    assert!(device("[device.load]\nperiod_s = 0\n").starts_with("device[0].load.period_s"));
    let event = |rest: &str| fault(&format!("[[event]]\nid = 1\ndevice = 0\n{rest}"));
    assert!(event("").starts_with("event[0].xid: is missing"));
    assert!(event("kind = \"clock\"\nxid = 3\n").starts_with("event[0].xid: only"));
    assert!(
        event("xid = 3\n[[event]]\nid = 1\ndevice = 0\nxid = 3\n")
            .starts_with("event[1].id: event 1 is there already")
    );
}

#[test]
fn a_card_is_described_once() {
    let mut control = Control::of(MachineSpec::parse("t4x2").expect("a machine"));
    control.device_mut(1).lost = true;
    control.device_mut(1).pcie_replays = 3;
    let expected = DeviceControl { lost: true, pcie_replays: 3, ..DeviceControl::of(1) };
    assert_eq!(control.device, [expected]);
}

#[test]
fn a_file_is_written_at_once_and_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gpus.toml");
    let mut control = Control::of(MachineSpec::parse("h100x2").expect("a machine"));
    control.write(&path).expect("written");
    control.event = vec![Event::xid(7, 1, 48)];
    control.write(&path).expect("written");
    assert_eq!(Control::read(&path).expect("read"), control);
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left over");
    let wrong = Control { event: vec![Event::xid(7, 2, 48)], ..control };
    assert!(wrong.write(&path).is_err(), "a file that the library would not take is not written");
}

fn percent() -> impl Strategy<Value = Percent> {
    (0..=100_u8).prop_map(Percent::saturating)
}

fn process() -> impl Strategy<Value = Process> {
    let kinds = select(vec![ProcessKind::Compute, ProcessKind::Graphics, ProcessKind::Mps]);
    (1..u32::MAX, kinds, option::of(0..500_u64), option::of(percent()), percent()).prop_map(
        |(pid, kind, memory_mib, sm_percent, decoder_percent)| Process {
            pid,
            kind,
            memory_mib,
            sm_percent,
            decoder_percent,
            ..Process::default()
        },
    )
}

pub(crate) fn control() -> impl Strategy<Value = Control> {
    let machine = select(vec!["t4", "a100x2", "orin+h100", "lost", "a4000+a10"]);
    let shapes = select(vec![Shape::Idle, Shape::Steady, Shape::Wave, Shape::Bursts, Shape::Training]);
    let load = (shapes, option::of(percent()), 1..1000_u32).prop_map(|(shape, gpu_percent, period_s)| Load {
        shape,
        gpu_percent,
        period_s: Some(period_s),
        ..Load::default()
    });
    let device = (
        option::of(load),
        option::of(0..=90_u8),
        any::<bool>(),
        any::<u32>(),
        any::<u64>(),
        vec(process(), 0..5),
    )
        .prop_map(|(load, ambient_c, lost, pcie_replays, corrected, process)| DeviceControl {
            load,
            ambient_c,
            lost,
            pcie_replays,
            process,
            // TOML has no larger ones.
            ecc: EccErrors { corrected: corrected >> 1, ..EccErrors::default() },
            ..DeviceControl::of(0)
        });
    let outcomes =
        select(vec![Outcome::Hang, Outcome::Code(Code::NOT_SUPPORTED), Outcome::Code(Code::UNKNOWN)]);
    let calls = select(vec!["nvmlDeviceGetPowerUsage", "nvmlDeviceGet*", "*"]);
    let fault = (calls, option::of(Just(0)), outcomes).prop_map(|(call, device, answer)| Fault {
        call: CallPattern::parse(call).expect("a call"),
        device,
        answer,
    });
    let events = vec(0..200_u64, 0..5)
        .prop_map(|xids| (1..).zip(xids).map(|(id, xid)| Event::xid(id, 0, xid)).collect::<Vec<_>>());
    let driver = (any::<bool>(), any::<u32>()).prop_map(|(loaded, generation)| DriverControl {
        loaded,
        generation,
        ..DriverControl::default()
    });
    (
        machine,
        option::of("[a-z]{0,9}"),
        0..=TIME_OFFSET_MS_MAX,
        driver,
        option::of(device),
        vec(fault, 0..3),
        events,
    )
        .prop_map(|(machine, seed, time_offset_ms, driver, device, fault, event)| Control {
            machine: MachineSpec::parse(machine).expect("a machine"),
            seed,
            time_offset_ms,
            latencies: Latencies::Off,
            driver,
            device: device.into_iter().collect(),
            fault,
            event,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(control in control()) {
        let text = control.to_toml().expect("good");
        prop_assert_eq!(Control::parse(&text).expect("read back"), control);
    }

    #[test]
    fn any_text_is_a_control_or_an_error(text in "(?s).{0,200}") {
        let _ = Control::parse(&text);
    }

    #[test]
    fn a_good_file_with_a_piece_of_another_is_a_control_or_an_error(from in 0..4000_usize, length in 0..200_usize, at in 0..4000_usize) {
        let text = include_str!("../example.toml");
        let piece: String = text.chars().skip(from).take(length).collect();
        let mixed: String = text.chars().take(at).chain(piece.chars()).chain(text.chars().skip(at + length / 2)).collect();
        if let Err(error) = Control::parse(&mixed) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
