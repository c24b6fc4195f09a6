//! Stopping, starting and restarting by hand.

use tokio::sync::oneshot;

use super::*;
use crate::hand::{ASKS_MAX, Answer, Ask, Desk, Done, HandAct};
use crate::state::Directory;

struct Hands {
    bench: Bench,
    asks: mpsc::Sender<Ask>,
}

/// A bench with a desk, which keeps what it is asked for in `dir`.
fn bench(docker: Arc<FakeRuntime>, dir: &std::path::Path, wanted: Desired) -> Hands {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let desk = Desk::open(Directory::new(dir), asked);
    let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
    let bench = Bench::of(docker, process, Arc::new(wanted), |reconciler| reconciler.with_desk(desk));
    Hands { bench, asks }
}

fn docker() -> Arc<FakeRuntime> {
    Arc::new(FakeRuntime::new(RuntimeKind::Docker))
}

impl Hands {
    async fn ask(&self, act: HandAct) -> Answer {
        self.ask_of(WEB, act).await
    }

    async fn ask_of(&self, instance: &str, act: HandAct) -> Answer {
        let (answer, answered) = oneshot::channel();
        let instance = InstanceName::parse(instance).unwrap();
        self.asks.send(Ask { instance, act, patience: SOON, answer }).await.unwrap();
        answered.await.unwrap()
    }

    fn calls(&self) -> Vec<String> {
        self.bench.docker.state().calls.clone()
    }

    fn restarts(&self) -> u32 {
        self.bench.told.lock().unwrap().statuses[WEB].restarts
    }
}

/// `app` with this value in the environment of `web`, which is started again only where it failed.
fn wanted(value: &str) -> Desired {
    let mut web = with_env("web", value);
    let policy = pb::restart_policy::Policy::OnFailure;
    web.restart = Some(pb::RestartPolicy { policy: policy.into(), ..pb::RestartPolicy::default() });
    apps(&[("app", vec![web])])
}

