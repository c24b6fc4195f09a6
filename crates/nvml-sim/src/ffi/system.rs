//! The library itself, and how devices are found.

use std::{
    ffi::{c_char, c_int, c_uint},
    fs, ptr,
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlHwbcEntry_t, nvmlReturn_t};

use super::exports;
use crate::{
    code::{Code, sentence},
    model::driver::{Driver, Target},
    spec::CARDS_MAX,
};

/// Functions of this module that are not made by the macro.
pub(super) const OTHERS: &[&str] = &["nvmlErrorString"];

/// As `nvmlSystemGetNVMLVersion` has it: the API's version before the driver's.
const API: u32 = 12;

exports! {
    anytime nvmlInit_v2() Driver::init;
    anytime nvmlInitWithFlags(_flags: c_uint) Driver::init;
    anytime nvmlShutdown() Driver::shutdown;
    system nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) |driver| {
        version.text(length, &driver.control().driver.version)
    };
    system nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) |driver| {
        version.text(length, &format!("{API}.{}", driver.control().driver.version))
    };
    system nvmlSystemGetCudaDriverVersion(version: *mut c_int) |driver| {
        version.put(driver.control().driver.cuda.number())
    };
    system nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) |driver| {
        version.put(driver.control().driver.cuda.number())
    };
    system nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) |_driver| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| Code::NOT_FOUND)?;
        let program = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        name.text(length, &program)
    };
    system nvmlSystemGetHicVersion(count: *mut c_uint, _entries: *mut nvmlHwbcEntry_t) |_driver| count.put(0);
    system nvmlUnitGetCount(count: *mut c_uint) |_driver| count.put(0);
    system nvmlGetExcludedDeviceCount(count: *mut c_uint) |_driver| count.put(0);
    system nvmlDeviceGetCount_v2(count: *mut c_uint) |driver| count.put(driver.count());
    system nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) |driver| {
        device.put(by_index(driver, index)?)
    };
    system nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) |driver| {
        let uuid = uuid.get()?;
        device.put(pointer(driver.find(|view| view.uuid() == uuid)?))
    };
    system nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t) |driver| {
        let serial = serial.get()?;
        device.put(pointer(driver.find(|view| view.serial() == serial)?))
    };
    system nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, device: *mut nvmlDevice_t) |driver| {
        let bus = bus(id.get()?).ok_or(Code::INVALID_ARGUMENT)?;
        device.put(pointer(driver.find(|view| view.target.mig.is_none() && view.bus() == bus)?))
    };
}

/// A handle as C has it; nobody ever reads there.
pub(super) fn pointer<T>(handle: usize) -> *mut T {
    ptr::without_provenance_mut(handle)
}

fn by_index(driver: &Driver, index: u32) -> Result<nvmlDevice_t, Code> {
    let target = Target { card: index, mig: None };
    driver.look(target)?;
    if driver.is_lost(index) { Err(Code::GPU_IS_LOST) } else { Ok(pointer(driver.handle(target))) }
}

/// The bus of an address as `00000000:04:00.0` or `0000:04:00.0`, in domain 0.
fn bus(id: &str) -> Option<u32> {
    let (place, function) = id.split_once('.').unwrap_or((id, "0"));
    let mut parts = place.rsplit(':').map(|part| u32::from_str_radix(part, 16).ok());
    let (device, bus, domain) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    (device == 0 && domain == 0 && function == "0" && parts.next().is_none()).then_some(bus)
}

/// The sentence of an answer.
#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    sentence(result).as_ptr().cast()
}

/// Addresses of all cards have two digits.
const _: () = assert!(1 + 3 * (CARDS_MAX - 1) < 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_their_forms() {
        for id in ["00000000:04:00.0", "0000:04:00.0", "04:00.0", "00000000:04:00"] {
            assert_eq!(bus(id), Some(4), "{id}");
        }
        for id in ["", "0001:04:00.0", "04", "04:00.1", "0000:zz:00.0", "0:0:0:4:0.0"] {
            assert_eq!(bus(id), None, "{id}");
        }
    }
}
