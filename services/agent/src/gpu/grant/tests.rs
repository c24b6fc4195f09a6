//! What is granted: a table of machines and bookings, and the variables that follow.

use std::fs;

use skerry_model::{GpuId, MigProfile};
use skerry_proto::types::v1 as types;

use super::*;
use crate::gpu::Nodes;
use crate::testing::{app, service};

fn spec(isolation_min: types::GpuIsolation, user: &str) -> ServiceSpec {
    let gpu = types::GpuRequest {
        memory_bytes: Some(8 << 30),
        isolation_min: isolation_min.into(),
        ..Default::default()
    };
    let mut one = service("infer");
    (one.gpu, one.user) = (Some(gpu), user.to_owned());
    skerry_model::AppSpec::from_proto(&app(vec![one])).unwrap().services.remove(0)
}

fn card(uuid: &str, capability: &str) -> Gpu {
    let device = pb::Device {
        uuid: uuid.to_owned(),
        vendor: pb::device::Vendor::Nvidia.into(),
        memory_bytes: 16 << 30,
        compute_capability: capability.to_owned(),
        ..Default::default()
    };
    Gpu { device: Some(device), ..Gpu::default() }
}

fn divided(uuid: &str, part: &str) -> Gpu {
    let mut gpu = card(uuid, "8.0");
    let device = gpu.device.as_mut().unwrap();
    device.set_mig_mode(pb::device::MigMode::Enabled);
    device.mig_devices = vec![pb::MigDevice {
        uuid: part.to_owned(),
        profile: "1g.10gb".to_owned(),
        gpu_instance: 9,
        ..Default::default()
    }];
    gpu
}

fn id(text: &str) -> GpuId {
    GpuId::parse(text).unwrap()
}

fn share(gpu: &str, isolation: GpuIsolation) -> GpuBooking {
    let share = GpuShare::Part { memory_bytes: Some(8 << 30), compute_percent: Some(25) };
    GpuBooking { gpu: id(gpu), share, isolation }
}

fn part(gpu: &str, device: &str) -> GpuBooking {
    let share = GpuShare::Mig { profile: MigProfile::parse("1g.10gb").unwrap(), device: id(device) };
    GpuBooking { gpu: id(gpu), share, isolation: GpuIsolation::Mig }
}

fn ask(
    booking: GpuBooking,
    least: types::GpuIsolation,
    gpus: &[Gpu],
    mps: &Mps,
) -> Result<Granted, RuntimeError> {
    let granted = grant(&spec(least, ""), &[booking], Facts { off: false, gpus, mps });
    granted.map(|granted| granted.unwrap())
}

fn serves_at(path: &str) -> Mps {
    Mps::Serves(PathBuf::from(path))
}

#[test]
fn isolation_is_what_the_machine_can_do_and_never_more_than_was_booked() {
    use GpuIsolation::{Accounted, Exclusive, Mig, Mps as Held, None as Nothing};
    let (none, mps) = (Mps::default(), serves_at("/p"));
    let mut blind = card("GPU-1", "7.5");
    let unsupported = pb::AbsentFields { fields: vec![pb::Field::Processes.into()], ..Default::default() };
    blind.device.as_mut().unwrap().unsupported = vec![unsupported];
    let whole = GpuBooking { gpu: id("GPU-1"), share: GpuShare::Whole, isolation: Exclusive };
    let card = |capability| card("GPU-1", capability);
    let table = [
        (share("GPU-1", Held), card("7.5"), &mps, Held),
        (share("GPU-1", Held), card("7.5"), &none, Accounted),
        (share("GPU-1", Held), card("6.1"), &mps, Accounted),
        (share("GPU-1", Held), card(""), &mps, Accounted),
        (share("GPU-1", Accounted), card("7.5"), &mps, Accounted),
        (share("GPU-1", Held), blind.clone(), &none, Nothing),
        (share("GPU-1", Nothing), card("7.5"), &mps, Nothing),
        (whole.clone(), card("7.5"), &mps, Exclusive),
        // Divided after it was booked.
        (whole, divided("GPU-1", "MIG-1"), &mps, Nothing),
        (share("GPU-1", Accounted), divided("GPU-1", "MIG-1"), &mps, Nothing),
        (part("GPU-1", "MIG-1"), divided("GPU-1", "MIG-1"), &mps, Mig),
    ];
    for (booking, gpu, mps, expected) in table {
        let words = format!("{booking} {mps:?}");
        let granted = ask(booking, types::GpuIsolation::None, &[gpu], mps).unwrap();
        assert_eq!(granted.bookings[0].isolation, expected, "{words}");
        assert_eq!(granted.pipe.is_some(), expected == Held, "{words}");
    }
}

