//! GPUs from what nodes report to what they are assigned, and back.

use skerry_proto::gpu::v1 as gpu;

use super::*;

/// A node that reports GPUs and acknowledges what it is assigned.
fn tells(told: &mut Told, n: usize, health: Option<gpu::Health>) {
    let device = gpu::Device {
        uuid: format!("GPU-{n}"),
        model: "Tesla T4".to_owned(),
        memory_bytes: 16 << 30,
        ..Default::default()
    };
    let gpus = vec![types::machine_status::Gpu { device: Some(device), health, mps: false }];
    let machine = types::MachineStatus { gpus, ..Default::default() };
    let status = stored::StatusRecord {
        machine: Some(machine),
        acknowledged_revision: told.revision,
        ..Default::default()
    };
    told.put(&node(n), &status);
}

fn wants_a_share(told: &mut Told) {
    let process = types::Process { program: "/bin/sleep".to_owned(), ..Default::default() };
    let gpu =
        types::GpuRequest { memory_bytes: Some(8 << 30), compute_percent: Some(25), ..Default::default() };
    let service = types::ServiceSpec {
        name: "s".to_owned(),
        program: Some(types::service_spec::Program::Process(process)),
        gpu: Some(gpu),
        ..Default::default()
    };
    let spec = WireSpec { services: vec![service], ..WireSpec::default() }.encode_to_vec();
    let hash = ContentHash::of(&spec);
    let revision = stored::RevisionRecord { spec: spec.into(), number: 1, ..Default::default() };
    told.put(&RevisionRef { app: app(), hash }, &revision);
    let record = stored::AppRecord { revision: hash.to_string(), ..Default::default() };
    told.put(&app(), &record);
}

fn assigned(told: &Told, n: usize) -> Vec<gpu::Booking> {
    let record = told.project().nodes.get(&node(n).node).and_then(|view| view.assignment.clone());
    record.into_iter().flat_map(|(record, _)| record.instances).flat_map(|one| one.gpus).collect()
}

#[test]
fn a_node_is_assigned_what_its_instances_have_of_its_gpus_and_others_take_over_from_a_sick_one() {
    let mut told = Told::new();
    told.cluster();
    for n in [0, 1] {
        told.node(n, |_| ());
    }
    wants_a_share(&mut told);
    told.settle();
    assert!(told.shown()[0].contains("NoMemberFits"), "{:?}", told.shown());
    for n in [0, 1] {
        tells(&mut told, n, None);
    }
    told.settle();
    let share =
        gpu::GpuShare { memory_bytes: Some(8 << 30), compute_percent: Some(25), ..Default::default() };
    let booking = |n: usize| gpu::Booking {
        gpu: format!("GPU-{n}"),
        share: Some(share.clone()),
        isolation: gpu::allocation::Isolation::Accounted.into(),
        ..Default::default()
    };
    assert_eq!((assigned(&told, 0), assigned(&told, 1)), (vec![booking(0)], vec![]));
    assert_eq!(told.settle(), Vec::<String>::new(), "what is stored is what was planned");
    let seen = status::instances(&told.world, &app().project, told.project(), &app().app);
    assert_eq!(seen[0].status.gpus, [booking(0)]);
    // Its health is another one: whoever has something of it goes to the other node.
    let reason = gpu::HealthReason {
        reason: "FallenOffBus".to_owned(),
        effect: gpu::health_reason::Effect::NoExecute.into(),
        ..Default::default()
    };
    let health = gpu::Health { state: gpu::health::State::Critical.into(), reasons: vec![reason] };
    tells(&mut told, 0, Some(health));
    told.settle();
    assert_eq!((assigned(&told, 0), assigned(&told, 1)), (vec![], vec![booking(1)]));
}
