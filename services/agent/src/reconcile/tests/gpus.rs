//! Who uses more of a GPU than is booked for it, as the loop takes it.

use skerry_model::GpuIsolation;
use skerry_proto::gpu::v1 as gpu;
use skerry_proto::gpu::v1::allocation::Isolation;
use skerry_proto::types::v1::machine_status::Gpu;

use super::*;
use crate::gpu::{Above, GpuLink, Mps, Overuse, Shares, sharing};

const NAME: &str = "infer/web/n1/0";

fn card() -> Gpu {
    let device = gpu::Device {
        uuid: "GPU-1".to_owned(),
        vendor: gpu::device::Vendor::Nvidia.into(),
        memory_bytes: 16 << 30,
        compute_capability: "7.5".to_owned(),
        ..Default::default()
    };
    Gpu { device: Some(device), ..Gpu::default() }
}

/// A service with a share of it, whose instance somebody booked with MPS.
fn wanted(change: impl FnOnce(&mut pb::ServiceSpec)) -> Desired {
    let mut web = service("web");
    web.gpu = Some(pb::GpuRequest { memory_bytes: Some(1 << 30), ..Default::default() });
    change(&mut web);
    let mut resources = resources_of(&[("infer", vec![web])]);
    for resource in &mut resources {
        if let Some(gateway::resource::Body::Instance(instance)) = &mut resource.body {
            instance.gpus = vec![gpu::Booking {
                gpu: "GPU-1".to_owned(),
                share: Some(gpu::GpuShare { memory_bytes: Some(1 << 30), ..Default::default() }),
                isolation: Isolation::Mps.into(),
                ..Default::default()
            }];
        }
    }
    joined(&resources)
}

/// A loop that knows of the card, and the collector's end.
fn bench(desired: Desired) -> (Bench, Shares, watch::Sender<Mps>) {
    let (_, gpus) = watch::channel(Arc::new(vec![card()]));
    let (mps_in, mps) = watch::channel(Mps::default());
    let (shares, link): (Shares, GpuLink) = sharing(gpus, mps);
    let docker = Arc::new(FakeRuntime::new(RuntimeKind::Docker));
    let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
    let bench = Bench::of(docker, process, Arc::new(desired), |reconciler| reconciler.with_gpus(link));
    (bench, shares, mps_in)
}

fn above(since_ms: i64, stop: bool) -> Vec<Overuse> {
    let above = Above::Memory { used: 3 << 30, booked: 1 << 30 };
    let instance = InstanceName::parse(NAME).unwrap();
    vec![Overuse { instance, gpu: "GPU-1".to_owned(), above, since_ms, stop }]
}

fn status(bench: &Bench) -> pb::InstanceStatus {
    bench.told.lock().unwrap().statuses.get(NAME).cloned().unwrap_or_default()
}

fn stops(bench: &Bench) -> usize {
    bench.calls().iter().filter(|call| call.starts_with("kill ")).count()
}

