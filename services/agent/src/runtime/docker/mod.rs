//! Docker: instances as containers, over the daemon's Unix socket.
//!
//! What is ours is told by labels (`skerry.io/...`), first of all whose: containers, networks and volumes of other hands, and of
//! another agent on the machine, are never touched. Docker's own restart policy stays off. Config files are mounted from the agent's data
//! directory, so that the agent and Docker must see the same file system.
//!
//! Left to others: when anything is started or stopped (the plan), probing over HTTP, TCP and commands (`health`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skerry_model::{AppName, InstanceName, NetworkName, NodeName};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::client::{Client, LOOK_DEADLINE};
pub use self::credentials::CredentialsFile;
use self::credentials::Logins;
use self::debug::Debugs;
use self::error::Failure;
use self::events::Events;
use self::exec::Execs;
use self::foreign::Foreign;
use self::hosts::Hosts;
use self::network::Networks;
use self::observe::Observer;
use self::spec::Owner;
pub use self::upkeep::ImageGc;
use self::upkeep::Kept;
use super::{
    CopyPart, CopySource, ExecAsk, ExecLine, Exit, LogAsk, LogPart, Names, Needs, Observed, Place, Progress,
    ProgressSink, Reach, Runtime, RuntimeDirs, RuntimeError, RuntimeKind, Used, VolumeWords, Wanted,
    environment,
};
use crate::ahead::Image;
use crate::desired::InstanceSpec;
use crate::gpu::Grants;
use crate::lock::lock;
use crate::secrets::Secrets;

mod client;
mod command;
mod copy;
mod credentials;
mod debug;
mod describe;
mod error;
mod events;
mod exec;
mod foreign;
mod gpus;
mod guard;
mod hijack;
mod hosts;
mod layout;
mod lifecycle;
mod logs;
mod network;
mod observe;
mod pull;
mod reach;
mod spec;
mod upkeep;
mod usage;

/// An image that was prepared so long ago is looked at again.
const PREPARED_FOR: Duration = Duration::from_secs(600);
/// Prepared instances that are remembered; one forgotten costs one more look at its image.
const PREPARED_MAX: usize = 1024;

/// The Docker runtime of one agent.
pub struct DockerRuntime {
    client: Client,
    owner: Owner,
    configs: PathBuf,
    credentials: CredentialsFile,
    secrets: Arc<Secrets>,
    kept: Kept,
    image_gc: ImageGc,
    networks: Networks,
    observer: Observer,
    foreign: Foreign,
    events: Events,
    execs: Execs,
    debugs: Debugs,
    hosts: Arc<Hosts>,
    gpus: Grants,
    /// In which way containers are given GPUs, as it was told last.
    gpu_way: Mutex<String>,
    /// Fingerprints whose image is here, and since when: what `prepare` did `ensure` need not do again.
    prepared: Mutex<BTreeMap<InstanceName, (String, Instant)>>,
    /// Read while configs are laid out for a container that does not exist yet, written while they are swept.
    layouts: tokio::sync::RwLock<()>,
}

impl DockerRuntime {
    /// The daemon at `host` (`unix://<path>`), else at `DOCKER_HOST`, else at its usual place. `owner` as for `at_socket`.
    ///
    /// Error: `RuntimeUnsupported` where that is no Unix socket.
    pub fn at(host: Option<&str>, owner: &str, dirs: &RuntimeDirs) -> Result<Self, RuntimeError> {
        let from_env = std::env::var("DOCKER_HOST").ok();
        Ok(Self::at_socket(&client::socket_path(host.or(from_env.as_deref()))?, owner, dirs))
    }

    /// The daemon that listens at `socket`. Does not connect: a daemon may come later.
    ///
    /// `owner` tells this agent's containers from those of another one on the machine. It must stay the same as long as the
    /// containers shall be found again, and no other agent may have it: node name and place of the data directory, say.
    pub fn at_socket(socket: &Path, owner: &str, dirs: &RuntimeDirs) -> Self {
        Self {
            client: Client::new(socket.to_owned()),
            owner: Owner::new(owner),
            configs: dirs.configs.clone(),
            credentials: CredentialsFile::None,
            secrets: Arc::default(),
            kept: Kept::nothing(),
            image_gc: ImageGc::default(),
            networks: Networks::default(),
            observer: Observer::default(),
            foreign: Foreign::default(),
            events: Events::default(),
            execs: Execs::default(),
            debugs: Debugs::default(),
            hosts: Arc::default(),
            gpus: Grants::default(),
            gpu_way: Mutex::default(),
            prepared: Mutex::default(),
            layouts: tokio::sync::RwLock::default(),
        }
    }

