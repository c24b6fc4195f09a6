//! What processes see of GPUs: what is booked for them, and nothing where nothing is.

use std::path::PathBuf;

use skerry_agent::Grants;
use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::Runtime as _;
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare};
use skerry_proto::gpu::v1::{Device, device};
use skerry_proto::types::v1::machine_status::Gpu;

use super::support::{World, change, shell};

const SEES: &str =
    "echo \"cuda=${CUDA_VISIBLE_DEVICES-unset} pipe=${CUDA_MPS_PIPE_DIRECTORY-unset} end\"; exec sleep 1000";

fn machine(world: &mut World, gpu: &str, pipe: Option<&str>) {
    let device = Device {
        uuid: gpu.to_owned(),
        vendor: device::Vendor::Nvidia.into(),
        memory_bytes: 16 << 30,
        compute_capability: "7.5".to_owned(),
        ..Device::default()
    };
    let gpus = vec![Gpu { device: Some(device), ..Gpu::default() }];
    world.config.gpus = Grants::fixed(gpus, pipe.map(PathBuf::from));
    world.another_agent();
}

fn booked(spec: &InstanceSpec) -> InstanceSpec {
    let share = GpuShare::Part { memory_bytes: Some(1 << 30), compute_percent: None };
    let gpu = GpuId::parse("GPU-1").expect("a UUID");
    InstanceSpec { gpus: vec![GpuBooking { gpu, share, isolation: GpuIsolation::Mps }], ..spec.clone() }
}

#[tokio::test]
async fn a_process_sees_what_is_booked_for_it_and_without_a_booking_nothing() {
    let mut world = World::new();
    let plain = shell(SEES);
    world.start(&plain).await.expect("started");
    world.has_written(&plain, "stdout.log", "cuda=unset pipe=unset end").await;
    machine(&mut world, "GPU-1", None);
    let without = change(&plain, "two", |_| {});
    world.start(&without).await.expect("started");
    world.has_written(&without, "stdout.log", "cuda= pipe=unset end").await;
    let own = change(&plain, "three", |service| {
        service.env.insert("CUDA_VISIBLE_DEVICES".into(), "0".into());
    });
    world.start(&own).await.expect("started");
    world.has_written(&own, "stdout.log", "cuda=0 pipe=unset end").await;
    let with = booked(&change(&own, "four", |_| {}));
    world.start(&with).await.expect("started");
    world.has_written(&with, "stdout.log", "cuda=GPU-1 pipe=unset end").await;
    assert_eq!(world.seen(&with).await.expect("it is there").gpus[0].isolation, GpuIsolation::Accounted);
    machine(&mut world, "GPU-1", Some("/run/mps"));
    let with = booked(&change(&plain, "five", |_| {}));
    world.start(&with).await.expect("started");
    world.has_written(&with, "stdout.log", "cuda=GPU-1 pipe=/run/mps end").await;
    assert_eq!(world.seen(&with).await.expect("it is there").gpus, with.gpus, "also for the next agent");
}

#[tokio::test]
async fn without_its_gpu_it_is_not_started() {
    let mut world = World::new();
    machine(&mut world, "GPU-2", None);
    let spec = booked(&shell(SEES));
    for refused in [world.runtime.prepare(&spec, &|_| {}).await, world.start(&spec).await] {
        let refused = refused.expect_err("it is not there");
        assert!(refused.reason == "GpuMissing" && refused.message.contains("GPU-1"), "{refused}");
    }
    assert!(world.seen(&spec).await.is_none_or(|seen| seen.runtime_id.is_empty()));
}
