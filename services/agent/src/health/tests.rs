//! The monitor over paused time, with a runtime whose commands answer as told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::desired::InstanceSpec;
use crate::runtime::{Observed, ProgressSink, RuntimeError, RuntimeKind, Wanted};

/// Answers `exec` from a list, then with the last answer for ever.
#[derive(Default)]
pub(super) struct FakeRuntime {
    answers: Mutex<VecDeque<Result<i32, RuntimeError>>>,
    tries: AtomicUsize,
    hang: bool,
}

impl FakeRuntime {
    fn answering(answers: impl IntoIterator<Item = Result<i32, RuntimeError>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }
    async fn probe(&self) -> Result<String, RuntimeError> {
        Ok("fake".into())
    }
    async fn prepare(&self, _: &InstanceSpec, _: ProgressSink<'_>) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn ensure(&self, _: &InstanceSpec, _: ProgressSink<'_>) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn stop(&self, _: &InstanceName) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn kill(&self, _: &InstanceName) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn remove(&self, _: &InstanceName) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        Ok(Vec::new())
    }
    async fn exec(&self, _: &InstanceName, _: &[String]) -> Result<i32, RuntimeError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        if self.hang {
            std::future::pending::<()>().await;
        }
        let mut answers = lock(&self.answers);
        if answers.len() > 1 {
            answers.pop_front().unwrap()
        } else {
            answers.front().cloned().unwrap_or(Ok(0))
        }
    }
    async fn sweep(&self, _: &Wanted) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}

pub(super) fn instance() -> InstanceName {
    InstanceName::parse("app/web/n1/0").unwrap()
}

fn target(runtime: &Arc<FakeRuntime>, started_at: SystemTime) -> Target {
    Target {
        check: HealthCheck {
            probe: Probe::Exec { command: vec!["check".into()] },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            start_period: Duration::ZERO,
            retries: 3,
        },
        address: None,
        started_at,
        place: Place::Own,
        runtime: Arc::clone(runtime) as Arc<dyn Runtime>,
        image_health: None,
    }
}

async fn next_state(monitor: &Monitor) -> HealthState {
    tokio::time::timeout(Duration::from_secs(3600), monitor.changed()).await.expect("no change in an hour");
    monitor.state(&instance())
}

#[tokio::test(start_paused = true)]
async fn before_the_first_success_it_is_tried_each_second_at_least() {
    let runtime = FakeRuntime::answering(std::iter::repeat_n(Ok(1), 6).chain([Ok(0)]));
    let monitor = Monitor::new();
    let begun = Instant::now();
    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    assert_eq!(monitor.state(&instance()), HealthState::Starting);
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    assert!(begun.elapsed() <= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(runtime.tries.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn retries_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
    let runtime = FakeRuntime::answering([Ok(0), Ok(1), Ok(1), Ok(0), Ok(1), Ok(1), Ok(7), Ok(0)]);
    let monitor = Monitor::new();
    let begun = Instant::now();
    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    let message = "`check` exited with 7".to_owned();
    assert_eq!(next_state(&monitor).await, HealthState::Unhealthy { message });
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    assert_eq!(begun.elapsed().as_secs(), 70);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_hangs_fails_after_its_timeout() {
    let runtime = Arc::new(FakeRuntime { hang: true, ..FakeRuntime::default() });
    let monitor = Monitor::new();
    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    assert_eq!(next_state(&monitor).await, HealthState::Unhealthy { message: "no answer in 5s".into() });
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_says_nothing_about_the_instance() {
    let away = RuntimeError { reason: "RuntimeUnavailable", message: "gone".into(), transient: true };
    let runtime = FakeRuntime::answering([Ok(0), Err(away)]);
    let monitor = Monitor::new();
    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(monitor.state(&instance()), HealthState::Healthy);
    assert!(runtime.tries.load(Ordering::SeqCst) > 50);
}

#[tokio::test(start_paused = true)]
async fn saying_the_same_again_changes_nothing_and_another_copy_begins_anew() {
    let runtime = FakeRuntime::answering([Ok(0), Ok(1)]);
    let monitor = Monitor::new();
    let at = SystemTime::now();
    monitor.set(&instance(), Some(target(&runtime, at)));
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    monitor.set(&instance(), Some(target(&runtime, at)));
    assert_eq!(monitor.state(&instance()), HealthState::Healthy);
    assert_eq!(runtime.tries.load(Ordering::SeqCst), 1);
    monitor.set(&instance(), Some(target(&runtime, at + Duration::from_secs(1))));
    assert_eq!(monitor.state(&instance()), HealthState::Starting);
    assert!(matches!(next_state(&monitor).await, HealthState::Unhealthy { .. }));
}

#[tokio::test(start_paused = true)]
async fn tries_end_with_removal_and_with_shutdown() {
    let runtime = FakeRuntime::answering([Ok(1)]);
    let monitor = Monitor::new();
    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    tokio::time::sleep(Duration::from_secs(5)).await;
    monitor.set(&instance(), None);
    assert_eq!(monitor.state(&instance()), HealthState::Starting);
    let tries = runtime.tries.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(runtime.tries.load(Ordering::SeqCst), tries);

    monitor.set(&instance(), Some(target(&runtime, SystemTime::now())));
    monitor.shutdown().await;
    let tries = runtime.tries.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(runtime.tries.load(Ordering::SeqCst), tries);
    assert_eq!(Arc::strong_count(&runtime), 1);
}

#[tokio::test(start_paused = true)]
async fn the_image_s_own_check_is_taken_as_observed() {
    let runtime = FakeRuntime::answering([]);
    let monitor = Monitor::new();
    let at = SystemTime::now();
    let with = |health| {
        let mut target = target(&runtime, at);
        target.check.probe = Probe::Image;
        target.image_health = health;
        Some(target)
    };
    monitor.set(&instance(), with(None));
    assert_eq!(monitor.state(&instance()), HealthState::Starting);
    monitor.set(&instance(), with(Some(true)));
    assert_eq!(next_state(&monitor).await, HealthState::Healthy);
    monitor.set(&instance(), with(Some(false)));
    assert!(matches!(next_state(&monitor).await, HealthState::Unhealthy { .. }));
}
