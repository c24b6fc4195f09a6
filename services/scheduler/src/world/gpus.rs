//! The GPUs of a node as placement sees them, and who has them. Figures that move by themselves are not taken over: each change plans a cluster anew.

use std::collections::BTreeMap;

use skerry_model::{GpuBooking, GpuId, GpuIsolation, InstanceName, MigProfile};
use skerry_placement::{Gpu, Standing};
use skerry_proto::gpu::v1::{Device, Field, Health, device, health, health_reason};
use skerry_proto::types::v1::{InstanceStatus, MachineStatus, machine_status};

/// Most GPUs of a machine that are looked at, as its report is bounded.
const GPUS_MAX: usize = 64;
/// Most reasons that are named of one.
const REASONS_MAX: usize = 3;

/// Those that a machine told of. One without a UUID cannot be given to anybody.
pub(super) fn of_machine(machine: &MachineStatus) -> BTreeMap<GpuId, Gpu> {
    machine.gpus.iter().take(GPUS_MAX).filter_map(read).collect()
}

/// What copies that run have of them. Who runs has a time of its start.
pub(super) fn held(instances: &[InstanceStatus]) -> BTreeMap<InstanceName, Vec<GpuBooking>> {
    let has = |one: &&InstanceStatus| one.start_time.is_some() && !one.gpus.is_empty();
    let of =
        |one: &InstanceStatus| Some((InstanceName::parse(&one.instance).ok()?, GpuBooking::told(&one.gpus)));
    instances.iter().filter(has).filter_map(of).collect()
}

fn read(told: &machine_status::Gpu) -> Option<(GpuId, Gpu)> {
    let device = told.device.as_ref()?;
    let memory_bytes = u64::try_from(device.memory_bytes).ok().filter(|bytes| *bytes > 0);
    let is_blind = device.unsupported.iter().any(|absent| absent.fields.contains(&Field::Processes.into()));
    let sharing = match (told.mps, memory_bytes) {
        (true, _) => GpuIsolation::Mps,
        (false, Some(_)) if !is_blind => GpuIsolation::Accounted,
        // What shares memory with the machine, or is not told of, is not counted.
        (false, Some(_) | None) => GpuIsolation::None,
    };
    let gpu = Gpu {
        model: device.model.clone(),
        memory_bytes,
        parts: parts(device),
        standing: standing(told.health.as_ref()),
        sharing,
    };
    Some((GpuId::parse(&device.uuid).ok()?, gpu))
}

/// Of a divided one its parts, but for those that nobody could name.
fn parts(device: &Device) -> Option<BTreeMap<GpuId, MigProfile>> {
    let is_divided = device.mig_mode() == device::MigMode::Enabled || !device.mig_devices.is_empty();
    is_divided.then(|| {
        let part = |part: &skerry_proto::gpu::v1::MigDevice| {
            Some((GpuId::parse(&part.uuid).ok()?, MigProfile::parse(&part.profile).ok()?))
        };
        device.mig_devices.iter().filter_map(part).collect()
    })
}

