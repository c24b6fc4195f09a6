//! Processes of the machine, each under a shim.
//!
//! All state is in the instances' directories (`shim::files` says what is where), so a new agent adopts what the old one started.
//! Guards against two copies of one instance, each enough for what it covers: calls for one instance come after each other (`Claim`, which
//! also covers steps of a dropped call that still run); the lock on the directory, held by whatever runs; and process ids with their
//! start times, for a program that closed the lock and lost its shim.
//!
//! An instance whose shim was killed runs on, and is observed with an empty fingerprint: the plan replaces it, and `ensure` ends it
//! gracefully before it starts the new copy. Its state directory outlives restarts and updates and goes with `remove`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skerry_model::{AppName, InstanceName, NodeName};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::{
    CopyPart, CopySource, ExecAsk, ExecLine, Exit, LogAsk, LogPart, Needs, Observed, Progress, ProgressSink,
    Reach, Runtime, RuntimeDirs, RuntimeError, RuntimeKind, Used, Wanted, environment,
};
use crate::desired::InstanceSpec;
use crate::gpu::Grants;
use crate::lock::lock;
use crate::secrets::Secrets;
use crate::shim::exec::Commanded;
use crate::shim::files::Launch;
use crate::shim::program;

mod artifacts;
mod cgroup;
mod command;
mod copy;
mod error;
mod exec;
mod handle;
mod holders;
mod inspect;
mod layout;
mod logs;
mod start;
mod stop;
mod tree;
mod usage;
mod user;
mod watch;

use error::{failed, io_failed};
use inspect::{Phase, View};
use start::Spawned;
use stop::{How, Slot};
use watch::Watch;

pub(crate) use layout::instance_dir;
pub(crate) use usage::Top;

/// The file that tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The longest that `ensure` and `remove` go round, beside the instance's own grace: nothing needs more than a few rounds.
const ROUNDS_MAX: usize = 8;
/// How long a shim that an earlier call started may take to come up.
const SHIM_WAIT: Duration = Duration::from_secs(15);
/// Between two looks at it.
const SHIM_LOOK: Duration = Duration::from_millis(20);

/// Where things are.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories of the instances. Absolute, or taken from the directory that the agent was started in.
    pub instances: PathBuf,
    /// The program that is a shim when asked to (`run_shim_if_asked`). By default this very program, whatever became of its file.
    pub shim: PathBuf,
    /// The file that tells one boot of the machine from another.
    pub boot_id: PathBuf,
    /// Where downloaded files are kept.
    pub artifacts: PathBuf,
    /// A file of certificates that downloads trust, in PEM. By default the machine's own.
    pub certificates: Option<PathBuf>,
    /// Told to programs as `SKERRY_NODE`.
    pub node: Option<NodeName>,
    /// What opens the secrets of instances.
    pub secrets: Arc<Secrets>,
    /// What processes are granted of GPUs.
    pub gpus: Grants,
}

impl Config {
    /// What this agent's cgroups are below.
    fn cgroup_name(&self) -> String {
        cgroup_name(&self.instances)
    }

    /// The defaults, with these directories.
    pub fn new(dirs: &RuntimeDirs) -> Self {
        Self {
            instances: dirs.instances.clone(),
            shim: PathBuf::from("/proc/self/exe"),
            boot_id: PathBuf::from(BOOT_ID),
            artifacts: dirs.artifacts.clone(),
            certificates: None,
            node: None,
            secrets: Arc::default(),
            gpus: Grants::default(),
        }
    }
}

/// Runs instances as processes of the machine.
pub struct ProcessRuntime {
    config: Config,
    slots: Mutex<HashMap<InstanceName, Arc<tokio::sync::Mutex<Slot>>>>,
    /// Shims that are children of this process, to be reaped.
    children: Arc<Mutex<Vec<Child>>>,
    watch: Watch,
    artifacts: Arc<artifacts::Store>,
    /// Steps on blocking threads. They end by themselves.
    steps: TaskTracker,
}

