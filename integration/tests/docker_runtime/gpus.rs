//! What containers are given of GPUs by an engine that knows nothing of them: device nodes as they are found, variables, the pipes of MPS.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use skerry_agent::Grants;
use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::{Observed, RunState, Runtime as _};
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare};
use skerry_proto::gpu::v1::{Device, device};
use skerry_proto::types::v1::machine_status::Gpu;
use skerry_testing::eventually;

use super::world::{SOON, World, idle, is_running, runtime};

const UUID: &str = "GPU-11111111-2222-3333-4444-555555555555";

fn card(uuid: &str) -> Gpu {
    let device = Device {
        uuid: uuid.to_owned(),
        vendor: device::Vendor::Nvidia.into(),
        memory_bytes: 16 << 30,
        compute_capability: "7.5".to_owned(),
        ..Device::default()
    };
    Gpu { device: Some(device), ..Gpu::default() }
}

/// An instance with a share of it.
fn booked(service: &str) -> InstanceSpec {
    let share = GpuShare::Part { memory_bytes: Some(4 << 30), compute_percent: Some(25) };
    let gpu = GpuId::parse(UUID).expect("a UUID");
    InstanceSpec { gpus: vec![GpuBooking { gpu, share, isolation: GpuIsolation::Mps }], ..idle(service) }
}

/// The same world after the agent found this of GPUs.
fn with(world: &mut World, grants: Grants) {
    world.runtime = runtime(&world.docker, &world.owner, &world.dir).with_grants(grants);
}

async fn seen(world: &World, spec: &InstanceSpec) -> Observed {
    let all = world.runtime.observe().await.expect("Docker answers");
    all.into_iter().find(|one| one.instance == spec.name).expect("it is there")
}

async fn runs(world: &World, spec: &InstanceSpec) {
    eventually("it runs", SOON, async || {
        let all = world.runtime.observe().await?;
        let one = all.iter().find(|one| one.instance == spec.name);
        if is_running(one) { Ok(()) } else { anyhow::bail!("{one:?}") }
    })
    .await;
}

fn variables(inspected: &Value) -> Vec<String> {
    let all = inspected["Config"]["Env"].as_array().cloned().unwrap_or_default();
    let all = all.iter().filter_map(Value::as_str);
    all.filter(|one| one.starts_with("CUDA_") || one.starts_with("NVIDIA_")).map(str::to_owned).collect()
}

/// A driver of this machine, as far as files go: its node is that of `/dev/null`.
fn driver(root: &Path) {
    let gpus = root.join("proc/driver/nvidia/gpus/0000:3b:00.0");
    fs::create_dir_all(&gpus).expect("a directory");
    fs::create_dir_all(root.join("dev")).expect("a directory");
    fs::write(gpus.join("information"), format!("GPU UUID: \t {UUID}\nDevice Minor: \t 0\n"))
        .expect("a file");
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
        let made = Command::new("mknod").arg(root.join("dev").join(node)).args(["c", "1", "3"]).status();
        assert!(made.expect("mknod runs").success(), "tests with Docker run as root");
    }
}

