//! Tables: engines and machines and the way that follows, and what Docker is asked for in each.

use std::path::PathBuf;

use bollard::models::{HostConfig, Runtime};
use skerry_model::app::Isolation;
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare};

use super::super::tests::plain;
use super::*;
use crate::gpu::read_noted;

const GPU: &str = "GPU-5a8e6a6c-5c4f-4d8e-9d0f-0f1d2c3b4a59";

fn granted(pipe: Option<&str>) -> Granted {
    let share = GpuShare::Part { memory_bytes: Some(4 << 30), compute_percent: None };
    let isolation = if pipe.is_some() { GpuIsolation::Mps } else { GpuIsolation::Accounted };
    Granted {
        bookings: vec![GpuBooking { gpu: GpuId::parse(GPU).unwrap(), share, isolation }],
        devices: Vec::new(),
        pipe: pipe.map(PathBuf::from),
        warnings: Vec::new(),
    }
}

fn nodes() -> Nodes {
    let node = |name: &str| Node { path: name.to_owned(), name: name.to_owned() };
    Nodes { there: vec![node("/dev/nvidia0"), node("/dev/nvidiactl")], missing: Vec::new() }
}

fn body() -> ContainerCreateBody {
    let env = Some(vec!["A=1".to_owned(), "NVIDIA_VISIBLE_DEVICES=all".to_owned()]);
    ContainerCreateBody { env, ..ContainerCreateBody::default() }
}

#[test]
fn the_way_is_the_best_that_engine_and_machine_have() {
    let describes_it =
        |id: &str| format!("cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: {id}\n");
    let machine = |cdi: &str| Machine { cdi: vec![cdi.to_owned()], nodes: nodes() };
    let engine = |nvidia, api, dirs: &[&str]| Engine {
        nvidia,
        api,
        cdi_dirs: dirs.iter().map(ToString::to_string).collect(),
        ..Engine::default()
    };
    let dirs: &[&str] = &["/etc/cdi", "/var/run/cdi"];
    let by_nodes = Way::Nodes(nodes());
    let table = [
        (engine(true, (1, 41), &[]), machine(""), Way::Runtime),
        (engine(true, (1, 51), dirs), machine(&describes_it(GPU)), Way::Runtime),
        (engine(false, (1, 44), dirs), machine(&describes_it(GPU)), Way::Cdi),
        (
            engine(false, (1, 51), dirs),
            machine(&format!("{{\"kind\":\"nvidia.com/gpu\",\"devices\":[{{\"name\":\"{GPU}\"}}]}}")),
            Way::Cdi,
        ),
        (engine(false, (1, 43), dirs), machine(&describes_it(GPU)), by_nodes.clone()),
        (engine(false, (1, 51), &[]), machine(&describes_it(GPU)), by_nodes.clone()),
        (engine(false, (1, 51), dirs), machine(&describes_it(&format!("{GPU}0"))), by_nodes.clone()),
        (
            engine(false, (1, 51), dirs),
            machine(&describes_it(GPU).replace("nvidia.com", "example.org")),
            by_nodes.clone(),
        ),
        (engine(false, (1, 41), &[]), machine(""), by_nodes),
    ];
    for (n, (engine, machine, expected)) in table.into_iter().enumerate() {
        assert_eq!(way(&engine, machine, &[GPU.to_owned()]), expected, "row {n}");
    }
}

#[test]
fn an_engine_tells_whether_it_has_nvidias_runtime() {
    let runtimes = |name: &str| Some([(name.to_owned(), Runtime::default())].into());
    let info = SystemInfo {
        runtimes: runtimes("nvidia"),
        default_runtime: Some("nvidia".into()),
        ..SystemInfo::default()
    };
    let engine = Engine::of(&info, (1, 41), false);
    assert!(engine.nvidia && engine.nvidia_by_default);
    let info = SystemInfo { runtimes: runtimes("runc"), ..SystemInfo::default() };
    assert!(!Engine::of(&info, (1, 41), false).nvidia);
    assert!(Engine::of(&info, (1, 41), true).nvidia, "its hook alone will do");
}

