//! Partitions of a card: GPU instances, and the devices that stand for them.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlDeviceAttributes_t, nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t,
    nvmlReturn_t,
};

use super::{exports, system::pointer};
use crate::{
    code::{Answer, Code},
    model::{driver::Target, view::View},
    profile::MigProfile,
};

exports! {
    device nvmlDeviceGetMigMode(current: *mut c_uint, pending: *mut c_uint) |view| {
        let on = u32::from(view.mig_mode()?);
        current.put(on)?;
        pending.put(on)
    };
    device nvmlDeviceIsMigDeviceHandle(is: *mut c_uint) |view| is.put(u32::from(view.target.mig.is_some()));
    device nvmlDeviceGetMaxMigDeviceCount(count: *mut c_uint) |view| {
        // Seven where there are partitions at all; NVML answers 0 elsewhere.
        count.put(if view.card.profile.mig.is_empty() { 0 } else { 7 })
    };
    device nvmlDeviceGetMigDeviceHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) |view| {
        device.put(pointer(view.driver.handle(view.mig_device(index)?)))
    };
    device nvmlDeviceGetDeviceHandleFromMigDeviceHandle(parent: *mut nvmlDevice_t) |view| {
        instance(view)?;
        parent.put(pointer(view.driver.handle(Target { mig: None, ..view.target })))
    };
    device nvmlDeviceGetGpuInstanceId(id: *mut c_uint) |view| id.put(View::instance_id(instance(view)?));
    device nvmlDeviceGetComputeInstanceId(id: *mut c_uint) |view| instance(view).and_then(|_| id.put(0));
    device nvmlDeviceGetAttributes_v2(attributes: *mut nvmlDeviceAttributes_t) |view| {
        let size = view.size().ok_or(Code::NOT_SUPPORTED)?;
        attributes.put(nvmlDeviceAttributes_t {
            multiprocessorCount: size.multiprocessors,
            sharedCopyEngineCount: size.copy_engines,
            sharedDecoderCount: size.decoders,
            sharedEncoderCount: 0,
            sharedJpegCount: size.jpegs,
            sharedOfaCount: size.ofas,
            gpuInstanceSliceCount: size.slices,
            computeInstanceSliceCount: size.slices,
            memorySizeMB: size.memory_mib,
        })
    };
    device nvmlDeviceGetGpuInstanceProfileInfo(
        profile: c_uint,
        info: *mut nvmlGpuInstanceProfileInfo_t
    ) |view| {
        view.mig_mode()?;
        let size = view.size_numbered(profile)?;
        info.put(nvmlGpuInstanceProfileInfo_t {
            id: size.id,
            isP2pSupported: 0,
            sliceCount: size.slices,
            instanceCount: size.instances,
            multiprocessorCount: size.multiprocessors,
            copyEngineCount: size.copy_engines,
            decoderCount: size.decoders,
            encoderCount: 0,
            jpegCount: size.jpegs,
            ofaCount: size.ofas,
            memorySizeMB: size.memory_mib,
        })
    };
    device nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        profile: c_uint,
        places: *mut nvmlGpuInstancePlacement_t,
        count: *mut c_uint
    ) |view| {
        // Unlike for other lists the caller may not say how many fit in: it has asked for the count before.
        let found = placements(sized(view, profile)?);
        let room = u32::try_from(found.len()).map_err(|_| Code::UNKNOWN)?;
        match places.list(&count, &found) {
            Err(Code::INSUFFICIENT_SIZE) => count.put(room),
            other => other,
        }
    };
    device nvmlDeviceGetGpuInstanceRemainingCapacity(profile: c_uint, count: *mut c_uint) |view| {
        let size = sized(view, profile)?;
        let there = view.control.map_or(&[][..], |control| control.instances());
        let sizes = || there.iter().filter_map(|instance| view.card.profile.mig(&instance.profile));
        let (slices, memory): (u32, u32) = (sizes().map(|size| size.slices).sum(), sizes().map(|size| size.memory_slices).sum());
        let alike = u32::try_from(sizes().filter(|other| other.id == size.id).count()).unwrap_or(u32::MAX);
        let room = ((7 - slices) / size.slices).min((8 - memory) / size.memory_slices);
        count.put(room.min(size.instances.saturating_sub(alike)))
    };
}

fn instance(view: &View<'_>) -> Answer<usize> {
    view.target.mig.ok_or(Code::INVALID_ARGUMENT)
}

/// The size with that id.
fn sized<'a>(view: &'a View<'_>, id: u32) -> Answer<&'a MigProfile> {
    if !view.mig_mode()? {
        return Err(Code::NOT_SUPPORTED);
    }
    view.card.profile.mig.iter().find(|size| size.id == id).ok_or(Code::NOT_SUPPORTED)
}

/// Slices of memory at which an instance of that size may begin: as many as there can be, each behind the last.
fn placements(size: &MigProfile) -> Vec<nvmlGpuInstancePlacement_t> {
    let place = |at| nvmlGpuInstancePlacement_t { start: at * size.memory_slices, size: size.memory_slices };
    (0..size.instances.min(8 / size.memory_slices)).map(place).collect()
}
