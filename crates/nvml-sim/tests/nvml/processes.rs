//! Processes on a card, among them this one.

use nvml_wrapper::{enums::device::UsedGpuMemory, error::NvmlError};
use skerry_nvml_sim::{DeviceControl, Percent, Process, ProcessKind};

use crate::machine::{Machine, becomes, of, until};

fn process(pid: u32, kind: ProcessKind, memory_mib: u64, sm: u8) -> Process {
    Process {
        pid,
        kind,
        memory_mib: Some(memory_mib),
        sm_percent: Some(Percent::saturating(sm)),
        ..Process::default()
    }
}

#[test]
fn processes_are_those_of_the_file_with_memory_and_utilisation() {
    let own = std::process::id();
    let mut control = of("t4");
    let process = vec![
        process(own, ProcessKind::Compute, 1000, 30),
        process(4711, ProcessKind::Graphics, 200, 5),
        Process { memory_mib: None, ..process(4712, ProcessKind::Mps, 0, 0) },
    ];
    control.device = vec![DeviceControl { process, ..DeviceControl::of(0) }];
    let machine = Machine::new(control);
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    let pids = |processes: Result<Vec<nvml_wrapper::struct_wrappers::device::ProcessInfo>, NvmlError>| {
        processes
            .expect("told")
            .into_iter()
            .map(|process| (process.pid, process.used_gpu_memory))
            .collect::<Vec<_>>()
    };
    let mib = |mib: u64| UsedGpuMemory::Used(mib << 20);
    assert_eq!(pids(device.running_compute_processes()), [(own, mib(1000))]);
    assert_eq!(pids(device.running_graphics_processes()), [(4711, mib(200))]);
    assert_eq!(pids(device.mps_running_compute_processes()), [(4712, UsedGpuMemory::Unavailable)]);
    assert_eq!(device.running_compute_processes_count().expect("told"), 1);
    assert!(
        device
            .running_compute_processes()
            .expect("told")
            .iter()
            .all(|process| process.gpu_instance_id.is_none())
    );
    let used = device.memory_info().expect("told").used >> 20;
    assert!((1200..1300).contains(&used), "{used} MiB");
    let total = device.utilization_rates().expect("told").gpu;
    assert!((28..=42).contains(&total), "{total} %");

    let samples = device.process_utilization_stats(None).expect("told");
    let sm = |pid| samples.iter().find(|sample| sample.pid == pid).map(|sample| sample.sm_util);
    assert!(sm(own).is_some_and(|sm| (27..=33).contains(&sm)), "{samples:?}");
    assert_eq!(sm(4712), None, "what does nothing is not told");
    let newest = samples.iter().map(|sample| sample.timestamp).max().expect("some");
    let later = until(|| device.process_utilization_stats(newest), Result::is_ok).expect("told");
    assert!(later.iter().all(|sample| sample.timestamp > newest));
    assert!(matches!(device.process_utilization_stats(u64::MAX), Err(NvmlError::NotFound)));

    let name = nvml.sys_process_name(own, 4096).expect("told");
    assert!(name.contains("nvml"), "{name}");
    assert!(matches!(nvml.sys_process_name(u32::MAX, 64), Err(NvmlError::NotFound)));
}

#[test]
fn a_process_comes_and_goes() {
    let mut machine = Machine::of("a10");
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    assert_eq!(device.running_compute_processes().expect("told").len(), 0);
    assert!(
        matches!(device.process_utilization_stats(None), Err(NvmlError::NotFound)),
        "as NVML without processes"
    );
    let running = vec![process(77, ProcessKind::Compute, 4096, 80)];
    machine
        .change(|control| control.device = vec![DeviceControl { process: running, ..DeviceControl::of(0) }]);
    becomes(|| device.running_compute_processes().expect("told").len(), |count| *count == 1);
    machine.change(|control| control.device.clear());
    becomes(|| device.running_compute_processes().expect("told").len(), |count| *count == 0);
}
