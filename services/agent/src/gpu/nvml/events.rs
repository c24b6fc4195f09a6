//! Xid and ECC errors, from the driver's event set: each is told once.

use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use skerry_gpu_model::Event;
use skerry_proto::gpu::v1 as pb;

use super::Failure;
use crate::gpu::driver::{Broken, Events, Happened};

/// What NVML writes where the driver names no number.
const XID_UNKNOWN: u32 = 999;

/// An event set with all devices that have events.
pub(super) struct NvmlEvents<'a> {
    set: Option<EventSet<'a>>,
    /// The devices in the set, each with how its handle is written.
    told: Vec<(String, String)>,
    untold: Vec<String>,
}

/// A handle, told from others. What fell off the bus does not say any more which it is, and its last event is the one that matters; the wrapper gives handles
/// themselves to `unsafe` code alone.
fn written(device: &Device<'_>) -> String {
    format!("{device:?}")
}

impl<'a> NvmlEvents<'a> {
    pub(super) fn new(nvml: &'a Nvml, devices: &[pb::Device]) -> Result<Self, Broken> {
        let broken = |error: &NvmlError| Failure::of(error) == Failure::Broken;
        let wanted = EventTypes::CRITICAL_XID_ERROR
            | EventTypes::SINGLE_BIT_ECC_ERROR
            | EventTypes::DOUBLE_BIT_ECC_ERROR;
        let mut untold = Vec::new();
        // The set goes where a device cannot be registered with it; then it is begun anew without that device.
        'anew: loop {
            let mut set = nvml.create_event_set().map_err(|_| Broken)?;
            let mut told = Vec::new();
            for described in
                devices.iter().filter(|device| !untold.contains(&device.uuid)).cloned().collect::<Vec<_>>()
            {
                let device = match nvml.device_by_uuid(described.uuid.as_str()) {
                    Ok(device) => device,
                    Err(error) if broken(&error) => return Err(Broken),
                    Err(_) => {
                        untold.push(described.uuid);
                        continue;
                    }
                };
                let types = device.supported_event_types().unwrap_or(EventTypes::empty()) & wanted;
                if types.is_empty() {
                    untold.push(described.uuid);
                    continue;
                }
                set = match device.register_events(types, set) {
                    Ok(set) => set,
                    Err(error) if broken(&error.error) => return Err(Broken),
                    Err(_) => {
                        untold.push(described.uuid);
                        continue 'anew;
                    }
                };
                told.push((written(&device), described.uuid));
            }
            return Ok(Self { set: (!told.is_empty()).then_some(set), told, untold });
        }
    }
}

impl Events for NvmlEvents<'_> {
    fn wait(&mut self, timeout: Duration) -> Result<Option<Happened>, Broken> {
        let Some(set) = &self.set else { return Ok(None) };
        let data = match set.wait(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)) {
            Ok(data) => data,
            Err(error) if Failure::of(&error) == Failure::Broken => return Err(Broken),
            Err(NvmlError::InvalidArg) => return Err(Broken),
            // Nothing happened; or a device is lost, which who reads it sees.
            Err(_) => return Ok(None),
        };
        let event = if data.event_type.contains(EventTypes::CRITICAL_XID_ERROR) {
            let code = match data.event_data {
                Some(XidError::Value(code)) => u32::try_from(code).unwrap_or(XID_UNKNOWN),
                Some(XidError::Unknown) | None => XID_UNKNOWN,
            };
            Event::xid(code)
        } else if data.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
            Event::Ecc { corrected: false, count: 1 }
        } else if data.event_type.contains(EventTypes::SINGLE_BIT_ECC_ERROR) {
            Event::Ecc { corrected: true, count: 1 }
        } else {
            return Ok(None);
        };
        let uuid = data.device.uuid().ok().or_else(|| {
            let handle = written(&data.device);
            self.told.iter().find(|(known, _)| *known == handle).map(|(_, uuid)| uuid.clone())
        });
        Ok(uuid.map(|device| Happened { device, event }))
    }

    fn untold(&self) -> &[String] {
        &self.untold
    }
}