/// What the worst of its reasons do to it; and nobody comes to one that does not work, or that nothing is heard of.
fn standing(health: Option<&Health>) -> Standing {
    use health_reason::Effect;
    let Some(health) = health else { return Standing::Sound };
    let with = |effect: Effect| health.reasons.iter().filter(move |one| one.effect() == effect);
    let words = |all: &mut dyn Iterator<Item = &skerry_proto::gpu::v1::HealthReason>| {
        let words: Vec<&str> = all.map(|one| one.reason.as_str()).take(REASONS_MAX).collect();
        if words.is_empty() { health.state().as_str_name().to_owned() } else { words.join(", ") }
    };
    if with(Effect::NoExecute).next().is_some() {
        return Standing::Sick(words(&mut with(Effect::NoExecute)));
    }
    if with(Effect::NoSchedule).next().is_some() {
        return Standing::Closed(words(&mut with(Effect::NoSchedule)));
    }
    match health.state() {
        health::State::Critical | health::State::Unknown => {
            let of_state = &mut health.reasons.iter().filter(|one| one.state() == health.state());
            Standing::Closed(words(of_state))
        }
        health::State::Unspecified | health::State::Ok | health::State::Warning => Standing::Sound,
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::gpu::v1::{AbsentFields, HealthReason, MigDevice};

    use super::*;

    fn health(state: health::State, reasons: &[(&str, health::State, health_reason::Effect)]) -> Health {
        let reason = |&(reason, state, effect): &(&str, health::State, health_reason::Effect)| HealthReason {
            reason: reason.to_owned(),
            state: state.into(),
            effect: effect.into(),
            message: "81 degrees".to_owned(),
            ..Default::default()
        };
        Health { state: state.into(), reasons: reasons.iter().map(reason).collect() }
    }

    #[test]
    fn the_worst_effect_counts_and_critical_is_closed_whatever_the_reasons_say() {
        use health::State::{Critical, Ok, Unknown, Warning};
        use health_reason::Effect::{NoExecute, NoSchedule, Unspecified};
        let of = |state, reasons: &[_]| standing(Some(&health(state, reasons)));
        assert_eq!(standing(None), Standing::Sound);
        assert_eq!(of(Ok, &[]), Standing::Sound);
        assert_eq!(of(Warning, &[("TooHot", Warning, Unspecified)]), Standing::Sound);
        assert_eq!(of(Critical, &[]), Standing::Closed("CRITICAL".to_owned()));
        assert_eq!(
            of(Critical, &[("EccUncorrected", Critical, Unspecified)]),
            Standing::Closed("EccUncorrected".to_owned())
        );
        assert_eq!(of(Unknown, &[("Silent", Unknown, Unspecified)]), Standing::Closed("Silent".to_owned()));
        let two = [("XidHardware", Warning, NoSchedule), ("FallenOffBus", Critical, NoExecute)];
        assert_eq!(of(Critical, &two), Standing::Sick("FallenOffBus".to_owned()));
        assert_eq!(of(Warning, &two[..1]), Standing::Closed("XidHardware".to_owned()));
    }

    #[test]
    fn a_machine_s_gpus_are_read_and_what_could_not_be_named_is_passed_over() {
        let told = |uuid: &str, memory_bytes, mps| machine_status::Gpu {
            device: Some(Device {
                uuid: uuid.to_owned(),
                model: "Tesla T4".to_owned(),
                memory_bytes,
                ..Default::default()
            }),
            health: None,
            mps,
        };
        let mut divided = told("GPU-2", 80, false);
        if let Some(device) = &mut divided.device {
            device.mig_mode = device::MigMode::Enabled.into();
            let part = |uuid: &str, profile: &str| MigDevice {
                uuid: uuid.to_owned(),
                profile: profile.to_owned(),
                ..Default::default()
            };
            device.mig_devices = vec![part("MIG-1", "1g.10gb"), part("MIG-2", "?")];
        }
        let mut blind = told("GPU-3", 16, false);
        if let Some(device) = &mut blind.device {
            let fields = vec![Field::Processes.into()];
            device.unsupported = vec![AbsentFields { fields, ..Default::default() }];
        }
        let gpus = vec![told("", 1, false), told("GPU-0", 0, false), told("GPU-1", 16, true), divided, blind];
        let found = of_machine(&MachineStatus { gpus, ..Default::default() });
        let names: Vec<&str> = found.keys().map(GpuId::as_str).collect();
        assert_eq!(names, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]);
        let all: Vec<&Gpu> = found.values().collect();
        assert_eq!((all[0].memory_bytes, all[0].sharing), (None, GpuIsolation::None));
        assert_eq!((all[1].memory_bytes, all[1].sharing), (Some(16), GpuIsolation::Mps));
        assert_eq!(all[2].parts.as_ref().map(BTreeMap::len), Some(1));
        assert_eq!((all[1].parts.as_ref(), all[2].sharing), (None, GpuIsolation::Accounted));
        assert_eq!(all[3].sharing, GpuIsolation::None, "nobody is told who uses it");
    }
}
