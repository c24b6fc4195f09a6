//! What the devices are.

use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use skerry_gpu_model::{DEVICES_MAX, PLACES_MAX};
use skerry_proto::gpu::v1 as pb;

use super::Failure;
use crate::gpu::driver::Broken;

/// Longest id that is told.
const ID_BYTES_MAX: usize = 64;

/// The devices that there are, in the driver's order. One that is lost is as it was in `known`.
pub(super) fn devices(nvml: &Nvml, known: &[pb::Device]) -> Result<Vec<pb::Device>, Broken> {
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => {
            return if Failure::of(&error) == Failure::Broken { Err(Broken) } else { Ok(known.to_vec()) };
        }
    };
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let cuda = nvml.sys_cuda_driver_version().ok().filter(|version| *version > 0);
    let cuda = cuda.map(|version| {
        format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version))
    });
    let mut found: Vec<pb::Device> = Vec::new();
    let mut places = 0;
    for index in 0..count.min(u32::try_from(DEVICES_MAX).unwrap_or(u32::MAX)) {
        let described = nvml.device_by_index(index).and_then(|device| describe(nvml, &device, index));
        let device = match described {
            Ok(device) => pb::Device {
                driver_version: driver.clone(),
                cuda_version: cuda.clone().unwrap_or_default(),
                ..device
            },
            Err(error) if Failure::of(&error) == Failure::Broken => return Err(Broken),
            // What fell off the bus has its place in the driver's order, and says nothing any more.
            Err(_) => match known.iter().find(|known| known.index == index) {
                Some(known) => known.clone(),
                None => continue,
            },
        };
        places += 1 + device.mig_devices.len();
        let is_new = found.iter().all(|other| other.uuid != device.uuid);
        if is_id(&device.uuid) && is_new && places <= PLACES_MAX {
            found.push(device);
        }
    }
    Ok(found)
}

fn describe(nvml: &Nvml, device: &Device<'_>, index: u32) -> Result<pb::Device, NvmlError> {
    let uuid = device.uuid()?;
    let mig = device.mig_mode().ok().map(|mode| mode.current != 0);
    let compute = device.cuda_compute_capability().ok();
    Ok(pb::Device {
        uuid,
        index,
        vendor: pb::device::Vendor::Nvidia.into(),
        model: device.name().unwrap_or_default(),
        architecture: match device.architecture() {
            Ok(DeviceArchitecture::Unknown) | Err(_) => String::new(),
            Ok(architecture) => architecture.to_string(),
        },
        memory_bytes: device
            .memory_info()
            .ok()
            .and_then(|memory| i64::try_from(memory.total).ok())
            .unwrap_or(0),
        pci_address: device.pci_info().map_or_else(
            |_| String::new(),
            |pci| format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device),
        ),
        compute_capability: compute
            .map_or_else(String::new, |version| format!("{}.{}", version.major, version.minor)),
        ecc: device.is_ecc_enabled().ok().map(|ecc| ecc.currently_enabled),
        mig_mode: match mig {
            None => pb::device::MigMode::Unspecified,
            Some(false) => pb::device::MigMode::Disabled,
            Some(true) => pb::device::MigMode::Enabled,
        }
        .into(),
        mig_devices: if mig == Some(true) { parts(nvml, device) } else { Vec::new() },
        ..pb::Device::default()
    })
}

/// The parts of a divided device.
fn parts(nvml: &Nvml, device: &Device<'_>) -> Vec<pb::MigDevice> {
    let most = device.mig_device_count().unwrap_or(0);
    let part = |index| {
        let part = device.mig_device_by_index(index).ok()?;
        let uuid = part.uuid().ok().filter(|uuid| is_id(uuid))?;
        let name = part.name().unwrap_or_default();
        let attributes = part.attributes().ok();
        let bytes =
            attributes.as_ref().and_then(|of| i64::try_from(of.memory_size_mb).ok()?.checked_mul(1 << 20));
        let instances = skerry_nvml_part::instances(nvml, &part);
        Some(pb::MigDevice {
            uuid,
            index,
            profile: name.rsplit_once(" MIG ").map_or_else(String::new, |(_, profile)| profile.to_owned()),
            memory_bytes: bytes.unwrap_or(0),
            compute_slices: attributes.map_or(0, |of| of.compute_instance_slice_count),
            gpu_instance: instances.map_or(0, |of| of.gpu),
            compute_instance: instances.map_or(0, |of| of.compute),
        })
    };
    (0..most).filter_map(part).collect()
}

fn is_id(id: &str) -> bool {
    let signs = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/');
    !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(signs)
}
