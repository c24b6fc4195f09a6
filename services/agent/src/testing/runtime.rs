//! A runtime in memory, which does what tests tell it: works, hangs, fails, goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use skerry_model::{GpuBooking, GpuIsolation, InstanceName};
use tokio::sync::Notify;

use crate::ahead::Image;
use crate::desired::InstanceSpec;
use crate::runtime::{
    Needs, Observed, Place, Progress, ProgressSink, RunState, Runtime, RuntimeError, RuntimeKind,
    VolumeWords, Wanted,
};

/// What the runtime holds and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) instances: BTreeMap<InstanceName, Observed>,
    /// Copies beside those.
    pub(crate) beside: BTreeMap<InstanceName, Observed>,
    /// Each call that changes something, as `ensure app/web/n1/0 <fingerprint>`.
    pub(crate) calls: Vec<String>,
    /// Images (fingerprints of instances) whose fetch never ends.
    pub(crate) hanging_fetches: BTreeSet<InstanceName>,
    /// Instances that do not end, though they are being removed, as long as they are here.
    pub(crate) lasting: BTreeSet<InstanceName>,
    /// Instances whose fetch fails.
    pub(crate) failing_fetches: BTreeMap<InstanceName, RuntimeError>,
    /// Images that were fetched ahead, as often as that was asked.
    pub(crate) images: Vec<String>,
    /// Images whose fetch never ends.
    pub(crate) hanging_images: BTreeSet<String>,
    /// Images whose fetch fails.
    pub(crate) failing_images: BTreeMap<String, RuntimeError>,
    /// Every call fails.
    pub(crate) away: bool,
    /// Every look hangs.
    pub(crate) hangs: bool,
    pub(crate) sweeps: u32,
    /// What each copy that is started from now on lacks.
    pub(crate) warnings: Vec<String>,
    /// What the next look for room comes to.
    pub(crate) collected: Vec<Progress>,
    /// What was last said of volumes.
    said: VolumeWords,
    /// Volumes that went with their app.
    pub(crate) removed_volumes: Vec<String>,
    /// The images that each look for unneeded things was told to keep.
    pub(crate) collects: Vec<BTreeSet<String>>,
    /// Such a look never ends.
    pub(crate) hanging_collects: bool,
    /// Such looks that were given up.
    pub(crate) collects_given_up: u32,
    /// Copies of these fingerprints end as soon as they are started.
    pub(crate) ends_at_once: BTreeSet<String>,
    /// What those exit with that are asked to end; absent: by the signal.
    pub(crate) stop_code: Option<i32>,
    /// What commands in a copy beside exit with.
    pub(crate) beside_code: i32,
    started: u64,
}

impl State {
    /// A copy that is started now.
    fn start(&mut self, instance: &InstanceSpec, place: Place) -> Observed {
        self.started += 1;
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(self.started);
        let state = if self.ends_at_once.contains(&instance.fingerprint) {
            RunState::Exited { code: Some(1), at: since, out_of_memory: false }
        } else {
            RunState::Running { since }
        };
        Observed {
            instance: instance.name.clone(),
            fingerprint: instance.fingerprint.clone(),
            revision: instance.revision.to_string(),
            runtime_id: format!("id{}", self.started),
            state,
            address: None,
            image_health: None,
            drift: None,
            place,
            started: None,
            warnings: self.warnings.clone(),
            gpus: instance.gpus.iter().map(without_mps).collect(),
        }
    }
}

/// What is booked, on a machine where no daemon of MPS runs.
fn without_mps(booking: &GpuBooking) -> GpuBooking {
    let isolation = match booking.isolation {
        GpuIsolation::Mps => GpuIsolation::Accounted,
        other => other,
    };
    GpuBooking { isolation, ..booking.clone() }
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

/// Counts when it is dropped.
struct GivenUp<'a>(&'a FakeRuntime);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.state().collects_given_up += 1;
    }
}

