//! What a device is, and how it is connected.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlBrandType_t, nvmlBusType_t, nvmlComputeMode_t, nvmlDevice_t, nvmlDeviceArchitecture_t,
    nvmlEnableState_t, nvmlGpuVirtualizationMode_t, nvmlIntNvLinkDeviceType_t, nvmlNvLinkCapability_t,
    nvmlNvLinkErrorCounter_t, nvmlPciInfo_t, nvmlPcieUtilCounter_t, nvmlPowerSource_t, nvmlReturn_t,
};

use super::{exports, pointers::array};
use crate::{
    code::Code,
    model::{card::whole, view::View},
};

/// `NVML_BUS_TYPE_PCIE`, and what a link is at its other end: a switch.
const PCIE: u32 = 2;
const SWITCH: u32 = 2;

exports! {
    device nvmlDeviceGetName(name: *mut c_char, length: c_uint) |view| name.text(length, &view.name());
    device nvmlDeviceGetUUID(uuid: *mut c_char, length: c_uint) |view| uuid.text(length, &view.uuid());
    device nvmlDeviceGetSerial(serial: *mut c_char, length: c_uint) |view| {
        serial.text(length, &view.serial())
    };
    device nvmlDeviceGetVbiosVersion(version: *mut c_char, length: c_uint) |view| {
        version.text(length, &view.card.profile.vbios)
    };
    device nvmlDeviceGetBoardPartNumber(number: *mut c_char, length: c_uint) |view| {
        number.text(length, &view.card.profile.part_number)
    };
    device nvmlDeviceGetIndex(index: *mut c_uint) |view| {
        index.put(view.target.mig.map_or(Some(view.target.card), |mig| u32::try_from(mig).ok()).ok_or(Code::UNKNOWN)?)
    };
    device nvmlDeviceGetMinorNumber(number: *mut c_uint) |view| number.put(view.target.card);
    device nvmlDeviceGetBoardId(id: *mut c_uint) |view| id.put(view.bus() << 8);
    device nvmlDeviceGetMultiGpuBoard(multi: *mut c_uint) |_view| multi.put(0);
    device nvmlDeviceGetBrand(brand: *mut nvmlBrandType_t) |view| brand.put(view.card.profile.brand as u32);
    device nvmlDeviceGetArchitecture(architecture: *mut nvmlDeviceArchitecture_t) |view| {
        architecture.put(view.card.profile.architecture as u32)
    };
    device nvmlDeviceGetCudaComputeCapability(major: *mut c_int, minor: *mut c_int) |view| {
        let [is_major, is_minor] = view.card.profile.compute_capability;
        major.put(is_major)?;
        minor.put(is_minor)
    };
    device nvmlDeviceGetNumGpuCores(cores: *mut c_uint) |view| cores.put(view.card.profile.cores);
    device nvmlDeviceGetMemoryBusWidth(bits: *mut c_uint) |view| bits.put(view.card.profile.bus_width_bits);
    device nvmlDeviceGetPersistenceMode(mode: *mut nvmlEnableState_t) |_view| mode.put(1);
    device nvmlDeviceGetComputeMode(mode: *mut nvmlComputeMode_t) |view| {
        mode.put(view.control.map_or(0, |control| control.compute_mode as u32))
    };
    device nvmlDeviceGetDisplayMode(mode: *mut nvmlEnableState_t) |_view| mode.put(0);
    device nvmlDeviceGetDisplayActive(active: *mut nvmlEnableState_t) |_view| active.put(0);
    device nvmlDeviceGetVirtualizationMode(mode: *mut nvmlGpuVirtualizationMode_t) |_view| mode.put(0);
    device nvmlDeviceGetPowerSource(source: *mut nvmlPowerSource_t) |_view| source.put(0);

    device nvmlDeviceGetBusType(bus: *mut nvmlBusType_t) |_view| bus.put(PCIE);
    device nvmlDeviceGetPciInfo_v3(pci: *mut nvmlPciInfo_t) |view| pci.put(pci_info(view));
    device nvmlDeviceGetMaxPcieLinkGeneration(generation: *mut c_uint) |view| {
        generation.put(view.card.profile.pcie.generation)
    };
    device nvmlDeviceGetGpuMaxPcieLinkGeneration(generation: *mut c_uint) |view| {
        generation.put(view.card.profile.pcie.generation)
    };
    device nvmlDeviceGetMaxPcieLinkWidth(width: *mut c_uint) |view| width.put(view.card.profile.pcie.width);
    device nvmlDeviceGetCurrPcieLinkGeneration(generation: *mut c_uint) |view| {
        generation.put(view.pcie_generation())
    };
    device nvmlDeviceGetCurrPcieLinkWidth(width: *mut c_uint) |view| width.put(view.card.profile.pcie.width);
    device nvmlDeviceGetPcieLinkMaxSpeed(speed: *mut c_uint) |view| {
        speed.put(view.card.profile.pcie.generation)
    };
    device nvmlDeviceGetPcieSpeed(speed: *mut c_uint) |view| speed.put(transfers(view.pcie_generation()));
    device nvmlDeviceGetPcieThroughput(counter: nvmlPcieUtilCounter_t, value: *mut c_uint) |view| match counter {
        0 => value.put(whole(view.card.pcie_tx_kbs)),
        1 => value.put(whole(view.card.pcie_rx_kbs)),
        _ => Err(Code::INVALID_ARGUMENT),
    };
    device nvmlDeviceGetPcieReplayCounter(count: *mut c_uint) |view| {
        count.put(view.control.map_or(0, |control| control.pcie_replays))
    };

    device nvmlDeviceGetNvLinkState(link: c_uint, active: *mut nvmlEnableState_t) |view| {
        active.put(u32::from(view.nvlink_up(link)?))
    };
    device nvmlDeviceGetNvLinkVersion(link: c_uint, version: *mut c_uint) |view| {
        version.put(view.nvlink(link)?.version)
    };
    device nvmlDeviceGetNvLinkCapability(
        link: c_uint,
        capability: nvmlNvLinkCapability_t,
        result: *mut c_uint
    ) |view| {
        view.nvlink(link)?;
        // All but bridges.
        if capability > 5 { Err(Code::INVALID_ARGUMENT) } else { result.put(u32::from(capability != 4)) }
    };
    device nvmlDeviceGetNvLinkErrorCounter(
        link: c_uint,
        counter: nvmlNvLinkErrorCounter_t,
        value: *mut c_ulonglong
    ) |view| {
        value.put(view.nvlink_errors(link, counter)?)
    };
    device nvmlDeviceGetNvLinkRemoteDeviceType(link: c_uint, kind: *mut nvmlIntNvLinkDeviceType_t) |view| {
        view.nvlink(link)?;
        kind.put(SWITCH)
    };
}

fn pci_info(view: &View<'_>) -> nvmlPciInfo_t {
    const VENDOR: u32 = 0x10de;
    let (bus, profile) = (view.bus(), view.card.profile);
    nvmlPciInfo_t {
        busIdLegacy: array(&format!("0000:{bus:02X}:00.0")),
        domain: 0,
        bus,
        device: 0,
        pciDeviceId: (u32::from(profile.pci_device_id) << 16) | VENDOR,
        pciSubSystemId: (u32::from(profile.pci_subsystem_id) << 16) | VENDOR,
        busId: array(&format!("00000000:{bus:02X}:00.0")),
    }
}

/// Megatransfers a second of a generation of PCIe.
fn transfers(generation: u32) -> u32 {
    match generation {
        0 => 0,
        1 => 2_500,
        2 => 5_000,
        _ => 8_000 << (generation - 3).min(4),
    }
}
