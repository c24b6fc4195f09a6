//! The loop over runtimes in memory, on paused time.

use std::sync::Mutex;

use skerry_proto::gateway::v1 as gateway;
use tokio::task::JoinHandle;

use super::*;
use crate::desired::join;
use crate::runtime::RunState;
use crate::testing::runtime::FakeRuntime;
use crate::testing::{app, instance_resource, process, revision_resource, service};

mod ahead;
mod room;
mod told;

use pb::InstancePhase as Phase;

mod collect;
mod gpus;
mod hand;
mod updates;

/// Enough for everything but waits of minutes.
const SOON: Duration = Duration::from_secs(20);

/// What was told, as the control plane would know it.
#[derive(Default)]
struct Told {
    statuses: BTreeMap<String, pb::InstanceStatus>,
    images: BTreeMap<String, pb::ImageStatus>,
    events: Vec<pb::Event>,
    looked: bool,
    messages: usize,
}

struct Bench {
    docker: Arc<FakeRuntime>,
    process: Arc<FakeRuntime>,
    desired: watch::Sender<Arc<Desired>>,
    runtimes: watch::Receiver<RuntimeStatuses>,
    told: Arc<Mutex<Told>>,
    link: watch::Sender<bool>,
    good: watch::Receiver<Copies>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Bench {
    fn new() -> Self {
        Self::over(
            Arc::new(FakeRuntime::new(RuntimeKind::Docker)),
            Arc::new(FakeRuntime::new(RuntimeKind::Process)),
            Arc::new(Desired { authoritative: true, ..Desired::default() }),
        )
    }

    fn over(docker: Arc<FakeRuntime>, process: Arc<FakeRuntime>, first: Arc<Desired>) -> Self {
        Self::with(docker, process, first, Ledger::default())
    }

    fn with(
        docker: Arc<FakeRuntime>,
        process: Arc<FakeRuntime>,
        first: Arc<Desired>,
        ledger: Ledger,
    ) -> Self {
        Self::of(docker, process, first, |reconciler| reconciler.with_ledger(ledger))
    }

    fn of(
        docker: Arc<FakeRuntime>,
        process: Arc<FakeRuntime>,
        first: Arc<Desired>,
        goes_on: impl FnOnce(Reconciler) -> Reconciler,
    ) -> Self {
        let (desired, desired_out) = watch::channel(first);
        let (local, mut local_out) = mpsc::channel(LOCAL_MAX);
        let (runtimes_in, runtimes) = watch::channel(RuntimeStatuses::new());
        let node = NodeRef::parse("projects/default/nodes/n1").unwrap();
        let (copies, good) = watch::channel(Copies::default());
        let (link, link_out) = watch::channel(false);
        let links = Links { desired: desired_out, local, runtimes: runtimes_in, copies, link: link_out };
        let all: Vec<Arc<dyn Runtime>> = vec![docker.clone(), process.clone()];
        let reconciler = goes_on(Reconciler::new(node, Clock::default(), all, links));
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = CancellationToken::new();
        let listener = {
            let told = Arc::clone(&told);
            async move {
                while let Some(local) = local_out.recv().await {
                    let mut told = told.lock().unwrap();
                    told.messages += 1;
                    match local {
                        Local::Instance(status) => {
                            assert!(status.ready || !status.reason.is_empty(), "{status:?}");
                            told.statuses.insert(status.instance.clone(), *status);
                        }
                        Local::Gone(name) => drop(told.statuses.remove(&name).expect("it was told before")),
                        Local::Image(status) => drop(told.images.insert(status.id.clone(), *status)),
                        Local::ImageGone(id) => drop(told.images.remove(&id).expect("it was told before")),
                        Local::Event(event) => told.events.push(*event),
                        Local::Looked => told.looked = true,
                    }
                }
            }
        };
        let tasks =
            vec![tokio::task::spawn_local(reconciler.run(stop.clone())), tokio::task::spawn_local(listener)];
        Self { docker, process, desired, runtimes, told, link, good, stop, tasks }
    }

    fn want(&self, desired: Desired) {
        self.desired.send_replace(Arc::new(desired));
    }

    /// Waits until `true` or for `SOON`.
    async fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let tried = tokio::time::timeout(SOON, async {
            while !check(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if tried.await.is_err() {
            let told = self.told.lock().unwrap();
            panic!("not {what}: {:#?} {:#?}", told.statuses, self.docker.state().calls);
        }
    }

    fn phase(&self, name: &str) -> Option<Phase> {
        self.told.lock().unwrap().statuses.get(name).map(pb::InstanceStatus::phase)
    }

    fn reason(&self, name: &str) -> String {
        self.told.lock().unwrap().statuses.get(name).map(|status| status.reason.clone()).unwrap_or_default()
    }

    fn ready(&self, name: &str) -> bool {
        self.told.lock().unwrap().statuses.get(name).is_some_and(|status| status.ready)
    }

    fn events(&self, reason: &str) -> usize {
        self.told.lock().unwrap().events.iter().filter(|event| event.reason == reason).count()
    }

    fn calls(&self) -> Vec<String> {
        self.docker.state().calls.clone()
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn on_local<F: Future>(test: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(test).await
}

/// A desired state of apps of these services.
fn apps(specs: &[(&str, Vec<skerry_proto::types::v1::ServiceSpec>)]) -> Desired {
    joined(&resources_of(specs))
}

fn joined(resources: &[gateway::Resource]) -> Desired {
    let (desired, refusals) = join(resources, true);
    assert_eq!(refusals, []);
    desired
}

fn resources_of(specs: &[(&str, Vec<skerry_proto::types::v1::ServiceSpec>)]) -> Vec<gateway::Resource> {
    let mut resources: Vec<gateway::Resource> = Vec::new();
    for (name, services) in specs {
        let revision = revision_resource(name, &app(services.clone()));
        for service in services {
            resources.push(instance_resource(&format!("{name}/{}/n1/0", service.name), &revision, &[]));
        }
        resources.push(revision);
    }
    resources
}

fn with_env(name: &str, value: &str) -> skerry_proto::types::v1::ServiceSpec {
    let mut service = service(name);
    service.env.insert("VALUE".to_owned(), value.to_owned());
    service
}

fn instance(name: &str) -> InstanceName {
    InstanceName::parse(name).unwrap()
}

const WEB: &str = "app/web/n1/0";
const DB: &str = "app/db/n1/0";

#[tokio::test(start_paused = true)]
async fn what_is_wanted_runs_and_what_is_not_goes() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web"), service("db"), process("job")])]));
        bench.until("all run", |b| b.ready(WEB) && b.ready(DB) && b.ready("app/job/n1/0")).await;
        assert_eq!(bench.process.state().instances.len(), 1);
        assert_eq!(bench.events("Started"), 3);
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("the rest is gone", |b| b.phase(DB).is_none() && b.phase("app/job/n1/0").is_none()).await;
        assert!(bench.ready(WEB));
        let ensures = bench.calls().iter().filter(|call| call.starts_with(&format!("ensure {WEB}"))).count();
        assert_eq!(ensures, 1, "what is unchanged is not touched");
        bench.until("cleaned up", |b| b.docker.state().sweeps > 0).await;
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_takes_over_what_runs() {
    on_local(async {
        let bench = Bench::new();
        let wanted = apps(&[("app", vec![service("web")])]);
        bench.want(wanted.clone());
        bench.until("it runs", |b| b.ready(WEB)).await;
        let (docker, process) = (Arc::clone(&bench.docker), Arc::clone(&bench.process));
        bench.end().await;
        let calls = docker.state().calls.len();
        let bench = Bench::over(docker, process, Arc::new(wanted));
        bench.until("it is told", |b| b.ready(WEB) && b.told.lock().unwrap().looked).await;
        let messages = bench.told.lock().unwrap().messages;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(bench.calls().len(), calls, "nothing was done to it");
        assert_eq!(
            bench.told.lock().unwrap().messages,
            messages,
            "and nothing is said while nothing happens"
        );
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_all_that_ended_is_started_at_once() {
    on_local(async {
        let bench = Bench::new();
        let wanted = apps(&[("app", vec![service("web"), service("db")])]);
        bench.want(wanted.clone());
        bench.until("they run", |b| b.ready(WEB) && b.ready(DB)).await;
        let (docker, process) = (Arc::clone(&bench.docker), Arc::clone(&bench.process));
        bench.end().await;
        docker.end(&instance(WEB), None);
        docker.end(&instance(DB), Some(137));
        let begin = tokio::time::Instant::now();
        let bench = Bench::over(docker, process, Arc::new(wanted));
        bench.until("they run again", |b| b.ready(WEB) && b.ready(DB)).await;
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_ends_is_started_again_with_backoff() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("it runs", |b| b.ready(WEB)).await;
        let mut waits = Vec::new();
        for restarts in 1..=3u32 {
            bench.docker.end(&instance(WEB), Some(1));
            bench.until("it waits", |b| b.phase(WEB) == Some(Phase::Backoff)).await;
            let begin = tokio::time::Instant::now();
            bench.until("it runs again", |b| b.ready(WEB)).await;
            waits.push(begin.elapsed().as_secs_f64());
            let told = bench.told.lock().unwrap();
            let status = &told.statuses[WEB];
            assert_eq!((status.restarts, status.exit_code), (restarts, Some(1)));
        }
        for (wait, most) in waits.iter().zip([1.0, 2.0, 4.0]) {
            assert!(*wait >= most * 0.7 && *wait <= most * 1.1, "{waits:?}");
        }
        assert_eq!(bench.events("Exited"), 3);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_or_fails_keeps_its_app_as_it_was_and_holds_up_nobody_else() {
    on_local(async {
        let bench = Bench::new();
        let both = |web: &str, db: &str, other: &str| {
            let app = vec![with_env("web", web), with_env("db", db)];
            apps(&[("app", app), ("other", vec![with_env("x", other)])])
        };
        bench.want(both("1", "1", "1"));
        bench.until("they run", |b| b.ready(WEB) && b.ready(DB) && b.ready("other/x/n1/0")).await;
        bench.docker.state().hanging_fetches.insert(instance(WEB));
        bench.want(both("2", "2", "2"));
        bench.until("the other app is replaced", |b| b.calls().len() == 4).await;
        bench.until("it is told why", |b| b.reason(WEB) == "Pulling").await;
        bench.until("of all of it", |b| b.reason(DB) == "WaitingForImages").await;
        assert!(bench.ready(WEB) && bench.ready(DB), "the old copies run on");
        assert_eq!(
            bench.told.lock().unwrap().statuses[DB].message,
            format!("the former revision still runs: waits for image hello:1 of {WEB}")
        );
        let before = bench.calls();
        assert!(before[3].contains("other/x"), "{before:?}");
        // Another revision does not wait for the hung fetch.
        let error =
            RuntimeError { reason: "ImagePullFailed", message: "no such image".into(), transient: true };
        {
            let mut state = bench.docker.state();
            state.hanging_fetches.clear();
            state.failing_fetches.insert(instance(WEB), error);
        }
        bench.want(both("3", "2", "2"));
        bench.until("it is told that it failed", |b| b.reason(WEB) == "ImagePullFailed").await;
        assert!(bench.ready(WEB), "the old copy still runs on");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(bench.events("ImagePullFailed"), 1, "the same failure is one event");
        bench.docker.state().failing_fetches.clear();
        bench.until("it is tried again", |_| true).await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(bench.ready(WEB) && bench.reason(WEB).is_empty() && bench.reason(DB).is_empty());
        assert_eq!(bench.calls().len(), 6, "and they change together");
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_former_copy_that_ends_beside_a_hung_fetch_is_run_again_until_the_fetch_ends() {
    on_local(async {
        let bench = Bench::new();
        let old = apps(&[("app", vec![with_env("web", "1")])]);
        bench.want(old.clone());
        bench.until("it runs", |b| b.ready(WEB)).await;
        bench.docker.state().hanging_fetches.insert(instance(WEB));
        let mut new = apps(&[("app", vec![with_env("web", "2")])]);
        new.formers.clone_from(&old.instances);
        bench.want(new.clone());
        bench.until("its successor is fetched", |b| b.reason(WEB) == "Pulling").await;
        let former = format!("ensure {WEB} {}", old.instances[&instance(WEB)].fingerprint);
        for ends in 1..=3 {
            bench.docker.end(&instance(WEB), Some(1));
            bench.until("it is down", |b| !b.ready(WEB)).await;
            bench.until("it runs again", |b| b.ready(WEB) && b.reason(WEB) == "Pulling").await;
            assert_eq!(bench.calls(), vec![former.clone(); ends + 1]);
        }
        // A new agent, no copy left: the same, at once.
        let (docker, process) = (Arc::clone(&bench.docker), Arc::clone(&bench.process));
        bench.end().await;
        docker.state().instances.clear();
        docker.state().hanging_fetches.clear();
        let error = RuntimeError { reason: "ImagePullFailed", message: "no route".into(), transient: true };
        docker.state().failing_fetches.insert(instance(WEB), error);
        let bench = Bench::over(docker, process, Arc::new(new.clone()));
        tokio::time::sleep(SOON).await;
        assert_eq!(bench.calls().len(), 4, "what the former one needs is not there either");
        assert_eq!((bench.phase(WEB), bench.reason(WEB)), (Some(Phase::Failed), "ImagePullFailed".into()));
        bench.docker.state().failing_fetches.clear();
        bench.until("the new one runs", |b| b.ready(WEB) && b.reason(WEB).is_empty()).await;
        let current = format!("ensure {WEB} {}", new.instances[&instance(WEB)].fingerprint);
        assert_eq!(bench.calls().last(), Some(&current));
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_docker_that_hangs_or_is_away_holds_up_no_process_and_stops_nothing() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("it runs", |b| b.ready(WEB)).await;
        bench.docker.stir(|state| state.hangs = true);
        bench.want(apps(&[("app", vec![service("web"), process("job")])]));
        bench.until("the process runs", |b| b.ready("app/job/n1/0")).await;
        bench.until("docker is told to be away", |b| b.reason(WEB) == "RuntimeUnavailable").await;
        assert_eq!(bench.phase(WEB), Some(Phase::Running), "as last seen");
        assert!(!bench.ready(WEB));
        let statuses = bench.runtimes.borrow().clone();
        assert!(statuses[&RuntimeKind::Docker].missed && statuses[&RuntimeKind::Process].available);
        assert_eq!(bench.events("RuntimeUnavailable"), 1);
        let calls = bench.calls();
        bench.docker.stir(|state| state.hangs = false);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(bench.ready(WEB));
        assert_eq!(bench.calls(), calls, "nothing was done to it");
        assert_eq!(bench.events("RuntimeAvailable"), 1);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_authority_what_runs_is_left_until_the_desired_state_comes() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![with_env("web", "1"), service("db")])]));
        bench.until("they run", |b| b.ready(WEB) && b.ready(DB)).await;
        let calls = bench.calls();
        // An older copy of the state: without `db`, another `web`.
        let mut old = apps(&[("app", vec![with_env("web", "0")])]);
        old.authoritative = false;
        bench.want(old);
        tokio::time::sleep(SOON).await;
        assert_eq!(bench.calls(), calls);
        assert_eq!(
            (bench.reason(WEB), bench.reason(DB)),
            ("DesiredStateUnknown".into(), "DesiredStateUnknown".into())
        );
        bench.want(apps(&[("app", vec![with_env("web", "1")])]));
        bench
            .until("known again", |b| b.ready(WEB) && b.reason(WEB).is_empty() && b.phase(DB).is_none())
            .await;
        assert_eq!(bench.calls()[calls.len()..], [format!("remove {DB}")]);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_changes_its_runtime_never_has_two_copies() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("the container runs", |b| b.ready(WEB)).await;
        bench.want(apps(&[("app", vec![process("web")])]));
        bench.until("the process runs", |b| !b.process.state().instances.is_empty()).await;
        assert!(bench.docker.state().instances.is_empty());
        bench.until("it is told", |b| b.ready(WEB)).await;
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dependent_comes_after_what_it_waits_for() {
    on_local(async {
        let bench = Bench::new();
        let mut web = service("web");
        web.depends_on = vec![skerry_proto::types::v1::Dependency { service: "db".into(), condition: 3 }];
        let mut db = service("db");
        db.restart = Some(skerry_proto::types::v1::RestartPolicy {
            policy: skerry_proto::types::v1::restart_policy::Policy::OnFailure.into(),
            ..Default::default()
        });
        bench.want(apps(&[("app", vec![web, db])]));
        bench.until("db runs", |b| b.ready(DB)).await;
        bench.until("web waits", |b| b.reason(WEB) == "WaitingForDependency").await;
        bench.docker.end(&instance(DB), Some(0));
        bench.until("web runs", |b| b.ready(WEB)).await;
        assert_eq!(bench.phase(DB), Some(Phase::Completed));
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_removed_is_made_anew() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("it runs", |b| b.ready(WEB)).await;
        bench.docker.stir(|state| drop(state.instances.remove(&instance(WEB))));
        bench.until("it runs again", |b| b.calls().len() == 2 && b.ready(WEB)).await;
        assert_eq!(bench.events("Vanished"), 1);
        let state = bench.docker.state().instances[&instance(WEB)].state;
        assert!(matches!(state, RunState::Running { .. }));
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn restarts_are_counted_on_when_the_agent_is_started_again() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let ledger = || Ledger::open(crate::state::Directory::new(dir.path()));
        let wanted = Arc::new(apps(&[("app", vec![service("web")])]));
        let docker = Arc::new(FakeRuntime::new(RuntimeKind::Docker));
        let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
        let restarts = |bench: &Bench| {
            let told = bench.told.lock().unwrap();
            told.statuses.get(WEB).map(|status| (status.ready, status.restarts, status.exit_code))
        };
        for agent in 0..3_u32 {
            let bench = Bench::with(Arc::clone(&docker), Arc::clone(&process), Arc::clone(&wanted), ledger());
            let code = (agent > 0).then_some(7);
            bench.until("it is told as before", |b| restarts(b) == Some((true, agent, code))).await;
            docker.end(&instance(WEB), Some(7));
            bench.until("it runs again", |b| restarts(b) == Some((true, agent + 1, Some(7)))).await;
            bench.end().await;
        }
        // What is no longer wanted is no longer counted.
        let bench = Bench::with(Arc::clone(&docker), Arc::clone(&process), wanted, ledger());
        bench.until("it is told", |b| restarts(b).is_some()).await;
        bench.want(apps(&[]));
        bench.until("it is gone", |b| restarts(b).is_none()).await;
        // Seen by the look that comes in any case.
        tokio::time::sleep(Duration::from_secs(120)).await;
        bench.end().await;
        assert!(ledger().get(&instance(WEB)).is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_moves_to_the_other_runtime_is_ready_all_along() {
    on_local(async {
        let bench = Bench::new();
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("it runs", |b| b.ready(WEB)).await;
        let error = RuntimeError { reason: "ProgramNotFound", message: "no".into(), transient: true };
        bench.process.state().failing_fetches.insert(instance(WEB), error);
        bench.want(apps(&[("app", vec![process("web")])]));
        bench.until("it is told why not", |b| b.reason(WEB) == "ProgramNotFound").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(bench.ready(WEB) && bench.docker.state().instances.len() == 1);
        assert_eq!(bench.events("Vanished"), 0);
        bench.process.state().failing_fetches.clear();
        let moved = |b: &Bench| b.process.state().instances.len() == 1 && b.ready(WEB);
        tokio::time::sleep(Duration::from_secs(120)).await;
        bench.until("it moved", moved).await;
        assert!(bench.docker.state().instances.is_empty());
        assert_eq!(bench.events("Vanished"), 0);
        bench.end().await;
    })
    .await;
}

/// Started first, with a command as its health check.
fn start_first(name: &str, value: &str) -> skerry_proto::types::v1::ServiceSpec {
    use skerry_proto::types::v1::{HealthCheck, UpdatePolicy, health_check, update_policy};
    let mut service = with_env(name, value);
    service.health_check = Some(HealthCheck {
        probe: Some(health_check::Probe::Exec(health_check::Exec { command: vec!["check".to_owned()] })),
        ..HealthCheck::default()
    });
    service.update = Some(UpdatePolicy { order: update_policy::Order::StartFirst.into() });
    service
}

#[tokio::test(start_paused = true)]
async fn what_was_found_of_a_copy_that_is_withdrawn_is_not_held_against_the_old_one() {
    on_local(async {
        let bench = Bench::new();
        let old = apps(&[("app", vec![start_first("web", "1")])]);
        bench.want(old.clone());
        bench.until("it runs", |b| b.ready(WEB)).await;
        bench.docker.state().beside_code = 1;
        let mut new = apps(&[("app", vec![start_first("web", "2")])]);
        new.formers.clone_from(&old.instances);
        bench.want(new);
        let withdrawn = |b: &Bench| b.calls().iter().filter(|call| call.starts_with("withdraw")).count();
        for turn in 1..=3 {
            let patience = tokio::time::timeout(Duration::from_secs(600), async {
                while withdrawn(&bench) < turn {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    assert!(bench.ready(WEB), "the old one is healthy all along");
                }
            });
            patience.await.expect("the new one is withdrawn");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(bench.ready(WEB));
        assert_eq!(bench.events("Healthy"), 1, "nothing changed for the old one");
        bench.docker.state().beside_code = 0;
        tokio::time::sleep(Duration::from_secs(120)).await;
        bench
            .until("the new one has its place", |b| b.ready(WEB) && b.docker.state().beside.is_empty())
            .await;
        assert_eq!(bench.calls().iter().filter(|call| call.starts_with("ensure")).count(), 2);
        bench.end().await;
    })
    .await;
}