#[tokio::test]
async fn one_with_a_booking_has_its_devices_and_one_without_has_none() {
    let Some(mut world) = World::new("gpus") else { return };
    let root = tempfile::tempdir().expect("a directory");
    driver(root.path());
    with(&mut world, Grants::fixed(vec![card(UUID)], None).below(root.path()));
    let (web, plain) = (booked("web"), idle("plain"));
    for spec in [&web, &plain] {
        world.runtime.ensure(spec, &|_| ()).await.expect("it starts");
        runs(&world, spec).await;
    }
    let inspected = world.inspect(&web);
    assert_eq!(
        variables(&inspected),
        [format!("CUDA_VISIBLE_DEVICES={UUID}"), format!("NVIDIA_VISIBLE_DEVICES={UUID}")]
    );
    let devices = inspected["HostConfig"]["Devices"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = devices.iter().filter_map(|one| one["PathInContainer"].as_str()).collect();
    assert_eq!(names, ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    let sees = ["sh", "-c", "test -c /dev/nvidia0 && test -c /dev/nvidiactl && echo x > /dev/nvidia0"];
    let sees = sees.map(str::to_owned);
    assert_eq!(world.runtime.exec(&web.name, &sees).await.expect("it runs"), 0, "it may use them");
    assert!(seen(&world, &web).await.warnings[0].contains("its image brings them"));
    let inspected = world.inspect(&plain);
    assert!(variables(&inspected).is_empty());
    assert!(inspected["HostConfig"]["Devices"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(world.runtime.exec(&plain.name, &sees).await.expect("it runs"), 1);
    let one = seen(&world, &plain).await;
    assert!(one.warnings.is_empty() && one.gpus.is_empty());
    let labels = &inspected["Config"]["Labels"];
    assert_eq!(labels["skerry.io/gpu-bookings"], "", "what its image says of bookings does not count");
}

#[tokio::test]
async fn a_simulated_gpu_has_no_nodes_and_the_instance_is_told_so() {
    let Some(mut world) = World::new("gpus-simulated") else { return };
    let root = tempfile::tempdir().expect("a directory");
    with(&mut world, Grants::fixed(vec![card(UUID)], None).below(root.path()));
    let web = booked("web");
    world.runtime.ensure(&web, &|_| ()).await.expect("it starts");
    runs(&world, &web).await;
    let warnings = seen(&world, &web).await.warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("/dev/nvidiactl"), "{warnings:?}");
    assert_eq!(variables(&world.inspect(&web)).len(), 2);
}

#[tokio::test]
async fn a_client_of_mps_is_made_anew_where_the_daemon_is_gone_when_it_starts_again() {
    let Some(mut world) = World::new("gpus-mps") else { return };
    let (root, pipe) = (tempfile::tempdir().expect("a directory"), world.dir.path().join("pipe"));
    fs::create_dir_all(&pipe).expect("a directory");
    fs::write(pipe.join("control"), "").expect("a file");
    with(&mut world, Grants::fixed(vec![card(UUID)], Some(pipe)).below(root.path()));
    let web = booked("web");
    world.runtime.ensure(&web, &|_| ()).await.expect("it starts");
    runs(&world, &web).await;
    let expected = [
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25".to_owned(),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=4096M".to_owned(),
        "CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps".to_owned(),
        format!("CUDA_VISIBLE_DEVICES={UUID}"),
        format!("NVIDIA_VISIBLE_DEVICES={UUID}"),
    ];
    assert_eq!(variables(&world.inspect(&web)), expected);
    let sees = ["test", "-f", "/tmp/nvidia-mps/control"].map(str::to_owned);
    assert_eq!(world.runtime.exec(&web.name, &sees).await.expect("it runs"), 0);
    let first = seen(&world, &web).await;
    assert_eq!(first.gpus, web.gpus);
    // The daemon is gone: one that runs is left alone, one that is started is made anew without it.
    with(&mut world, Grants::fixed(vec![card(UUID)], None).below(root.path()));
    world.runtime.ensure(&web, &|_| ()).await.expect("it runs");
    assert_eq!(seen(&world, &web).await.runtime_id, first.runtime_id);
    world.runtime.stop(&web.name).await.expect("it stops");
    world.runtime.ensure(&web, &|_| ()).await.expect("it starts");
    runs(&world, &web).await;
    let second = seen(&world, &web).await;
    assert!(second.runtime_id != first.runtime_id);
    assert_eq!(second.gpus[0].isolation, GpuIsolation::Accounted);
    assert_eq!(variables(&world.inspect(&web)).len(), 2);
}

#[tokio::test]
async fn without_its_gpu_nothing_is_started_and_nothing_that_runs_is_stopped() {
    let Some(mut world) = World::new("gpus-gone") else { return };
    let root = tempfile::tempdir().expect("a directory");
    let other = || Grants::fixed(vec![card("GPU-other")], None).below(root.path());
    with(&mut world, other());
    let web = booked("web");
    let refused = world.runtime.ensure(&web, &|_| ()).await.expect_err("it is not there");
    assert!(refused.reason == "GpuMissing" && refused.message.contains(UUID), "{refused}");
    assert_eq!(
        world.runtime.prepare(&web, &|_| ()).await.expect_err("nor is it prepared").reason,
        "GpuMissing"
    );
    assert!(world.containers().is_empty());
    with(&mut world, Grants::fixed(vec![card(UUID)], None).below(root.path()));
    world.runtime.ensure(&web, &|_| ()).await.expect("it starts");
    runs(&world, &web).await;
    let first = seen(&world, &web).await.runtime_id;
    with(&mut world, other());
    world.runtime.ensure(&web, &|_| ()).await.expect("it runs on");
    // Another booking would take its place, and cannot be had.
    let changed = InstanceSpec { fingerprint: "other".to_owned(), ..web.clone() };
    assert_eq!(world.runtime.ensure(&changed, &|_| ()).await.expect_err("gone").reason, "GpuMissing");
    let still = seen(&world, &web).await;
    assert!(still.runtime_id == first && is_running(Some(&still)));
    world.runtime.stop(&web.name).await.expect("it stops");
    assert_eq!(world.runtime.ensure(&web, &|_| ()).await.expect_err("gone").reason, "GpuMissing");
}

#[tokio::test]
async fn what_is_killed_is_not_asked_and_stays_there_as_if_it_had_ended_by_itself() {
    let Some(world) = World::new("killed") else { return };
    // It ends well when it is asked to.
    let web = idle("web");
    world.runtime.ensure(&web, &|_| ()).await.expect("it starts");
    runs(&world, &web).await;
    world.runtime.kill(&web.name).await.expect("it is killed");
    eventually("it has ended", SOON, async || match seen(&world, &web).await.state {
        RunState::Exited { code: Some(137), .. } => Ok(()),
        state => anyhow::bail!("{state:?}"),
    })
    .await;
    world.runtime.kill(&web.name).await.expect("what does not run is left as it is");
    assert_eq!(world.containers().len(), 1);
}
