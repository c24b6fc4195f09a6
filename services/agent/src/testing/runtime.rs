//! A runtime in memory, which does what tests tell it: works, hangs, fails, goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use skerry_model::InstanceName;
use tokio::sync::Notify;

use crate::desired::InstanceSpec;
use crate::runtime::{
    Needs, Observed, Progress, ProgressSink, RunState, Runtime, RuntimeError, RuntimeKind, Wanted,
};

/// What the runtime holds and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) instances: BTreeMap<InstanceName, Observed>,
    /// Each call that changes something, as `ensure app/web/n1/0 <fingerprint>`.
    pub(crate) calls: Vec<String>,
    /// Images (fingerprints of instances) whose fetch never ends.
    pub(crate) hanging_fetches: BTreeSet<InstanceName>,
    /// Instances whose fetch fails.
    pub(crate) failing_fetches: BTreeMap<InstanceName, RuntimeError>,
    /// Every call fails.
    pub(crate) away: bool,
    /// Every look hangs.
    pub(crate) hangs: bool,
    pub(crate) sweeps: u32,
    /// What each copy that is started from now on lacks.
    pub(crate) warnings: Vec<String>,
    /// What the next look for room comes to.
    pub(crate) collected: Vec<Progress>,
    started: u64,
}

pub(crate) struct FakeRuntime {
    kind: RuntimeKind,
    state: Mutex<State>,
    stirred: Notify,
}

impl FakeRuntime {
    pub(crate) fn new(kind: RuntimeKind) -> Self {
        Self { kind, state: Mutex::default(), stirred: Notify::new() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes what it holds, and says so as Docker's events would.
    pub(crate) fn stir(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.stirred.notify_one();
    }

    /// Ends a running instance.
    pub(crate) fn end(&self, name: &InstanceName, code: Option<i32>) {
        self.stir(|state| {
            state.started += 1;
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(state.started);
            let observed = state.instances.get_mut(name).unwrap();
            observed.state = RunState::Exited { code, at, out_of_memory: false };
        });
    }

    fn answer(&self) -> Result<(), RuntimeError> {
        if self.state().away {
            let message = "no daemon".to_owned();
            return Err(RuntimeError { reason: "RuntimeUnavailable", message, transient: true });
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        self.kind
    }

    async fn probe(&self) -> Result<String, RuntimeError> {
        self.answer().map(|()| "1.0".to_owned())
    }

    async fn prepare(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        self.answer()?;
        let (hangs, fails) = {
            let state = self.state();
            let fails = state.failing_fetches.get(&instance.name).cloned();
            (state.hanging_fetches.contains(&instance.name), fails)
        };
        if hangs {
            progress(Progress { reason: "Pulling", message: "an image".to_owned() });
            std::future::pending::<()>().await;
        }
        fails.map_or(Ok(()), Err)
    }

    async fn ensure(&self, instance: &InstanceSpec, _: ProgressSink<'_>) -> Result<(), RuntimeError> {
        self.answer()?;
        let mut state = self.state();
        state.started += 1;
        state.calls.push(format!("ensure {} {}", instance.name, instance.fingerprint));
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(state.started);
        let observed = Observed {
            instance: instance.name.clone(),
            fingerprint: instance.fingerprint.clone(),
            revision: instance.revision.to_string(),
            runtime_id: format!("id{}", state.started),
            state: RunState::Running { since },
            address: None,
            image_health: None,
            drift: None,
            place: crate::runtime::Place::Own,
            started: None,
            warnings: state.warnings.clone(),
        };
        state.instances.insert(instance.name.clone(), observed);
        Ok(())
    }

    async fn remove(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.answer()?;
        let mut state = self.state();
        state.calls.push(format!("remove {instance}"));
        state.instances.remove(instance);
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        if self.state().hangs {
            std::future::pending::<()>().await;
        }
        self.answer()?;
        Ok(self.state().instances.values().cloned().collect())
    }

    async fn exec(&self, _: &InstanceName, _: &[String]) -> Result<i32, RuntimeError> {
        self.answer().map(|()| 0)
    }

    async fn sweep(&self, _: &Wanted) -> Result<(), RuntimeError> {
        self.answer()?;
        self.state().sweeps += 1;
        Ok(())
    }

    async fn collect(&self, _: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        self.answer()?;
        Ok(std::mem::take(&mut self.state().collected))
    }

    async fn changed(&self) {
        self.stirred.notified().await;
    }
}
