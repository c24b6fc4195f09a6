//! Who has a context on a device.

use std::collections::BTreeMap;

use nvml_wrapper::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use skerry_gpu_model::{PROCESSES_MAX, Process};

/// No device has so much memory: drivers write that they do not know as all bits set.
const MEMORY_BYTES_MAX: u64 = 1 << 50;

/// Those that compute, those that do it through MPS, and those that draw, by pid, each once; as many as are told, and how many there are. Who is in two lists
/// has one context's memory told twice. Clients of MPS are in a list of their own: who reads the one of those that compute alone misses them
/// (NVIDIA/dcgm-exporter, issue 478; Syllo/nvtop, issue 93).
pub(super) fn read(device: &Device<'_>, since_micros: &mut u64) -> Result<(usize, Vec<Process>), NvmlError> {
    let mut found = BTreeMap::new();
    let graphics = match device.running_graphics_processes() {
        Ok(graphics) => graphics,
        Err(NvmlError::NotSupported) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mps = match device.mps_running_compute_processes() {
        Ok(mps) => mps,
        // A driver before 470 does not know the question.
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    for info in device.running_compute_processes()?.into_iter().chain(mps).chain(graphics) {
        let memory = match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) if bytes < MEMORY_BYTES_MAX => Some(bytes),
            UsedGpuMemory::Used(_) | UsedGpuMemory::Unavailable => None,
        };
        let process =
            found.entry(info.pid).or_insert_with(|| Process { pid: info.pid, ..Process::default() });
        process.memory_bytes = process.memory_bytes.max(memory);
    }
    if !found.is_empty() {
        utilization(device, since_micros, &mut found)?;
    }
    let all = found.len();
    Ok((all, found.into_values().take(PROCESSES_MAX).collect()))
}

/// The newest sample of each since the last look. Where there is none the driver does not tell.
fn utilization(
    device: &Device<'_>,
    since_micros: &mut u64,
    found: &mut BTreeMap<u32, Process>,
) -> Result<(), NvmlError> {
    let samples = match device.process_utilization_stats(*since_micros) {
        Ok(samples) => samples,
        Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized)) => return Err(error),
        // A divided device does not tell it; and where nothing was sampled there is nothing to be found.
        Err(_) => return Ok(()),
    };
    let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
    for sample in samples {
        *since_micros = (*since_micros).max(sample.timestamp);
        let Some(process) = found.get_mut(&sample.pid) else { continue };
        if newest.get(&sample.pid).is_none_or(|at| *at <= sample.timestamp) {
            newest.insert(sample.pid, sample.timestamp);
            process.utilization_percent = Some(sample.sm_util).filter(|percent| *percent <= 100);
        }
    }
    Ok(())
}