impl FakeRuntime {
    /// Ends one that runs, with this exit code if no other was said.
    fn end_by(&self, how: &str, instance: &InstanceName, usual: i32) -> Result<(), RuntimeError> {
        self.answer()?;
        let mut state = self.state();
        state.calls.push(format!("{how} {instance}"));
        state.started += 1;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(state.started);
        let code = Some(state.stop_code.unwrap_or(usual));
        if let Some(observed) = state.instances.get_mut(instance) {
            observed.state = RunState::Exited { code, at, out_of_memory: false };
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

    async fn fetch_image(&self, image: &Image, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        self.answer()?;
        let (hangs, fails) = {
            let mut state = self.state();
            state.images.push(image.image.clone());
            (state.hanging_images.contains(&image.image), state.failing_images.get(&image.image).cloned())
        };
        progress(Progress { reason: "Pulling", message: "an image".to_owned() });
        if hangs {
            std::future::pending::<()>().await;
        }
        fails.map_or(Ok(()), Err)?;
        progress(Progress { reason: "Pulled", message: "pulled it".to_owned() });
        Ok(())
    }

    async fn ensure(&self, instance: &InstanceSpec, _: ProgressSink<'_>) -> Result<(), RuntimeError> {
        self.answer()?;
        let mut state = self.state();
        state.calls.push(format!("ensure {} {}", instance.name, instance.fingerprint));
        let moved = state.beside.remove(&instance.name).filter(|one| one.fingerprint == instance.fingerprint);
        let observed = match moved {
            Some(beside) => Observed { place: Place::Own, ..beside },
            None => state.start(instance, Place::Own),
        };
        state.instances.insert(instance.name.clone(), observed);
        Ok(())
    }

    async fn ensure_at(
        &self,
        place: Place,
        instance: &InstanceSpec,
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        if place == Place::Own {
            return self.ensure(instance, progress).await;
        }
        self.answer()?;
        let mut state = self.state();
        state.calls.push(format!("beside {} {}", instance.name, instance.fingerprint));
        let observed = state.start(instance, Place::Beside);
        state.beside.insert(instance.name.clone(), observed);
        Ok(())
    }

    async fn withdraw(&self, instance: &InstanceName, runtime_id: &str) -> Result<(), RuntimeError> {
        self.answer()?;
        let mut state = self.state();
        state.calls.push(format!("withdraw {instance} {runtime_id}"));
        state.beside.retain(|_, one| one.runtime_id != runtime_id);
        Ok(())
    }

    async fn stop(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.end_by("stop", instance, 143)
    }

    async fn kill(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.end_by("kill", instance, 137)
    }

    async fn remove(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.answer()?;
        self.state().calls.push(format!("remove {instance}"));
        while self.state().lasting.contains(instance) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut state = self.state();
        state.instances.remove(instance);
        state.beside.remove(instance);
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        if self.state().hangs {
            std::future::pending::<()>().await;
        }
        self.answer()?;
        let state = self.state();
        Ok(state.instances.values().chain(state.beside.values()).cloned().collect())
    }

    async fn exec(&self, _: &InstanceName, _: &[String]) -> Result<i32, RuntimeError> {
        self.answer().map(|()| 0)
    }

    async fn exec_at(&self, place: Place, _: &InstanceName, _: &[String]) -> Result<i32, RuntimeError> {
        self.answer()?;
        Ok(if place == Place::Beside { self.state().beside_code } else { 0 })
    }

    async fn sweep(&self, _: &Wanted) -> Result<(), RuntimeError> {
        self.answer()?;
        self.state().sweeps += 1;
        Ok(())
    }

    async fn note(&self, volumes: &VolumeWords) -> Result<(), RuntimeError> {
        self.state().said.extend(volumes.clone());
        Ok(())
    }

    async fn collect(&self, needs: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        self.answer()?;
        let hangs = {
            let mut state = self.state();
            state.collects.push(needs.images.clone());
            state.said.extend(needs.volumes.clone());
            let (stay, go): (VolumeWords, VolumeWords) = std::mem::take(&mut state.said)
                .into_iter()
                .partition(|((app, _), remove)| !remove || needs.apps.contains(app));
            state.said = stay;
            state.removed_volumes.extend(go.into_keys().map(|(_, volume)| volume.to_string()));
            state.hanging_collects
        };
        if hangs {
            let _given_up = GivenUp(self);
            std::future::pending::<()>().await;
        }
        Ok(std::mem::take(&mut self.state().collected))
    }

    async fn changed(&self) {
        self.stirred.notified().await;
    }
}