/// The sole right to act on one instance. Travels with a step onto its blocking thread, so that no other call begins before the step has
/// ended, though the call that it belonged to was dropped.
struct Claim {
    name: InstanceName,
    slot: OwnedMutexGuard<Slot>,
}

impl ProcessRuntime {
    /// Adopts what is in the instances' directory. Touches nothing.
    pub fn new(config: Config) -> Self {
        let instances = std::path::absolute(&config.instances).unwrap_or_else(|_| config.instances.clone());
        let artifacts = artifacts::Store::new(config.artifacts.clone(), config.certificates.clone());
        let artifacts = Arc::new(artifacts);
        Self {
            config: Config { instances, ..config },
            slots: Mutex::default(),
            children: Arc::default(),
            watch: Watch::default(),
            artifacts,
            steps: TaskTracker::new(),
        }
    }

    /// Where the files of an instance are.
    pub fn instance_dir(&self, instance: &InstanceName) -> PathBuf {
        layout::instance_dir(&self.config.instances, instance)
    }

    async fn claim(&self, name: &InstanceName) -> Claim {
        let slot = Arc::clone(lock(&self.slots).entry(name.clone()).or_default());
        Claim { name: name.clone(), slot: slot.lock_owned().await }
    }

    /// Forgets the slot of a removed instance, unless another call waits for it.
    fn release(&self, claim: &Claim) {
        let mut slots = lock(&self.slots);
        // One in the map, one in the claim.
        if slots.get(&claim.name).is_some_and(|slot| Arc::strong_count(slot) <= 2) {
            slots.remove(&claim.name);
        }
    }

