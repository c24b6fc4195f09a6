//! Which instances a part of a divided GPU is of: two calls of NVML that `nvml-wrapper` has no safe function for. The device nodes of a part, and its events, go
//! by these numbers.

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t};

/// The numbers of a part's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    /// Of its GPU instance.
    pub gpu: u32,
    /// Of its compute instance.
    pub compute: u32,
}

/// Asks for them. `None`: the device is no part of one, or the driver does not say.
///
/// Source: NVML API reference, `nvmlDeviceGetGpuInstanceId` and `nvmlDeviceGetComputeInstanceId` (drivers from 450.51 on).
#[must_use]
pub fn instances(nvml: &Nvml, part: &Device<'_>) -> Option<Instances> {
    let library = nvml.lib();
    Some(Instances {
        gpu: ask(library.nvmlDeviceGetGpuInstanceId.as_ref().ok(), part)?,
        compute: ask(library.nvmlDeviceGetComputeInstanceId.as_ref().ok(), part)?,
    })
}

type Call = unsafe extern "C" fn(nvmlDevice_t, *mut u32) -> nvmlReturn_t;

#[allow(unsafe_code, reason = "the wrapper has no function for these calls")]
fn ask(call: Option<&Call>, part: &Device<'_>) -> Option<u32> {
    let mut number = 0;
    // SAFETY: the handle is of the library that the call is of, which outlives `part`; the call writes one number, to where it lives.
    let code = unsafe { call?(part.handle(), &raw mut number) };
    (code == nvmlReturn_enum_NVML_SUCCESS).then_some(number)
}