    /// With credentials for registries. Without this call there are none.
    #[must_use]
    pub fn with_credentials(self, credentials: CredentialsFile) -> Self {
        Self { credentials, ..self }
    }

    /// With what opens the secrets of instances. Without this call none can use any.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<Secrets>) -> Self {
        Self { secrets, ..self }
    }

    /// Removes images as `gc` says, and remembers in `directory`, which exists, what that takes. Without this call no image is removed.
    #[must_use]
    pub fn with_upkeep(self, directory: &Path, gc: ImageGc) -> Self {
        Self { kept: Kept::open(directory), image_gc: gc, ..self }
    }

    /// Keeps hosts files in `directory`, which Docker mounts from, for containers of `node` that share a cluster with other nodes. Without this call
    /// there are none.
    #[must_use]
    pub fn with_hosts(self, directory: &Path, node: &NodeName) -> Self {
        Self { hosts: Arc::new(Hosts::new(directory.to_owned(), node.clone())), ..self }
    }

    /// With what containers are granted of GPUs. Without this call there are none.
    #[must_use]
    pub fn with_grants(self, gpus: Grants) -> Self {
        Self { gpus, ..self }
    }

    /// The name that an instance's container has.
    pub fn container_name(&self, instance: &InstanceName) -> String {
        self.owner.container(instance)
    }

    /// The name that a network of an app has: its own one, or a further one.
    pub fn network_name(&self, app: &AppName, further: Option<&NetworkName>) -> String {
        self.owner.network(app, further)
    }

    fn take_prepared(&self, instance: &InstanceSpec) -> bool {
        let taken = self.prepared().remove(&instance.name);
        taken.is_some_and(|(fingerprint, at)| {
            fingerprint == instance.fingerprint && at.elapsed() < PREPARED_FOR
        })
    }

    fn forget_prepared(&self, instance: &InstanceName) {
        self.prepared().remove(instance);
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceName, (String, Instant)>> {
        lock(&self.prepared)
    }

    /// The id of a container of an instance: as last observed, else as listed now.
    async fn container_id(&self, place: Place, instance: &InstanceName) -> Result<String, RuntimeError> {
        if let Some(id) = self.observer.id(place, instance) {
            return Ok(id);
        }
        let observed = self.observe().await?;
        let found = observed.into_iter().find(|one| one.instance == *instance && one.place == place);
        found.map(|one| one.runtime_id).ok_or_else(|| RuntimeError {
            reason: "NotRunning",
            message: format!("{instance} has no container"),
            transient: true,
        })
    }
}