#[test]
fn what_is_not_there_is_named_and_nothing_is_run_without_it() {
    let none = Mps::default();
    let least = types::GpuIsolation::None;
    let held = share("GPU-9", GpuIsolation::Accounted);
    let refused = |booking: GpuBooking, gpus: &[Gpu]| ask(booking, least, gpus, &none).unwrap_err();
    let gone = refused(held.clone(), &[card("GPU-1", "7.5")]);
    assert_eq!(gone.reason, MISSING);
    assert!(gone.message.contains("GPU-9") && gone.message.contains("has GPU-1"), "{}", gone.message);
    assert_eq!(refused(held.clone(), &[]).reason, UNKNOWN);
    let undivided = refused(part("GPU-1", "MIG-7"), &[card("GPU-1", "8.0")]);
    assert_eq!(undivided.reason, MISSING);
    assert!(undivided.message.contains("MIG-7") && undivided.message.contains("mig -cgi 1g.10gb"));
    let facts = Facts { off: true, gpus: &[], mps: &none };
    let off = grant(&spec(least, ""), &[held], facts).unwrap_err();
    assert!(off.reason == MISSING && off.message.contains("--no-gpu"), "{}", off.message);
    assert_eq!(grant(&spec(least, ""), &[], facts), Ok(None), "who has no booking needs nothing");
    assert!(!Grants::default().has_gpus());
}

#[test]
fn less_isolation_than_is_asked_for_is_refused_in_words() {
    let gpus = [card("GPU-1", "7.5")];
    let held = share("GPU-1", GpuIsolation::Mps);
    let least = types::GpuIsolation::Mps;
    for (mps, words) in [
        (Mps::default(), "no MPS daemon runs"),
        (Mps::Fails("nvidia-cuda-mps-control is not on this machine".to_owned()), "is not on this machine"),
    ] {
        let refused = ask(held.clone(), least, &gpus, &mps).unwrap_err();
        assert_eq!(refused.reason, ISOLATION);
        assert!(refused.message.contains(words) && refused.message.contains("mps at least"), "{refused}");
    }
    assert!(ask(held, least, &gpus, &serves_at("/p")).is_ok());
}

#[test]
fn a_share_of_which_nobody_can_tell_what_is_used_is_not_accounted_and_its_instance_is_told_why() {
    let none = Mps::default();
    for (reason, words) in [
        (pb::AbsentReason::NotSupported, "does not tell"),
        (pb::AbsentReason::NoPermission, "as root"),
        (pb::AbsentReason::TimedOut, "does not answer"),
        (pb::AbsentReason::DriverError, "fails"),
    ] {
        let mut blind = card("GPU-1", "7.5");
        let fields = vec![pb::Field::Processes.into()];
        blind.device.as_mut().unwrap().unsupported = vec![pb::AbsentFields { reason: reason.into(), fields }];
        let gpus = [blind];
        let held = share("GPU-1", GpuIsolation::Accounted);
        let granted = ask(held.clone(), types::GpuIsolation::None, &gpus, &none).unwrap();
        let [warning] = &granted.warnings[..] else { panic!("{granted:?}") };
        assert!(warning.starts_with(WARNING) && warning.contains(words), "{warning}");
        let refused = ask(held, types::GpuIsolation::Accounted, &gpus, &none).unwrap_err();
        assert_eq!(refused.reason, ISOLATION);
        assert!(
            refused.message.contains(words) && refused.message.contains("accounted at least"),
            "{refused}"
        );
    }
    let told = ask(
        share("GPU-1", GpuIsolation::Accounted),
        types::GpuIsolation::None,
        &[card("GPU-1", "7.5")],
        &none,
    );
    assert!(told.unwrap().warnings.is_empty());
}