    /// A look at the disk, off the executor's threads. Whether it is finished matters to nobody but the caller.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RuntimeError> {
        self.steps
            .spawn_blocking(look)
            .await
            .map_err(|error| failed("RuntimeUnavailable", format!("the agent is stopping: {error}"), true))
    }

    /// A step that changes something: takes the claim with it, and is left out if its caller has gone before it began.
    async fn step<T: Send + 'static>(
        &self,
        claim: Claim,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(Claim, T), RuntimeError> {
        let caller = Arc::new(());
        let wanted = Arc::downgrade(&caller);
        let done = self.look(move || (wanted.strong_count() > 0).then(|| (step(), claim))).await?;
        drop(caller);
        let (done, claim) =
            done.ok_or_else(|| failed("RuntimeUnavailable", "the call was given up", true))?;
        Ok((claim, done))
    }

    async fn view(&self, dir: &Path) -> Result<Option<View>, RuntimeError> {
        let (dir, boot) = (dir.to_owned(), self.boot()?);
        self.look(move || View::of(&dir, &boot))
            .await?
            .map_err(|error| io_failed("reading the instance's state", &error))
    }

    fn boot(&self) -> Result<String, RuntimeError> {
        boot_id(&self.config.boot_id)
    }

    /// Reaps shims that have ended.
    fn reap(&self) {
        lock(&self.children).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    async fn start(
        &self,
        claim: Claim,
        dir: &Path,
        spec: &InstanceSpec,
    ) -> Result<(Claim, bool), RuntimeError> {
        // Before the step, which nobody can interrupt.
        let variables = environment::read(spec, &self.config.secrets).await?;
        let worker = match start::process_of(spec)?.artifacts.as_slice() {
            [] => None,
            [..] => Some(self.artifacts.worker().await),
        };
        let (dir, spec, config, boot) = (dir.to_owned(), spec.clone(), self.config.clone(), self.boot()?);
        let children = Arc::clone(&self.children);
        let step = move || {
            let _worker = worker;
            start::spawn(&dir, &spec, variables, &config, &boot).map(|spawned| match spawned {
                Spawned::Held => None,
                Spawned::Shim { child, answer } => {
                    lock(&children).push(child);
                    Some(answer)
                }
            })
        };
        let (claim, answer) = self.step(claim, step).await?;
        match answer? {
            None => Ok((claim, false)),
            Some(answer) => {
                start::answered(answer).await?;
                Ok((claim, true))
            }
        }
    }

    /// Downloads what the instance needs, and looks through what is to be unpacked.
    async fn fetch(&self, spec: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        let artifacts = start::process_of(spec)?.artifacts.clone();
        artifacts::check_paths(&artifacts)?;
        self.artifacts.fetch(&artifacts, progress).await?;
        if artifacts.iter().all(|artifact| artifact.unpack.is_none()) {
            return Ok(());
        }
        let (dir, worker) = (self.config.artifacts.clone(), self.artifacts.worker().await);
        let check = move || {
            let _worker = worker;
            artifacts::check(&dir, &artifacts)
        };
        self.look(check).await?
    }

    /// What a copy that runs was made from.
    async fn running(&self, instance: &InstanceName, dir: &Path) -> Result<Launch, RuntimeError> {
        let view = self.view(dir).await?;
        let running =
            view.filter(|view| matches!(view.phase, Phase::Running { .. } | Phase::Orphaned { .. }));
        let launch = running.and_then(|view| view.launch);
        launch.ok_or_else(|| failed("NotRunning", format!("{instance} does not run"), true))
    }

    /// Runs a command under a keeper, until its end or until it is given up.
    async fn run_command(
        &self,
        ask: &ExecAsk,
        line: ExecLine,
        commanded: impl FnOnce(&ExecAsk) -> Result<Commanded, RuntimeError> + Send + 'static,
    ) -> Result<Exit, RuntimeError> {
        self.reap();
        let (shim, ask, children) = (self.config.shim.clone(), ask.clone(), Arc::clone(&self.children));
        let begin = move || {
            let (child, begun) = command::begin(&shim, &commanded(&ask)?, &ask)?;
            lock(&children).push(child);
            Ok::<_, RuntimeError>(begun)
        };
        let begun = self.look(begin).await??;
        let ran = command::run(begun, line).await;
        self.reap();
        ran
    }

    /// Begins to wait for the end of what was just started.
    async fn watch_started(&self, claim: &Claim, dir: &Path) -> Result<(), RuntimeError> {
        if let Some(started) = self.view(dir).await?.and_then(|view| view.started) {
            self.watch.add(&claim.name, started.shim);
        }
        Ok(())
    }

    /// Waits for the shim of an earlier call to come up or go: whether it did.
    async fn settled(&self, dir: &Path) -> Result<bool, RuntimeError> {
        let until = Instant::now() + SHIM_WAIT;
        while Instant::now() < until {
            match self.view(dir).await?.map(|view| view.phase) {
                Some(Phase::Starting { .. }) => sleep(SHIM_LOOK).await,
                _ => return Ok(true),
            }
        }
        Ok(false)
    }
}