#[async_trait::async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn probe(&self) -> Result<String, RuntimeError> {
        let failed = |failure: Failure| failure.while_doing("asking Docker for its version", "ProbeFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let version = self.client.within(LOOK_DEADLINE, docker.version()).await.map_err(failed)?;
        Ok(version.version.unwrap_or_default())
    }

    async fn describe(&self) -> Result<String, RuntimeError> {
        let failed = |failure: Failure| failure.while_doing("asking Docker about itself", "ProbeFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let about = self.client.within(LOOK_DEADLINE, docker.info()).await.map_err(failed)?;
        Ok(describe::lines(&about))
    }

    async fn prepare(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        let container = spec::container(instance)?;
        // What does not read takes nothing away: it is known before the old copy goes.
        environment::read(instance, &self.secrets).await?;
        self.secrets.check(instance)?;
        self.gpus.of(instance)?;
        self.obtain_image(instance, container, progress).await?;
        let mut prepared = self.prepared();
        if prepared.len() >= PREPARED_MAX {
            prepared.clear();
        }
        prepared.insert(instance.name.clone(), (instance.fingerprint.clone(), Instant::now()));
        Ok(())
    }

    async fn fetch_image(&self, image: &Image, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        let secret = match &image.credentials {
            None => None,
            Some((name, sealed)) => {
                Some((name.clone(), self.secrets.credentials_in(name, sealed.as_deref())?))
            }
        };
        let logins = Logins { file: self.credentials.clone(), secret };
        pull::obtain(&self.client, &logins, &self.kept, image.into(), progress).await
    }

    async fn ensure(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        self.make_run(instance, None, progress).await
    }

    async fn ensure_at(
        &self,
        place: Place,
        instance: &InstanceSpec,
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        self.make_run(instance, Some(place), progress).await
    }

    async fn withdraw(&self, instance: &InstanceName, runtime_id: &str) -> Result<(), RuntimeError> {
        self.take_away(instance, Some(runtime_id)).await
    }

    async fn stop(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.stop_all(instance).await
    }

    async fn kill(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.kill_all(instance).await
    }

    async fn remove(&self, instance: &InstanceName) -> Result<(), RuntimeError> {
        self.take_away(instance, None).await
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        self.execs.reap(&self.client, None).await;
        self.debugs.reap(&self.client, &self.owner).await;
        let observed = self.observer.observe(&self.client, &self.owner, &self.foreign).await;
        let mut observed =
            observed.map_err(|failure| failure.while_doing("listing containers", "ListFailed"))?;
        self.hosts.warn(&mut observed, &self.observer.networked());
        Ok(observed)
    }

    /// Docker cannot end a command, so one whose caller went away is ended with the next look at Docker: see `exec.rs`.
    async fn exec(&self, instance: &InstanceName, command: &[String]) -> Result<i32, RuntimeError> {
        self.exec_at(Place::Own, instance, command).await
    }

    async fn exec_at(
        &self,
        place: Place,
        instance: &InstanceName,
        command: &[String],
    ) -> Result<i32, RuntimeError> {
        let container = self.container_id(place, instance).await?;
        let ran = self.execs.run(&self.client, instance, &container, command).await;
        if ran.as_ref().is_err_and(|error| error.reason == "NotRunning") {
            self.observer.forget_instance(instance);
        }
        ran
    }

    async fn command(&self, copy: &Observed, ask: &ExecAsk, line: ExecLine) -> Result<Exit, RuntimeError> {
        let (instance, container) = (&copy.instance, copy.runtime_id.as_str());
        let Some(image) = &ask.debug_image else {
            return command::run(&self.client, instance, container, ask, line).await;
        };
        let means = debug::Means {
            client: &self.client,
            owner: &self.owner,
            credentials: &self.credentials,
            kept: &self.kept,
        };
        self.debugs.run(means, instance, container, image, (ask, line)).await
    }

    async fn logs(
        &self,
        copy: &Observed,
        ask: &LogAsk,
        out: &mpsc::Sender<LogPart>,
    ) -> Result<(), RuntimeError> {
        logs::tell(&self.client, &copy.runtime_id, ask, out).await
    }

    async fn reach(&self, copy: &Observed) -> Result<Reach, RuntimeError> {
        reach::of(&self.client, copy).await
    }

    async fn usage(&self, app: Option<&AppName>) -> Result<Vec<Used>, RuntimeError> {
        let machine_bytes = u64::try_from(crate::machine::memory_bytes()).unwrap_or(0);
        let counted = usage::count(&self.client, &self.owner, app, machine_bytes).await;
        counted.map_err(|failure| failure.while_doing("counting what containers use", "UsageFailed"))
    }

    async fn copy_to(
        &self,
        copy: &Observed,
        path: &str,
        archive: mpsc::Receiver<CopyPart>,
    ) -> Result<(), RuntimeError> {
        copy::to(&self.client, &copy.runtime_id, path, archive).await
    }

    async fn copy_from(
        &self,
        copy: &Observed,
        source: &CopySource,
        out: &mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), RuntimeError> {
        copy::from(&self.client, &copy.runtime_id, source, out).await
    }

    async fn sweep(&self, wanted: &Wanted) -> Result<(), RuntimeError> {
        self.networks.sweep(&self.client, &self.owner, wanted).await?;
        // Somebody lays out at this moment: another time.
        let Ok(_guard) = self.layouts.try_write() else { return Ok(()) };
        let listed = observe::list(&self.client, vec![self.owner.filter()]).await;
        let listed = listed.map_err(|failure| failure.while_doing("listing containers", "ListFailed"))?;
        let in_use = observe::mounted_paths(&listed);
        self.sweep_hosts(in_use.clone()).await?;
        let (configs, wanted) = (self.configs.clone(), wanted.configs.clone());
        let swept = tokio::task::spawn_blocking(move || layout::sweep(&configs, &wanted, &in_use)).await;
        swept.map_err(std::io::Error::other).flatten().map_err(|error| RuntimeError {
            reason: "SweepFailed",
            message: format!("removing laid-out configs: {error}"),
            transient: true,
        })
    }

    async fn note(&self, volumes: &VolumeWords) -> Result<(), RuntimeError> {
        self.note_volumes(volumes).await
    }

    async fn collect(&self, needs: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        self.collect_all(needs).await
    }

    fn take_names(&self, names: Arc<Names>) {
        self.hosts.take(names);
    }

    async fn keep_names(&self) -> Result<(), RuntimeError> {
        self.rewrite_hosts().await
    }

    async fn changed(&self) {
        self.events.next(&self.client, &self.owner.filter(), &self.observer).await;
    }
}