#[test]
fn variables_name_the_devices_and_bound_what_mps_gives() {
    let gpus = [card("GPU-1", "7.5"), divided("GPU-2", "MIG-1")];
    let mps = serves_at("/p");
    let granted = ask(share("GPU-1", GpuIsolation::Mps), types::GpuIsolation::None, &gpus, &mps).unwrap();
    let variables: Vec<String> = granted
        .variables(Some(Path::new("/inside")))
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        variables,
        [
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=8192M",
            "CUDA_MPS_PIPE_DIRECTORY=/inside",
            "CUDA_VISIBLE_DEVICES=GPU-1",
            "NVIDIA_VISIBLE_DEVICES=GPU-1",
        ]
    );
    let of_part = ask(part("GPU-2", "MIG-1"), types::GpuIsolation::None, &gpus, &mps).unwrap();
    assert_eq!(of_part.ids(), ["MIG-1"]);
    assert_eq!(of_part.variables(Some(Path::new("/inside"))).len(), 2, "a part is bounded in hardware");
    let user = grant(
        &spec(types::GpuIsolation::None, "1000"),
        &[share("GPU-1", GpuIsolation::Mps)],
        Facts { off: false, gpus: &gpus, mps: &mps },
    );
    assert!(user.unwrap().unwrap().warnings[0].contains("one user at a time"));
}

#[test]
fn device_nodes_are_those_that_the_driver_tells_and_that_are_there() {
    let gpus = [card("GPU-1", "7.5"), divided("GPU-2", "MIG-1")];
    let mps = Mps::default();
    let none = types::GpuIsolation::None;
    let whole = ask(share("GPU-1", GpuIsolation::Accounted), none, &gpus, &mps).unwrap();
    let of_part = ask(part("GPU-2", "MIG-1"), none, &gpus, &mps).unwrap();
    let root = tempfile::tempdir().unwrap();
    let simulated = Nodes::of(&whole, root.path());
    assert!(simulated.there.is_empty());
    assert_eq!(simulated.missing, ["the device node of GPU-1", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (pci, uuid, minor) in [("0000:3b:00.0", "GPU-1", 3), ("0000:af:00.0", "GPU-2", 0)] {
        let text =
            format!("Model: \t\t NVIDIA\nIRQ:   \t\t 64\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n");
        write(&format!("proc/driver/nvidia/gpus/{pci}/information"), &text);
        write(&format!("dev/nvidia{minor}"), "");
    }
    for (at, minor) in [("access", 84), ("ci0/access", 85)] {
        let text = format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\n");
        write(&format!("proc/driver/nvidia/capabilities/gpu0/mig/gi9/{at}"), &text);
        write(&format!("dev/nvidia-caps/nvidia-cap{minor}"), "");
    }
    write("dev/nvidiactl", "");
    write("dev/nvidia-uvm", "");
    let names = |found: &Nodes| -> Vec<String> { found.there.iter().map(|node| node.name.clone()).collect() };
    let found = Nodes::of(&whole, root.path());
    assert_eq!(names(&found), ["/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    assert_eq!(found.there[0].path, root.path().join("dev/nvidia3").display().to_string());
    assert!(found.missing.is_empty());
    let found = Nodes::of(&of_part, root.path());
    let caps = ["/dev/nvidia-caps/nvidia-cap84", "/dev/nvidia-caps/nvidia-cap85"];
    assert_eq!(names(&found), ["/dev/nvidia0", caps[0], caps[1], "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    assert!(found.missing.is_empty());
}