#[test]
fn what_is_granted_is_asked_for_in_each_way() {
    let with = |way: &Way| with_gpus(body(), &plain(), &granted(None), way);
    let host = |body: &ContainerCreateBody| body.host_config.clone().unwrap_or_default();
    let by_runtime = with(&Way::Runtime);
    let request = host(&by_runtime).device_requests.unwrap().remove(0);
    assert_eq!((request.driver.as_deref(), request.device_ids), (Some("nvidia"), Some(vec![GPU.to_owned()])));
    assert_eq!(request.capabilities, Some(vec![["gpu", "compute", "utility"].map(str::to_owned).to_vec()]));
    let by_cdi = host(&with(&Way::Cdi)).device_requests.unwrap().remove(0);
    let named = vec![format!("nvidia.com/gpu={GPU}")];
    assert_eq!((by_cdi.driver.as_deref(), by_cdi.device_ids), (Some("cdi"), Some(named)));
    let by_nodes = with(&Way::Nodes(nodes()));
    let devices = host(&by_nodes).devices.unwrap();
    assert_eq!(devices[0].path_in_container.as_deref(), Some("/dev/nvidia0"));
    assert_eq!((devices.len(), host(&by_nodes).device_requests), (2, None));
    let warning = |body: &ContainerCreateBody| body.labels.clone().unwrap().remove(LABEL_GPU_WARNINGS);
    assert_eq!(warning(&by_runtime), None);
    assert!(warning(&by_nodes).unwrap().contains("its image brings them"));
    let missing = Nodes { missing: vec!["/dev/nvidiactl".into()], ..Nodes::default() };
    assert!(warning(&with(&Way::Nodes(missing))).unwrap().contains("lacks /dev/nvidiactl"));
    for body in [by_runtime, by_nodes] {
        let env = [
            "A=1".to_owned(),
            format!("CUDA_VISIBLE_DEVICES={GPU}"),
            format!("NVIDIA_VISIBLE_DEVICES={GPU}"),
        ];
        assert_eq!(body.env, Some(env.to_vec()), "what its spec says of devices does not count");
        let labels = body.labels.unwrap();
        assert_eq!(labels[LABEL_GPUS], GPU);
        assert_eq!(read_noted(&labels[LABEL_GPU_BOOKINGS]), granted(None).bookings);
        assert_eq!(body.host_config.unwrap().mounts, None, "nothing of MPS");
    }
}

#[test]
fn a_client_of_mps_has_the_pipes_and_the_shared_memory_of_the_daemon() {
    let mounts = |container: &Container| -> Vec<(String, String)> {
        let made = with_gpus(body(), container, &granted(Some("/data/mps/pipe")), &Way::Runtime);
        assert!(made.labels.as_ref().unwrap()[LABEL_GPUS].ends_with(";mps"));
        assert!(made.env.unwrap().contains(&"CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps".to_owned()));
        let mounts = made.host_config.unwrap().mounts.unwrap().into_iter();
        mounts.map(|mount| (mount.source.unwrap(), mount.target.unwrap())).collect()
    };
    let pipes = ("/data/mps/pipe".to_owned(), "/tmp/nvidia-mps".to_owned());
    let memory = ("/dev/shm".to_owned(), "/dev/shm".to_owned());
    assert_eq!(mounts(&plain()), [pipes.clone(), memory]);
    let isolation = Isolation { ipc: Some(IpcMode::Host), ..Isolation::default() };
    assert_eq!(mounts(&Container { isolation, ..plain() }), [pipes], "it has that of the machine");
    assert_eq!(label(None), "");
}

#[test]
fn who_has_no_booking_gets_nothing_from_a_runtime_that_gives_by_itself() {
    let usual = Engine { nvidia: true, nvidia_by_default: true, ..Engine::default() };
    let plain_body = ContainerCreateBody { host_config: Some(HostConfig::default()), ..Default::default() };
    let void = Some(vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()]);
    assert_eq!(without_gpus(plain_body.clone(), &plain(), &usual).env, void);
    assert_eq!(without_gpus(plain_body.clone(), &plain(), &Engine::default()), plain_body);
    assert_eq!(without_gpus(body(), &plain(), &usual), body(), "its spec says so itself");
    let runtime = |name: &str| Isolation { runtime: Some(name.to_owned()), ..Isolation::default() };
    let by = |name: &str, engine: &Engine| {
        let container = Container { isolation: runtime(name), ..plain() };
        without_gpus(plain_body.clone(), &container, engine).env
    };
    assert_eq!((by("runc", &usual), by("nvidia", &Engine::default())), (None, void));
}