#[tokio::test(start_paused = true)]
async fn one_that_uses_too_much_is_stopped_as_a_failed_run_and_started_again_with_its_wait() {
    on_local(async {
        // One that ends well when it is asked to, and that would stay so.
        let on_failure = |service: &mut pb::ServiceSpec| {
            service.restart = Some(pb::RestartPolicy {
                policy: pb::restart_policy::Policy::OnFailure.into(),
                ..Default::default()
            });
        };
        let (bench, shares, _mps) = bench(wanted(on_failure));
        bench.docker.state().stop_code = Some(0);
        bench.until("it runs", |b| b.ready(NAME)).await;
        assert_eq!(shares.booked_now(), [(NAME.to_owned(), skerry_model::GpuIsolation::Accounted)]);
        // Seen before this copy was started.
        shares.tell_overuse(above(0, true));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((stops(&bench), bench.events("GpuOveruse")), (0, 0), "another run is meant");
        shares.tell_overuse(above(i64::MAX, true));
        bench.until("it is stopped", |b| b.reason(NAME) == "GpuOveruse").await;
        shares.tell_overuse(Vec::new());
        let told = status(&bench);
        assert_eq!(told.phase(), Phase::Backoff);
        assert!(told.message.contains("more memory of GPU-1 than the 1024 MiB"), "{}", told.message);
        assert_eq!(told.terminations[0].reason, "GpuOveruse");
        assert_eq!(told.exit_code, Some(137), "it did not end well");
        bench.until("it runs again", |b| b.ready(NAME) && status(b).restarts == 1).await;
        assert_eq!((stops(&bench), status(&bench).reason.as_str()), (1, ""));
        assert!(status(&bench).warnings.is_empty());
        // Told when it was found, and when it had ended.
        assert_eq!(bench.events("GpuOveruse"), 2);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_only_reported_runs_on_with_a_warning_for_as_long_as_it_is_so() {
    on_local(async {
        let (bench, shares, _mps) = bench(wanted(|_| ()));
        bench.until("it runs", |b| b.ready(NAME)).await;
        for used in 3..6 {
            let mut found = above(i64::MAX, false);
            found[0].above = Above::Memory { used: used << 30, booked: 1 << 30 };
            shares.tell_overuse(found);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        bench.until("it is warned of", |b| status(b).warnings.len() == 1).await;
        assert!(status(&bench).warnings[0].contains("GPU-1"), "{:?}", status(&bench).warnings);
        assert_eq!((stops(&bench), bench.events("GpuOveruse")), (0, 1), "once");
        shares.tell_overuse(Vec::new());
        bench.until("and no more", |b| status(b).warnings.is_empty()).await;
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_it_was_really_granted_is_told() {
    on_local(async {
        let (bench, _shares, mps) = bench(wanted(|_| ()));
        let isolation = |b: &Bench| status(b).gpus.first().map(gpu::Booking::isolation);
        bench.until("it runs", |b| b.ready(NAME)).await;
        assert_eq!(isolation(&bench), Some(Isolation::Accounted), "no daemon runs");
        // It was not made with the daemon's pipe: that there is one now changes nothing for it.
        mps.send_replace(Mps::Serves("/pipe".into()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(isolation(&bench), Some(Isolation::Accounted));
        bench.docker.stir(|state| {
            let copies = state.instances.values_mut().flat_map(|one| &mut one.gpus);
            copies.for_each(|booking| booking.isolation = GpuIsolation::Mps);
        });
        bench.until("it has it", |b| isolation(b) == Some(Isolation::Mps)).await;
        bench.end().await;
    })
    .await;
}

/// The same service in an app of another name, with all of the card.
fn other() -> Desired {
    let mut web = service("web");
    web.gpu = Some(pb::GpuRequest { count: Some(1), ..Default::default() });
    let mut resources = resources_of(&[("train", vec![web])]);
    for resource in &mut resources {
        if let Some(gateway::resource::Body::Instance(instance)) = &mut resource.body {
            instance.gpus = vec![gpu::Booking {
                gpu: "GPU-1".to_owned(),
                share: Some(gpu::GpuShare { whole: true, ..Default::default() }),
                isolation: Isolation::Exclusive.into(),
                ..Default::default()
            }];
        }
    }
    joined(&resources)
}

#[tokio::test(start_paused = true)]
async fn what_is_being_stopped_has_its_gpu_until_it_has_ended_whichever_agent_looks() {
    on_local(async {
        const OTHER: &str = "train/web/n1/0";
        let (first, _shares, _mps) = bench(wanted(|_| ()));
        first.until("it runs", |b| b.ready(NAME)).await;
        first.docker.state().lasting.insert(InstanceName::parse(NAME).unwrap());
        first.want(other());
        let has = |b: &Bench| status(b).gpus.len() == 1 && status(b).phase() == Phase::Stopping;
        first.until("it is being stopped, and has its share", has).await;
        first.until("the other waits", |b| b.reason(OTHER) == "GpuBusy").await;
        let docker = Arc::clone(&first.docker);
        first.end().await;
        // An agent that never knew what it was.
        let (_, gpus) = watch::channel(Arc::new(vec![card()]));
        let (shares, link) = sharing(gpus, watch::channel(Mps::default()).1);
        let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
        let next = Bench::of(Arc::clone(&docker), process, Arc::new(other()), |one| one.with_gpus(link));
        next.until("the other waits", |b| b.reason(OTHER) == "GpuBusy").await;
        assert_eq!(shares.booked_now(), [(NAME.to_owned(), GpuIsolation::Accounted)], "and is watched");
        docker.state().lasting.clear();
        next.until("the other runs", |b| b.ready(OTHER)).await;
        next.end().await;
    })
    .await;
}