#[tokio::test(start_paused = true)]
async fn what_is_stopped_by_hand_stays_so_over_agents_and_revisions_until_it_is_started() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let docker = docker();
        let hands = bench(Arc::clone(&docker), dir.path(), wanted("1"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        assert_eq!(hands.ask(HandAct::Start).await, Ok(Done::Unchanged));
        assert_eq!(hands.ask(HandAct::Stop).await, Ok(Done::Changed));
        hands.bench.until("it is told", |b| b.phase(WEB) == Some(Phase::Stopped)).await;
        assert_eq!((hands.bench.reason(WEB).as_str(), hands.bench.ready(WEB)), ("StoppedByHand", false));
        assert_eq!(hands.ask(HandAct::Stop).await, Ok(Done::Unchanged));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let calls = hands.calls();
        assert_eq!(calls.last().unwrap(), &format!("stop {WEB}"));
        // Another revision: nothing is done about it.
        hands.bench.want(wanted("2"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((hands.calls(), hands.bench.reason(WEB).as_str()), (calls.clone(), "StoppedByHand"));
        assert_eq!(hands.bench.events("Exited"), 0, "it is no crash");
        assert_eq!(hands.bench.events("StoppedByHand"), 1);
        hands.bench.end().await;
        // Another life of the agent.
        let hands = bench(Arc::clone(&docker), dir.path(), wanted("2"));
        hands.bench.until("it is told again", |b| b.phase(WEB) == Some(Phase::Stopped)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(hands.calls(), calls);
        assert_eq!(hands.ask(HandAct::Start).await, Ok(Done::Changed));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        let copy = docker.state().instances[&instance(WEB)].fingerprint.clone();
        assert_ne!(
            Some(copy.as_str()),
            calls[0].rsplit(' ').next(),
            "in the revision that is wanted by then"
        );
        assert_eq!(hands.restarts(), 0);
        hands.bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_wanted_any_more_is_forgotten() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let hands = bench(docker(), dir.path(), wanted("1"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        hands.ask(HandAct::Stop).await.unwrap();
        hands.bench.want(apps(&[("app", vec![service("db")])]));
        hands.bench.until("it is gone", |b| b.phase(WEB).is_none()).await;
        assert_eq!(hands.ask(HandAct::Start).await.unwrap_err().reason, "NotHere");
        hands.bench.want(wanted("1"));
        hands.bench.until("a new one runs", |b| b.ready(WEB)).await;
        hands.bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_is_a_new_copy_at_once_and_no_crash() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let hands = bench(docker(), dir.path(), wanted("1"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        for _ in 0..5 {
            let before = hands.calls().len();
            let begin = tokio::time::Instant::now();
            assert_eq!(hands.ask(HandAct::Restart).await, Ok(Done::Changed));
            assert!(begin.elapsed() < Duration::from_millis(500), "it waits for no backoff");
            let calls = hands.calls()[before..].to_vec();
            assert_eq!(calls.len(), 2, "{calls:?}");
            assert!(calls[0].starts_with("stop ") && calls[1].starts_with("ensure "), "{calls:?}");
        }
        assert_eq!((hands.restarts(), hands.bench.events("Exited")), (0, 0));
        assert_eq!(hands.bench.events("RestartedByHand"), 5);
        // The next crash waits as the first one does.
        hands.bench.docker.end(&instance(WEB), Some(1));
        hands.bench.until("it waits", |b| b.phase(WEB) == Some(Phase::Backoff)).await;
        let begin = tokio::time::Instant::now();
        hands.bench.until("it runs again", |b| b.ready(WEB)).await;
        assert!(begin.elapsed() <= Duration::from_millis(1100), "{:?}", begin.elapsed());
        assert_eq!(hands.restarts(), 1);
        // One that has done its work is started once more.
        hands.bench.docker.end(&instance(WEB), Some(0));
        hands.bench.until("it is done", |b| b.phase(WEB) == Some(Phase::Completed)).await;
        assert_eq!(hands.ask(HandAct::Start).await, Ok(Done::Changed));
        hands.bench.docker.end(&instance(WEB), Some(0));
        hands.bench.until("it is done again", |b| b.phase(WEB) == Some(Phase::Completed)).await;
        let calls = hands.calls();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(hands.calls(), calls, "once");
        hands.bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_up_is_answered_with_the_reason() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let hands = bench(docker(), dir.path(), wanted("1"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        let fingerprint = hands.bench.docker.state().instances[&instance(WEB)].fingerprint.clone();
        hands.bench.docker.state().ends_at_once.insert(fingerprint);
        let error = hands.ask(HandAct::Restart).await.unwrap_err();
        assert!(error.reason == "NotRunning" && error.message.contains("exit code 1"), "{error:?}");
        hands.bench.docker.state().ends_at_once.clear();
        hands.bench.until("it is tried on", |b| b.ready(WEB)).await;
        // A job ends by itself.
        let mut job = service("load");
        job.kind = Some(skerry_proto::types::v1::service_spec::Kind::Job(pb::Job::default()));
        job.restart = Some(pb::RestartPolicy {
            policy: pb::restart_policy::Policy::OnFailure.into(),
            ..pb::RestartPolicy::default()
        });
        hands.bench.want(apps(&[("app", vec![job])]));
        hands.bench.until("the job is there", |b| b.phase("app/load/n1/0").is_some()).await;
        let error = hands.ask_of("app/load/n1/0", HandAct::Stop).await.unwrap_err();
        assert_eq!(error.reason, "JobInstance");
        hands.bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_told_and_goes_on() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let hands = bench(docker(), dir.path(), wanted("1"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        hands.ask(HandAct::Stop).await.unwrap();
        hands.bench.docker.state().hanging_fetches.insert(instance(WEB));
        hands.bench.want(wanted("2"));
        let error = hands.ask(HandAct::Start).await.unwrap_err();
        assert!(error.reason == "NotYet" && error.message.contains("Pulling"), "{error:?}");
        // The fetch is given up for that of the next revision.
        hands.bench.docker.state().hanging_fetches.clear();
        hands.bench.want(wanted("3"));
        hands.bench.until("it runs", |b| b.ready(WEB)).await;
        hands.bench.end().await;
    })
    .await;
}
