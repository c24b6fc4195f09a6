use prost_types::Timestamp;
use skerry_proto::gpu::v1::{AbsentFields, AbsentReason, Field, FieldValue};

use super::*;
use crate::render::rows::{cells, headers};
use crate::render::table::Table;

const NAME: &str = "projects/p/nodes/n1/gpus/GPU-5d2fa1b2-0000-0000-0000-000000000001";

fn allocation(instance: &str, share: pb::GpuShare, isolation: Isolation) -> pb::Allocation {
    pb::Allocation {
        gpu: NAME.into(),
        instance: instance.into(),
        share: Some(share),
        isolation: isolation.into(),
        ..Default::default()
    }
}

fn gib(count: i64) -> pb::GpuShare {
    pb::GpuShare { memory_bytes: Some(count << 30), ..Default::default() }
}

fn gpu(allocations: Vec<pb::Allocation>) -> pb::Gpu {
    let device = pb::Device {
        uuid: NAME.rsplit('/').next().unwrap().into(),
        vendor: Vendor::Nvidia.into(),
        model: "Tesla T4".into(),
        architecture: "Turing".into(),
        memory_bytes: 16 << 30,
        driver_version: "550.54.15".into(),
        cuda_version: "12.4".into(),
        compute_capability: "7.5".into(),
        pci_address: "0000:3b:00.0".into(),
        ecc: Some(true),
        ..Default::default()
    };
    let reason = pb::HealthReason {
        reason: "TooHot".into(),
        state: State::Warning.into(),
        message: "the chip has 91 °C".into(),
        since: Some(Timestamp { seconds: 940, nanos: 0 }),
        effect: Effect::NoSchedule.into(),
    };
    let health = pb::Health { state: State::Warning.into(), reasons: vec![reason] };
    let status = pb::GpuStatus { health: Some(health), allocations };
    pb::Gpu { name: NAME.into(), device: Some(device), status: Some(status) }
}

#[test]
fn a_line_tells_what_it_is_how_it_is_and_what_is_booked() {
    let shared = gpu(vec![
        allocation("a/s/n1/0", gib(4), Isolation::Mps),
        allocation("a/s/n1/1", gib(4), Isolation::Mps),
        allocation("b/s/n1/0", gib(4), Isolation::Accounted),
    ]);
    let rows = [cells(&Item::Gpu(Box::new(shared)), false, 1000)];
    assert_eq!(
        Table::new(&headers(Type::Gpu, false), None, true).rows(&rows),
        "NODE   INDEX   MODEL      UUID           MEMORY     HEALTH             BOOKED\n\
         n1     0       Tesla T4   GPU-5d2fa1b2   16.0 GiB   Warning (TooHot)   2 apps, 12.0/16.0 GiB\n"
    );
    let wide = cells(&Item::Gpu(Box::new(gpu(vec![]))), true, 1000);
    assert_eq!(wide.len(), headers(Type::Gpu, true).len());
    assert!(NAME.ends_with(&wide[3]) && wide[6] == "-", "{wide:?}");
}

#[test]
fn what_is_booked_is_told_also_without_sizes() {
    let told =
        |allocations: Vec<pb::Allocation>| cells(&Item::Gpu(Box::new(gpu(allocations))), false, 0)[6].clone();
    let share = pb::GpuShare::default;
    assert_eq!(told(vec![allocation("a/s/n1/0", share(), Isolation::Accounted)]), "1 app");
    let whole = pb::GpuShare { whole: true, ..share() };
    assert_eq!(told(vec![allocation("a/s/n1/0", whole, Isolation::Exclusive)]), "1 app, all of it");
    assert_eq!(of(512 << 20, 16 << 30), "512.0 MiB/16.0 GiB");
}

#[test]
fn health_is_a_word_with_its_reasons() {
    assert_eq!(health(None), "-");
    assert_eq!(health(Some(&pb::Health { state: State::Ok.into(), reasons: vec![] })), "OK");
    let gone = pb::HealthReason { reason: "NodeDisconnected".into(), ..Default::default() };
    let unknown = pb::Health { state: State::Unknown.into(), reasons: vec![gone] };
    assert_eq!(health(Some(&unknown)), "Unknown (NodeDisconnected)");
}