#[async_trait::async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn probe(&self) -> Result<String, RuntimeError> {
        self.boot()?;
        let dir = self.config.instances.clone();
        self.look(move || layout::make_dir(&dir)).await?.map_err(|error| {
            failed("RuntimeUnavailable", format!("the instances' directory: {error}"), true)
        })?;
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Ok(format!("{} {}", text(uname.sysname()), text(uname.release())))
    }

    async fn prepare(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        layout::config_files(instance)?;
        let variables = environment::read(instance, &self.config.secrets).await?;
        self.config.secrets.check(instance)?;
        let (spec, config) = (instance.clone(), self.config.clone());
        let launch = self.look(move || start::launch_of(&spec, variables.plain, &config, "")).await??;
        self.fetch(instance, progress).await?;
        // What is below the state directory may come with the configs and artifacts.
        if launch.program.contains('/') && !launch.program.starts_with('/') {
            return Ok(());
        }
        let found =
            self.look(move || program::find(&launch.program, launch.search_path(), Path::new("/")).map(drop));
        Ok(found.await??)
    }

    async fn ensure(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        start::process_of(instance)?;
        self.reap();
        let dir = self.instance_dir(&instance.name);
        let mut claim = self.claim(&instance.name).await;
        for _ in 0..ROUNDS_MAX {
            let view = self.view(&dir).await?;
            match view.filter(|view| !is_down(view)) {
                // One that a dropped call has asked to end is on its way out: that is seen through.
                Some(View {
                    phase: Phase::Running { shim, program, .. }, started: Some(started), ..
                }) if started.fingerprint == instance.fingerprint && claim.asked(program).is_none() => {
                    self.watch.add(&instance.name, shim);
                    return Ok(());
                }
                Some(view @ View { phase: Phase::Starting { .. }, .. }) => {
                    if !self.settled(&dir).await? {
                        self.end(&mut claim, &dir, &view, How::Asked).await?;
                    }
                }
                Some(view) => self.end(&mut claim, &dir, &view, How::Asked).await?,
                None => {
                    self.artifacts.fetch(&start::process_of(instance)?.artifacts, progress).await?;
                    let (back, started) = self.start(claim, &dir, instance).await?;
                    claim = back;
                    if started {
                        self.watch_started(&claim, &dir).await?;
                        return Ok(());
                    }
                    // Held: by a shim of a dropped call that has not said anything yet, or by what a killed one left.
                    if let Some(view) = self.view(&dir).await?.filter(is_down) {
                        self.end(&mut claim, &dir, &view, How::Asked).await?;
                    }
                }
            }
        }
        Err(failed("StillStopping", "it changes by itself all the time", true))
    }

    async fn stop(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.take_down(instance, How::Asked).await
    }

    async fn kill(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.take_down(instance, How::Killed).await
    }

    async fn remove(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.reap();
        let dir = self.instance_dir(instance);
        let mut claim = self.claim(instance).await;
        for _ in 0..ROUNDS_MAX {
            let Some(view) = self.view(&dir).await? else {
                self.release(&claim);
                return Ok(());
            };
            // A shim on its way up has a program in a moment, which is asked first.
            if matches!(view.phase, Phase::Starting { .. }) && self.settled(&dir).await? {
                continue;
            }
            self.end(&mut claim, &dir, &view, How::Asked).await?;
            let (root, place) = (self.config.instances.clone(), dir.clone());
            let cgroups = view.launch.map(|launch| launch.cgroups).unwrap_or_default();
            let step = move || match layout::try_lock(&place) {
                Ok(Some(_held)) => {
                    crate::shim::cgroup::remove(&cgroups);
                    layout::clear(&root, &place)
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let (back, cleared) = self.step(claim, step).await?;
            claim = back;
            cleared.map_err(|error| io_failed("removing the instance's directory", &error))?;
        }
        Err(failed("StillStopping", "it changes by itself all the time", true))
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        self.reap();
        let (root, boot) = (self.config.instances.clone(), self.boot()?);
        let seen = self.look(move || see(&root, &boot)).await?;
        let (alive, seen): (Vec<_>, Vec<_>) = seen?.into_iter().unzip();
        let alive = alive.into_iter().zip(&seen).filter_map(|(id, seen)| Some((seen.instance.clone(), id?)));
        self.watch.set(alive.collect());
        Ok(seen)
    }

    async fn exec(&self, instance: &InstanceName, command: &[String]) -> Result<i32, RuntimeError> {
        let dir = self.instance_dir(instance);
        let launch = self.running(instance, &dir).await?;
        exec::run(&self.config.shim, &dir, &launch, command).await
    }

    async fn command(&self, copy: &Observed, ask: &ExecAsk, line: ExecLine) -> Result<Exit, RuntimeError> {
        if ask.debug_image.is_some() {
            let message = "debug_image: only containers share what they have with another one".to_owned();
            return Err(failed("ImageUnsupported", message, false));
        }
        let dir = self.instance_dir(&copy.instance);
        let launch = self.running(&copy.instance, &dir).await?;
        self.run_command(ask, line, move |ask| command::beside(&dir, &launch, ask)).await
    }

    async fn node_command(&self, ask: &ExecAsk, line: ExecLine) -> Result<Exit, RuntimeError> {
        self.run_command(ask, line, command::on_node).await
    }

    async fn logs(
        &self,
        copy: &Observed,
        ask: &LogAsk,
        out: &mpsc::Sender<LogPart>,
    ) -> Result<(), RuntimeError> {
        logs::tell(&self.instance_dir(&copy.instance), ask, out).await
    }

    async fn reach(&self, copy: &Observed) -> Result<Reach, RuntimeError> {
        copy.check_runs()?;
        Ok(Reach::Machine)
    }

    async fn usage(&self, app: Option<&AppName>) -> Result<Vec<Used>, RuntimeError> {
        let (root, boot, app) = (self.config.instances.clone(), self.boot()?, app.cloned());
        let machine_bytes = u64::try_from(crate::machine::memory_bytes()).unwrap_or(0);
        let counted = self.look(move || usage::count(&root, &boot, app.as_ref(), machine_bytes)).await?;
        counted.map_err(|error| io_failed("counting what processes use", &error))
    }

    async fn copy_to(
        &self,
        copy: &Observed,
        path: &str,
        archive: mpsc::Receiver<CopyPart>,
    ) -> Result<(), RuntimeError> {
        copy::to(&self.config.shim, &self.instance_dir(&copy.instance), path, archive).await
    }

    async fn copy_from(
        &self,
        copy: &Observed,
        source: &CopySource,
        out: &mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), RuntimeError> {
        copy::from(&self.config.shim, &self.instance_dir(&copy.instance), source, out).await
    }

    async fn sweep(&self, _: &Wanted) -> Result<(), RuntimeError> {
        let root = self.config.instances.clone();
        self.look(move || layout::prune_all(&root)).await
    }

    async fn collect(&self, needs: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        let (store, needed) = (Arc::clone(&self.artifacts), needs.artifacts.clone());
        let collected = self.look(move || store.collect(&needed)).await?;
        collected.map_err(|error| io_failed("removing artifacts", &error))
    }

    async fn changed(&self) {
        self.watch.any_gone().await;
        self.reap();
    }
}

/// Whether nothing that is recorded runs.
fn is_down(view: &View) -> bool {
    matches!(view.phase, Phase::Made | Phase::Ended { .. })
}

/// What is there, each with the process whose end would change it.
fn see(
    root: &Path,
    boot: &str,
) -> Result<Vec<(Option<crate::shim::procfs::ProcessId>, Observed)>, RuntimeError> {
    let reading = |error| io_failed("reading the instances' state", &error);
    let mut seen = Vec::new();
    for (name, dir) in layout::scan(root).map_err(reading)? {
        match View::of(&dir, boot) {
            Ok(Some(view)) => {
                let until = match view.phase {
                    Phase::Running { shim, .. } | Phase::Starting { shim } | Phase::Ending { shim, .. } => {
                        Some(shim)
                    }
                    Phase::Orphaned { program, .. } => Some(program),
                    Phase::Made | Phase::Ended { .. } => None,
                };
                seen.push((until, view.observed(name)));
            }
            Ok(None) => {}
            // No answer at all would stop the others as well. That this one is taken for absent does no harm: the lock is on its
            // directory, and starting it fails with the same reason.
            Err(error) => tracing::warn!(instance = %name, %error, "the state of an instance cannot be read"),
        }
    }
    Ok(seen)
}

/// What the cgroups of an agent are below whose instances are in this directory: 12 hexadecimal digits.
pub(crate) fn cgroup_name(instances: &Path) -> String {
    blake3::hash(instances.as_os_str().as_encoded_bytes()).to_hex()[..12].to_owned()
}

/// The processes from which those of instances in this directory descend. Reads the disk.
pub(crate) fn tops(instances: &Path) -> Vec<Top> {
    let Ok(boot) = boot_id(Path::new(BOOT_ID)) else { return Vec::new() };
    usage::tops(instances, &boot).unwrap_or_default()
}

fn boot_id(path: &Path) -> Result<String, RuntimeError> {
    let text = fs::read_to_string(path).map_err(|error| {
        failed("RuntimeUnavailable", format!("reading the boot id at {}: {error}", path.display()), true)
    })?;
    Ok(text.trim().to_owned())
}
