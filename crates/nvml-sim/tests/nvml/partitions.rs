//! MIG: devices of their own on a partitioned card.

use nvml_wrapper::error::NvmlError;
use skerry_nvml_sim::{DeviceControl, Mig, Percent, Process};

use crate::machine::{Machine, becomes, of, until};

fn process(pid: u32, memory_mib: u64, mig: u32) -> Process {
    Process {
        pid,
        memory_mib: Some(memory_mib),
        sm_percent: Some(Percent::saturating(20)),
        mig: Some(mig),
        ..Process::default()
    }
}

#[test]
fn instances_are_devices_with_names_memory_and_processes() {
    let mut control = of("a100");
    control.device = vec![DeviceControl {
        mig: Some(Mig::of(&["3g.40gb", "1g.10gb"])),
        process: vec![process(10, 1000, 0), process(11, 2000, 1)],
        ..DeviceControl::of(0)
    }];
    let machine = Machine::new(control);
    let nvml = machine.nvml();
    let card = nvml.device_by_index(0).expect("there");
    let mode = card.mig_mode().expect("told");
    assert_eq!((mode.current, mode.pending), (1, 1));
    assert_eq!(card.mig_device_count().expect("told"), 7);
    assert!(!card.mig_is_mig_device_handle().expect("told"));
    assert!(matches!(card.utilization_rates(), Err(NvmlError::NotSupported)));
    assert!(matches!(card.mig_device_by_index(2), Err(NvmlError::NotFound)));
    assert!(card.power_usage().is_ok());
    let expected = [("3g.40gb", 40_192, 42, 3, 10, 1), ("1g.10gb", 9_728, 14, 1, 11, 2)];
    for (index, (profile, memory_mib, multiprocessors, slices, pid, instance)) in (0..).zip(expected) {
        let device = card.mig_device_by_index(index).expect("there");
        assert!(device.mig_is_mig_device_handle().expect("told"));
        assert_eq!(device.name().expect("told"), format!("NVIDIA A100-SXM4-80GB MIG {profile}"));
        let uuid = device.uuid().expect("told");
        assert!(uuid.starts_with("MIG-"));
        assert_eq!(
            nvml.device_by_uuid(uuid.as_str()).expect("found").name().expect("told"),
            device.name().expect("told")
        );
        assert_eq!(
            device.mig_parent_device().expect("told").uuid().expect("told"),
            card.uuid().expect("told")
        );
        let memory = device.memory_info().expect("told");
        assert_eq!(memory.total, memory_mib << 20);
        assert_eq!(memory.total, memory.used + memory.free + memory.reserved);
        let attributes = device.attributes().expect("told");
        assert_eq!(
            (attributes.multiprocessor_count, attributes.gpu_instance_slice_count),
            (multiprocessors, slices)
        );
        assert_eq!(attributes.memory_size_mb, memory_mib);
        let processes = device.running_compute_processes().expect("told");
        assert_eq!(processes.len(), 1);
        assert_eq!(
            (processes[0].pid, processes[0].gpu_instance_id, processes[0].compute_instance_id),
            (pid, Some(instance), Some(0))
        );
        assert!(matches!(device.power_usage(), Err(NvmlError::NotSupported)));
        assert!(matches!(device.utilization_rates(), Err(NvmlError::NotSupported)));
    }
    assert_eq!(card.running_compute_processes().expect("told").len(), 2, "the card has those of all");
}

#[test]
fn sizes_are_those_of_the_card() {
    let machine = Machine::of("h100+t4");
    let nvml = machine.nvml();
    let [h100, t4] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    let smallest = h100.profile_info(0).expect("told");
    assert_eq!(
        (smallest.id, smallest.instance_count, smallest.slice_count, smallest.memory_size_mb),
        (19, 7, 1, 9_984)
    );
    let whole = h100.profile_info(4).expect("told");
    assert_eq!((whole.id, whole.multiprocessor_count), (0, 132));
    assert!(matches!(h100.profile_info(5), Err(NvmlError::NotSupported)));
    assert_eq!(h100.mig_mode().expect("told").current, 0);
    assert!(matches!(h100.mig_device_by_index(0), Err(NvmlError::NotFound)));
    assert!(matches!(t4.mig_mode(), Err(NvmlError::NotSupported)));
    assert_eq!(t4.mig_device_count().expect("told"), 0);
}

#[test]
fn partitions_change_while_a_program_runs() {
    let mut machine = Machine::of("a100");
    let nvml = machine.nvml();
    let card = nvml.device_by_index(0).expect("there");
    assert!(card.utilization_rates().is_ok());
    machine.change(|control| {
        control.device = vec![DeviceControl { mig: Some(Mig::of(&["1g.10gb"])), ..DeviceControl::of(0) }];
    });
    let device = until(|| card.mig_device_by_index(0), Result::is_ok).expect("there");
    let uuid = device.uuid().expect("told");
    machine.change(|control| control.device[0].mig = Some(Mig::of(&["2g.20gb"])));
    becomes(|| device.uuid().expect("told"), |other| *other != uuid);
    machine.change(|control| control.device.clear());
    becomes(|| device.uuid(), |answer| matches!(answer, Err(NvmlError::InvalidArg)));
    assert!(card.utilization_rates().is_ok());
}