#[test]
fn a_gpu_is_shown_with_all_that_is_known_of_it() {
    let numbers =
        [(Field::GpuUtilizationPercent, 83), (Field::MemoryUsedBytes, 3 << 30), (Field::Processes, 2)];
    let process = |pid, instance: &str, command: &str, memory| pb::Process {
        pid,
        instance: instance.into(),
        command: command.into(),
        memory_bytes: memory,
        utilization_percent: Some(40),
    };
    let sample = pb::Sample {
        time: Some(Timestamp { seconds: 998, nanos: 0 }),
        values: numbers.map(|(field, value)| FieldValue { field: field.into(), value }).to_vec(),
        absent: vec![AbsentFields {
            reason: AbsentReason::NotSupported.into(),
            fields: vec![Field::EncoderUtilizationPercent.into(), Field::DecoderUtilizationPercent.into()],
        }],
        processes: vec![process(7, "a/s/n1/0", "", Some(2 << 30)), process(9, "", "python3\x1b[2J", None)],
        ..Default::default()
    };
    let readings = Readings { sample: Some(sample), ..Default::default() };
    let text =
        describe(&gpu(vec![allocation("a/s/n1/0", gib(4), Isolation::Accounted)]), &readings, &[], 1000);
    assert!(
        text.starts_with(
            "\
UUID:        GPU-5d2fa1b2-0000-0000-0000-000000000001
Node:        n1
Project:     p
Index:       0
Model:       Tesla T4 (Turing 7.5)
Memory:      16.0 GiB
PCI:         0000:3b:00.0
Driver:      550.54.15, CUDA up to 12.4
ECC:         on
MIG:         not possible, or not known
Health:      Warning
Booked:      1 app, 4.0/16.0 GiB
Sample:      1970-01-01T00:16:38Z (2s ago)

What is wrong:
  REASON   HEALTH    SINCE   EFFECT       MESSAGE
  TooHot   Warning   60s     NoSchedule   the chip has 91 °C

Measured:
  Utilisation     GPU 83 %; not supported: encoder, decoder; not told: memory
"
        ),
        "{text}"
    );
    assert!(
        text.ends_with(
            "
Allocations:
  INSTANCE   SHARE     ISOLATION   PART
  a/s/n1/0   4.0 GiB   accounted   -

Processes:
  PID   INSTANCE OR COMMAND   MEMORY    GPU
  7     a/s/n1/0              2.0 GiB   40 %
  9     python3 [2J           -         40 %

Events: none
"
        ),
        "{text}"
    );
}

#[test]
fn without_a_sample_it_is_told_why() {
    let readings = Readings { trouble: Some("the node is not connected".into()), ..Default::default() };
    let text = describe(&gpu(vec![]), &readings, &[], 1000);
    assert!(text.contains("\nSample:      none: the node is not connected\n"), "{text}");
    assert!(text.contains("\nProcesses: not known\n") && !text.contains("Measured"), "{text}");
}

#[test]
fn parts_are_told_with_what_is_used_of_them() {
    let mut divided = gpu(vec![pb::Allocation {
        mig_device: "MIG-1".into(),
        ..allocation(
            "a/s/n1/0",
            pb::GpuShare { mig_profile: "1g.10gb".into(), ..Default::default() },
            Isolation::Mig,
        )
    }]);
    let part = |index, uuid: &str| pb::MigDevice {
        uuid: uuid.into(),
        index,
        profile: "1g.10gb".into(),
        memory_bytes: 10 << 30,
        ..Default::default()
    };
    let device = divided.device.as_mut().unwrap();
    device.mig_devices = vec![part(0, "MIG-1"), part(1, "MIG-2")];
    device.mig_mode = MigMode::Enabled.into();
    let sample = pb::Sample {
        mig_device: "MIG-1".into(),
        values: vec![FieldValue { field: Field::MemoryUsedBytes.into(), value: 1 << 30 }],
        ..Default::default()
    };
    let readings = Readings { parts: vec![sample], ..Default::default() };
    let text = describe(&divided, &readings, &[], 1000);
    assert!(text.contains("  0       1g.10gb   MIG-1   10.0 GiB   1.0 GiB   -\n"), "{text}");
    assert!(text.contains("  a/s/n1/0   1g.10gb   mig         0 (1g.10gb)\n"), "{text}");
    assert!(text.contains("\nBooked:      1 app, 10.0/16.0 GiB\n"), "{text}");
    assert_eq!(cells(&Item::Gpu(Box::new(divided)), true, 0)[11], "2 x 1g.10gb");
}
