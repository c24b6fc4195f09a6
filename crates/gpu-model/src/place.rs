//! What of a node is sampled, in the order in which frames name it: its devices, then the parts of divided ones.

use skerry_proto::gpu::v1 as pb;

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
