//! A device's memory, and its errors.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlDevice_t, nvmlEccCounterType_t, nvmlEccErrorCounts_t, nvmlEnableState_t,
    nvmlMemory_t, nvmlMemory_v2_t, nvmlMemoryErrorType_t, nvmlMemoryLocation_t, nvmlPageRetirementCause_t,
    nvmlReturn_t, nvmlRowRemapperHistogramValues_t,
};

use super::exports;
use crate::{
    code::{Answer, Code},
    model::view::ErrorKind,
};

/// `NVML_MEMORY_LOCATION_DRAM`: where errors are simulated.
const DRAM: u32 = 2;
/// Banks with rows to spare.
const BANKS: u32 = 640;

exports! {
    device nvmlDeviceGetMemoryInfo(memory: *mut nvmlMemory_t) |view| {
        let is = view.memory();
        // The first version counts what is reserved as used.
        let used = is.used + is.reserved;
        memory.put(nvmlMemory_t { total: is.total, free: is.total - used, used })
    };
    device nvmlDeviceGetMemoryInfo_v2(memory: *mut nvmlMemory_v2_t) |view| {
        let version = memory.get()?.version;
        if version != version_2() {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let is = view.memory();
        let free = is.total - is.used - is.reserved;
        memory.put(nvmlMemory_v2_t { version, total: is.total, reserved: is.reserved, free, used: is.used })
    };
    device nvmlDeviceGetBAR1MemoryInfo(memory: *mut nvmlBAR1Memory_t) |view| {
        let is = view.bar1();
        memory.put(nvmlBAR1Memory_t { bar1Total: is.total, bar1Free: is.total - is.used, bar1Used: is.used })
    };
    device nvmlDeviceGetEccMode(current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t) |view| {
        let on = u32::from(view.ecc()?);
        current.put(on)?;
        pending.put(on)
    };
    device nvmlDeviceGetDefaultEccMode(mode: *mut nvmlEnableState_t) |view| mode.put(u32::from(view.ecc()?));
    device nvmlDeviceGetTotalEccErrors(
        error: nvmlMemoryErrorType_t,
        counter: nvmlEccCounterType_t,
        count: *mut c_ulonglong
    ) |view| {
        count.put(view.ecc_errors(kind(error, counter)?)?)
    };
    device nvmlDeviceGetDetailedEccErrors(
        error: nvmlMemoryErrorType_t,
        counter: nvmlEccCounterType_t,
        counts: *mut nvmlEccErrorCounts_t
    ) |view| {
        let memory = view.ecc_errors(kind(error, counter)?)?;
        counts.put(nvmlEccErrorCounts_t { l1Cache: 0, l2Cache: 0, deviceMemory: memory, registerFile: 0 })
    };
    device nvmlDeviceGetMemoryErrorCounter(
        error: nvmlMemoryErrorType_t,
        counter: nvmlEccCounterType_t,
        location: nvmlMemoryLocation_t,
        count: *mut c_ulonglong
    ) |view| {
        let memory = view.ecc_errors(kind(error, counter)?)?;
        if location > 7 {
            return Err(Code::INVALID_ARGUMENT);
        }
        count.put(if location == DRAM { memory } else { 0 })
    };
    device nvmlDeviceGetRetiredPages(
        cause: nvmlPageRetirementCause_t,
        count: *mut c_uint,
        addresses: *mut c_ulonglong
    ) |view| {
        addresses.list(&count, &view.retired(is_double_bit(cause)?)?)
    };
    device nvmlDeviceGetRetiredPages_v2(
        cause: nvmlPageRetirementCause_t,
        count: *mut c_uint,
        addresses: *mut c_ulonglong,
        timestamps: *mut c_ulonglong
    ) |view| {
        let pages = view.retired(is_double_bit(cause)?)?;
        // The first has said how many there are; both arrays have room for as many.
        let room = count.get()?;
        addresses.list(&count, &pages)?;
        count.put(room)?;
        timestamps.list(&count, &vec![view.driver.now_us() / 1_000_000; pages.len()])
    };
    device nvmlDeviceGetRetiredPagesPendingStatus(pending: *mut nvmlEnableState_t) |view| {
        pending.put(u32::from(view.retirement_pending()?))
    };
    device nvmlDeviceGetRemappedRows(
        corrected: *mut c_uint,
        uncorrected: *mut c_uint,
        pending: *mut c_uint,
        failed: *mut c_uint
    ) |view| {
        let rows = view.remapped()?;
        corrected.put(rows.corrected)?;
        uncorrected.put(rows.uncorrected)?;
        pending.put(u32::from(rows.pending))?;
        failed.put(u32::from(rows.failed))
    };
    device nvmlDeviceGetRowRemapperHistogram(values: *mut nvmlRowRemapperHistogramValues_t) |view| {
        let rows = view.remapped()?;
        // Each row from a bank of its own.
        let touched = rows.corrected.saturating_add(rows.uncorrected).min(BANKS);
        values.put(nvmlRowRemapperHistogramValues_t { max: BANKS - touched, high: touched, partial: 0, low: 0, none: 0 })
    };
}

/// Of `nvmlMemory_v2_t`: its size and the version, 2.
const fn version_2() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a structure of some bytes")]
    let size = size_of::<nvmlMemory_v2_t>() as u32;
    size | (2 << 24)
}

fn kind(error: u32, counter: u32) -> Answer<ErrorKind> {
    if error > 1 || counter > 1 {
        return Err(Code::INVALID_ARGUMENT);
    }
    Ok(ErrorKind { uncorrected: error == 1, aggregate: counter == 1 })
}

fn is_double_bit(cause: u32) -> Answer<bool> {
    if cause > 1 { Err(Code::INVALID_ARGUMENT) } else { Ok(cause == 1) }
}
