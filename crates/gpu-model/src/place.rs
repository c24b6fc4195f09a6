//! What of a node is sampled, in the order in which frames name it: its devices, then the parts of divided ones.

use std::collections::BTreeSet;

use skerry_proto::gpu::v1 as pb;

use crate::{DEVICES_MAX, PLACES_MAX, wire};

/// Most bytes of a text in a frame. Instances' names have four of 63 bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256;
/// Most bytes of ids.
pub(crate) const ID_BYTES_MAX: usize = 64;

/// A device, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which device, in the order of the devices.
    pub device: usize,
    /// Which part of it, in the order of its parts. `None`: all of it.
    pub part: Option<usize>,
}

impl Place {
    /// The places of these devices.
    pub fn all(devices: &[pb::Device]) -> Vec<Self> {
        let whole = (0..devices.len()).map(|device| Self { device, part: None });
        let parts = devices.iter().enumerate().flat_map(|(device, described)| {
            (0..described.mig_devices.len()).map(move |part| Self { device, part: Some(part) })
        });
        whole.chain(parts).collect()
    }

    /// The UUID of what is there.
    pub fn uuid(self, devices: &[pb::Device]) -> Option<&str> {
        let device = devices.get(self.device)?;
        match self.part {
            None => Some(&device.uuid),
            Some(part) => Some(&device.mig_devices.get(part)?.uuid),
        }
    }
}

/// A device that cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("device {device} cannot be told: {why}")]
pub struct InvalidDevice {
    /// Its place among the devices.
    pub device: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Whether these devices can be told in a keyframe: ids name them, and all has its bounds.
pub(crate) fn check(devices: &[pb::Device]) -> Result<(), InvalidDevice> {
    let mut ids = BTreeSet::new();
    let mut places = devices.len();
    for (at, device) in devices.iter().enumerate() {
        let wrong = |why| InvalidDevice { device: at, why };
        places += device.mig_devices.len();
        if at >= DEVICES_MAX || places > PLACES_MAX {
            return Err(wrong("there are too many devices, or parts of them"));
        }
        check_one(device).map_err(wrong)?;
        let parts = device.mig_devices.iter().map(|part| part.uuid.as_str());
        if !parts.chain([device.uuid.as_str()]).all(|id| ids.insert(id)) {
            return Err(wrong("a UUID is there twice"));
        }
    }
    Ok(())
}

fn check_one(device: &pb::Device) -> Result<(), &'static str> {
    let is_id = |id: &str, signs: &[u8]| {
        let chars = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || signs.contains(&byte));
        !id.is_empty() && id.len() <= ID_BYTES_MAX && chars
    };
    // The device's is a part of its resource's name.
    if !is_id(&device.uuid, b"-") {
        return Err("its UUID is not 1 to 64 letters, digits and `-`");
    }
    if !device.mig_devices.iter().all(|part| is_id(&part.uuid, b"-/")) {
        return Err("the UUID of a part is not 1 to 64 letters, digits, `-` and `/`");
    }
    let texts = [
        &device.model,
        &device.architecture,
        &device.pci_address,
        &device.driver_version,
        &device.cuda_version,
        &device.compute_capability,
    ];
    let profiles = device.mig_devices.iter().map(|part| &part.profile);
    if texts.into_iter().chain(profiles).any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err("a text has more than 256 bytes");
    }
    let fields: usize = device.unsupported.iter().map(|set| set.fields.len()).sum();
    if fields.max(device.unsupported.len()) > 64 * wire::WORDS_MAX {
        return Err("it names more fields than there are");
    }
    Ok(())
}
