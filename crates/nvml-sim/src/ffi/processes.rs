//! What runs on a device.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t, nvmlReturn_t,
};

use super::exports;
use crate::{
    code::Code,
    control::ProcessKind,
    model::view::{ProcessUse, View},
};

/// No such instance, and memory that the driver does not tell.
const NO_INSTANCE: u32 = u32::MAX;
const NOT_TOLD: u64 = u64::MAX;

exports! {
    device nvmlDeviceGetComputeRunningProcesses_v3(count: *mut c_uint, infos: *mut nvmlProcessInfo_t) |view| {
        infos.list(&count, &running(view, ProcessKind::Compute))
    };
    device nvmlDeviceGetGraphicsRunningProcesses_v3(
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_t
    ) |view| {
        infos.list(&count, &running(view, ProcessKind::Graphics))
    };
    device nvmlDeviceGetMPSComputeRunningProcesses_v3(
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_t
    ) |view| {
        infos.list(&count, &running(view, ProcessKind::Mps))
    };
    device nvmlDeviceGetProcessUtilization(
        samples: *mut nvmlProcessUtilizationSample_t,
        count: *mut c_uint,
        since_us: c_ulonglong
    ) |view| {
        let found = view.process_use(since_us);
        if found.is_empty() {
            return Err(Code::NOT_FOUND);
        }
        let sample = |used: &ProcessUse| nvmlProcessUtilizationSample_t {
            pid: used.pid,
            timeStamp: used.at_us,
            smUtil: used.sm,
            memUtil: used.memory,
            encUtil: used.encoder,
            decUtil: used.decoder,
        };
        samples.list(&count, &found.iter().map(sample).collect::<Vec<_>>())
    };
    device nvmlDeviceGetAccountingMode(mode: *mut nvmlEnableState_t) |_view| mode.put(0);
}

fn running(view: &View<'_>, kind: ProcessKind) -> Vec<nvmlProcessInfo_t> {
    let instances = view.control.map_or(0, |control| control.instances().len());
    let info = |process: &crate::control::Process| {
        let instance = process.mig.and_then(|mig| usize::try_from(mig).ok()).filter(|mig| *mig < instances);
        nvmlProcessInfo_t {
            pid: process.pid,
            usedGpuMemory: process.memory_mib.map_or(NOT_TOLD, |mib| mib << 20),
            gpuInstanceId: instance.map_or(NO_INSTANCE, View::instance_id),
            computeInstanceId: instance.map_or(NO_INSTANCE, |_| 0),
        }
    };
    view.processes_of(kind).map(info).collect()
}
