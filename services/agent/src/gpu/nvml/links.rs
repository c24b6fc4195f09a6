//! Errors on NVLinks, link by link.
//!
//! Up to Ampere NVML has fields with the sum over all links ([`super::read`]). On Hopper the same fields succeed, and say 0 whatever happens (DataDog/datadog-agent,
//! pull request 55966, "add Hopper NVLink error metrics"); what `nvidia-smi nvlink -e` shows there is asked of each link. Blackwell has neither (change log
//! of NVIDIA's "NVML API Reference Guide"), and says so.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::error::NvmlError;
use skerry_gpu_model::Field;
use skerry_proto::gpu::v1 as pb;

/// No device has more (`NVML_NVLINK_MAX_LINKS`).
const LINKS_MAX: u32 = 18;
/// Compute capability of Hopper.
const HOPPER: u32 = 9;

/// Which counter of a link's gives which field.
pub(super) static COUNTERS: [(Field, ErrorCounter); 4] = [
    (Field::NvlinkCrcFlitErrors, ErrorCounter::DlCrcFlit),
    (Field::NvlinkCrcDataErrors, ErrorCounter::DlCrcData),
    (Field::NvlinkReplayErrors, ErrorCounter::DlReplay),
    (Field::NvlinkRecoveryErrors, ErrorCounter::DlRecovery),
];

/// Whether a device's errors are counted link by link alone.
pub(super) fn are_apart(device: &pb::Device) -> bool {
    let major = device.compute_capability.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= HOPPER)
}

/// Of all links together.
///
/// # Errors
///
/// No link counts that, or the driver does not answer.
pub(super) fn errors(device: &Device<'_>, counter: ErrorCounter) -> Result<u64, NvmlError> {
    let mut sum = Err(NvmlError::NotSupported);
    for link in 0..LINKS_MAX {
        match device.link_wrapper_for(link).error_counter(counter) {
            Ok(count) => sum = Ok(sum.unwrap_or(0_u64).saturating_add(count)),
            // One that the device does not have, or that is not connected.
            Err(NvmlError::NotSupported | NvmlError::InvalidArg) => {}
            Err(error) => return Err(error),
        }
    }
    sum
}
