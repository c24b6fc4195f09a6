//! Making exactly one copy of an instance run, and taking it away: small steps, each found again by looking.
//!
//! Nothing is remembered between two calls. Each pass lists the instance's containers by label, does what is next, and is done or looks
//! again; so a call that was dropped anywhere is finished by the next one. That there are never two copies is the engine's doing: the name
//! is fixed, and it refuses a second container of that name, also when the answer to the first request got lost. Of a copy that is started
//! beside the one that it is to replace the name is another, as fixed; once the old one is gone it is renamed.

mod stop;

use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State, MountPoint};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
};
use skerry_model::InstanceName;
use skerry_model::app::{Container, Probe};
use tracing::debug;

use super::client::{CREATE_DEADLINE, LOOK_DEADLINE, REMOVE_DEADLINE, START_DEADLINE};
use super::credentials::Logins;
use super::error::{Failure, Kind};
use super::observe::{is_named, is_running, list, missing_networks};
use super::spec::{
    self, LABEL_FINGERPRINT, LABEL_GPUS, LABEL_GRACE, LABEL_INSTANCE, LABEL_OWNER, attachments, gpu_label,
};
use super::{DockerRuntime, layout, network, pull};
use crate::desired::InstanceSpec;
use crate::gpu::Granted;
use crate::runtime::{GRACE_DEFAULT, Place, Progress, ProgressSink, RuntimeError, environment};

/// Passes that need no waiting: replace, find the network gone, make both anew, and then some.
const PASSES_MAX: u32 = 12;
/// Waits for Docker to finish what an abandoned request began; they double from the first to the last, 12 s in all.
const WAIT_FIRST: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A container of the instance.
struct Copy {
    id: String,
    fingerprint: String,
    state: Option<State>,
    grace: Duration,
    /// Whether it has the instance's own name.
    named: bool,
    /// Whether it has the name of the one beside.
    beside: bool,
    /// Networks that it was put in and is not in any more.
    missing_networks: Vec<String>,
    volumes: Vec<MountPoint>,
    /// What it was granted of GPUs.
    gpus: String,
}

/// Of a container that is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Made just now.
    New,
    /// There before this call.
    Kept,
}

impl Age {
    /// Of one that is made anew: what it wrote is still wanted, and one that never ran wrote nothing.
    fn volumes(self) -> Volumes {
        match self {
            Self::New => Volumes::Go,
            Self::Kept => Volumes::Stay,
        }
    }
}

/// What becomes of the anonymous volumes of a container that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Volumes {
    /// They go with it: nobody wants such a copy any more.
    Go,
    /// A copy that is made in its stead gets them.
    Stay,
}

/// What is known of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Image {
    Unknown,
    /// It was here a while ago.
    Prepared,
    /// This call has seen to it.
    Here,
}

/// What one pass leaves to the next.
struct Work {
    image: Image,
    /// Volumes of a copy of this fingerprint that may have to be made anew. They are not known to anybody else once that is gone.
    carried: Vec<MountPoint>,
}

impl Work {
    /// What a copy that is made in the stead of this one has to have.
    fn carry(&mut self, copy: &Copy) {
        if !copy.volumes.is_empty() {
            self.carried.clone_from(&copy.volumes);
        }
    }
}

/// What a pass came to.
enum Pass {
    Done,
    /// Look again at once.
    Again,
    /// Look again after a while; this is why, should it not help.
    Wait(RuntimeError),
}

impl DockerRuntime {
    /// Makes a copy run: of all that there may be the only one, or the one in `place`, with the other left alone.
    pub(super) async fn make_run(
        &self,
        instance: &InstanceSpec,
        place: Option<Place>,
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        let prepared = self.take_prepared(instance);
        let mut work =
            Work { image: if prepared { Image::Prepared } else { Image::Unknown }, carried: Vec::new() };
        let mut last = None;
        for pass in 0..PASSES_MAX {
            match self.pass(instance, place, &mut work, progress).await? {
                Pass::Done => return Ok(()),
                Pass::Again => {}
                Pass::Wait(why) => {
                    tokio::time::sleep(wait(pass)).await;
                    last = Some(why);
                }
            }
        }
        Err(last.unwrap_or_else(|| RuntimeError {
            reason: "CreateFailed",
            message: format!("{} came to no rest in {PASSES_MAX} attempts", instance.name),
            transient: true,
        }))
    }

    /// Stops and removes all copies, or the one with this id.
    pub(super) async fn take_away(
        &self,
        instance: &InstanceName,
        only: Option<&str>,
    ) -> Result<(), RuntimeError> {
        self.forget_prepared(instance);
        self.observer.forget_instance(instance);
        let mut last = None;
        for pass in 0..PASSES_MAX {
            let mut copies = self.copies(instance).await?;
            copies.retain(|copy| only.is_none_or(|id| copy.id == id));
            if copies.is_empty() {
                return Ok(());
            }
            for copy in &copies {
                if let Pass::Wait(why) = self.stop_and_remove(instance, copy, Volumes::Go).await? {
                    tokio::time::sleep(wait(pass)).await;
                    last = Some(why);
                }
            }
        }
        Err(last.unwrap_or_else(|| RuntimeError {
            reason: "RemoveFailed",
            message: format!("containers of {instance} keep coming back"),
            transient: true,
        }))
    }

    /// The containers of an instance, however they are named.
    async fn copies(&self, instance: &InstanceName) -> Result<Vec<Copy>, RuntimeError> {
        let labels = vec![self.owner.filter(), format!("{LABEL_INSTANCE}={instance}")];
        let listed = list(&self.client, labels).await;
        let failed = |failure: Failure| failure.while_doing(&format!("looking for {instance}"), "ListFailed");
        let listed = self.foreign.without(&self.client, &self.owner, listed.map_err(failed)?).await;
        let listed = listed.map_err(failed)?;
        let (name, beside) = (self.owner.container(instance), self.owner.beside(instance));
        Ok(listed.into_iter().filter_map(|one| copy(one, &name, &beside)).collect())
    }

    async fn pass(
        &self,
        instance: &InstanceSpec,
        place: Option<Place>,
        work: &mut Work,
        progress: ProgressSink<'_>,
    ) -> Result<Pass, RuntimeError> {
        let container = spec::container(instance)?;
        let mut copies = self.copies(&instance.name).await?;
        if place == Some(Place::Own) {
            copies.retain(|copy| !copy.beside);
        }
        // One that runs has what it has. What is started is started with what is granted now, or not at all.
        let granted = self.gpus.of(instance);
        let has_gpus = |copy: &Copy| {
            is_running(copy.state)
                || granted.as_ref().is_ok_and(|granted| gpu_label(granted.as_ref()) == copy.gpus)
        };
        let fits = |copy: &Copy| {
            copy.fingerprint == instance.fingerprint && !is_broken(copy.state) && has_gpus(copy)
        };
        // One that runs before one that does not.
        copies.sort_by_key(|copy| !is_running(copy.state));
        let kept = copies.iter().position(fits).map(|at| copies.swap_remove(at));
        if place == Some(Place::Beside) {
            copies.retain(|copy| copy.beside);
        }
        if !copies.is_empty() {
            if kept.is_none() {
                // What cannot run takes nothing away.
                granted.clone()?;
                environment::read(instance, &self.secrets).await?;
                self.secrets.check(instance)?;
            }
            if kept.is_none() && work.image == Image::Unknown {
                self.obtain_image(instance, container, progress).await?;
                work.image = Image::Here;
            }
            for copy in &copies {
                let volumes = if copy.fingerprint == instance.fingerprint {
                    work.carry(copy);
                    Volumes::Stay
                } else {
                    Volumes::Go
                };
                if let wait @ Pass::Wait(_) = self.stop_and_remove(&instance.name, copy, volumes).await? {
                    return Ok(wait);
                }
            }
        }
        match kept {
            Some(copy) if is_running(copy.state) && place == Some(Place::Beside) => Ok(Pass::Done),
            Some(copy) if is_running(copy.state) => self.repair(instance, container, &copy, progress).await,
            Some(copy) => {
                // A network of the app may be gone since.
                self.ensure_networks(instance, container).await?;
                work.carry(&copy);
                // They are gone with the boot before.
                self.lay_out_secrets(instance).await?;
                self.lay_out_hosts(instance, &[]).await?;
                self.connect_and_start(instance, container, &copy.id, Age::Kept).await
            }
            None => {
                let granted = granted?;
                self.create(instance, place.unwrap_or(Place::Own), work, (granted, progress)).await
            }
        }
    }

    /// Puts right what other hands changed about a copy that runs.
    async fn repair(
        &self,
        instance: &InstanceSpec,
        container: &Container,
        copy: &Copy,
        progress: ProgressSink<'_>,
    ) -> Result<Pass, RuntimeError> {
        let failed =
            |failure: Failure| failure.while_doing(&format!("repairing {}", instance.name), "RepairFailed");
        let tell = |what: &str| {
            progress(Progress { reason: "Repaired", message: format!("by other hands it was {what}") });
        };
        if !copy.named {
            let name = self.owner.container(&instance.name);
            let docker = self.client.docker().await.map_err(failed)?;
            let options = RenameContainerOptionsBuilder::new().name(&name).build();
            self.client
                .within(LOOK_DEADLINE, docker.rename_container(&copy.id, options))
                .await
                .map_err(failed)?;
            if !copy.beside {
                tell("renamed: it has its name again");
            }
        }
        if !copy.missing_networks.is_empty() {
            // The network may be gone altogether, and what is known of it old.
            self.networks.forget(&instance.name.app);
            self.ensure_networks(instance, container).await?;
            let attachments = attachments(instance, container, &self.owner);
            for attachment in
                attachments.iter().filter(|one| copy.missing_networks.contains(&one.docker_name))
            {
                network::connect(&self.client, &copy.id, attachment).await.map_err(failed)?;
            }
            tell("disconnected: it is in its networks again");
        }
        if copy.state == Some(State::PAUSED) {
            let docker = self.client.docker().await.map_err(failed)?;
            self.client.within(START_DEADLINE, docker.unpause_container(&copy.id)).await.map_err(failed)?;
            tell("paused: it goes on");
        }
        Ok(Pass::Done)
    }

    async fn create(
        &self,
        instance: &InstanceSpec,
        place: Place,
        work: &mut Work,
        (granted, progress): (Option<Granted>, ProgressSink<'_>),
    ) -> Result<Pass, RuntimeError> {
        let container = spec::container(instance)?;
        if work.image == Image::Unknown && must_look_at_image(instance, container) {
            self.obtain_image(instance, container, progress).await?;
            work.image = Image::Here;
        }
        // Until the container exists nothing shows that its configs are in use.
        let _laying_out = self.layouts.read().await;
        self.lay_out(instance).await?;
        self.lay_out_secrets(instance).await?;
        self.ensure_networks(instance, container).await?;
        let env = environment::read(instance, &self.secrets).await?;
        let body = spec::create_body(instance, &self.owner, &self.configs, &env.merged())?;
        let body = spec::with_secrets(body, &self.secrets.places(instance)?)?;
        let body = spec::with_hosts(body, self.lay_out_hosts(instance, &[]).await?)?;
        let body = spec::with_volumes(body, &work.carried);
        let body = self.with_gpus(body, instance, container, granted.as_ref()).await?;
        let name = match place {
            Place::Own => self.owner.container(&instance.name),
            Place::Beside => self.owner.beside(&instance.name),
        };
        let failed =
            |failure: Failure| failure.while_doing(&format!("creating container `{name}`"), "CreateFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let options = CreateContainerOptionsBuilder::new().name(&name);
        let options = match &container.platform {
            Some(platform) => options.platform(platform).build(),
            None => options.build(),
        };
        match self.client.within(CREATE_DEADLINE, docker.create_container(Some(options), body)).await {
            Ok(created) => self.connect_and_start(instance, container, &created.id, Age::New).await,
            Err(failure) => match failure.kind {
                // Also one that was found before: it may have been removed since.
                Kind::NoImage | Kind::OtherPlatform if work.image != Image::Here => {
                    let logins = self.logins(instance)?;
                    pull::obtain_absent(&self.client, &logins, &self.kept, container.into(), progress)
                        .await?;
                    work.image = Image::Here;
                    Ok(Pass::Again)
                }
                Kind::NoNetwork => {
                    self.networks.forget(&instance.name.app);
                    Ok(Pass::Wait(failed(failure)))
                }
                Kind::NameTaken => self.look_at_holder(instance, &name, failure).await,
                _ => Err(failed(failure)),
            },
        }
    }

    /// Another container has our name: our own, whose creation was answered to nobody, or a stranger.
    async fn look_at_holder(
        &self,
        instance: &InstanceSpec,
        name: &str,
        refused: Failure,
    ) -> Result<Pass, RuntimeError> {
        let failed =
            |failure: Failure| failure.while_doing(&format!("looking at container `{name}`"), "CreateFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let later = refused.while_doing(&format!("creating container `{name}`"), "CreateFailed");
        let later = RuntimeError { transient: true, ..later };
        match self.client.within(LOOK_DEADLINE, docker.inspect_container(name, None)).await {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let is = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
                if is(LABEL_OWNER, self.owner.as_str()) && is(LABEL_INSTANCE, &instance.name.to_string()) {
                    return Ok(Pass::Wait(later));
                }
                Err(RuntimeError {
                    reason: "NameTaken",
                    message: format!(
                        "a container `{name}` exists that is not this agent's: remove or rename it"
                    ),
                    transient: false,
                })
            }
            // The name is reserved before the container exists.
            Err(Failure { kind: Kind::NotFound, .. }) => Ok(Pass::Wait(later)),
            Err(failure) => Err(failed(failure)),
        }
    }

    /// Starts a container, once it is in all of its networks: it was made in the first.
    async fn connect_and_start(
        &self,
        instance: &InstanceSpec,
        container: &Container,
        id: &str,
        age: Age,
    ) -> Result<Pass, RuntimeError> {
        for attachment in attachments(instance, container, &self.owner).iter().skip(1) {
            match network::connect(&self.client, id, attachment).await {
                Ok(()) => {}
                Err(failure) => {
                    let doing = format!("connecting {} to `{}`", instance.name, attachment.docker_name);
                    let gone = matches!(failure.kind, Kind::NoNetwork | Kind::NotFound | Kind::BeingRemoved);
                    let error = failure.while_doing(&doing, "NetworkFailed");
                    if !gone {
                        return Err(error);
                    }
                    self.networks.forget(&instance.name.app);
                    return Ok(Pass::Wait(error));
                }
            }
        }
        self.start(instance, id, age).await
    }

    async fn start(&self, instance: &InstanceSpec, id: &str, age: Age) -> Result<Pass, RuntimeError> {
        let failed =
            |failure: Failure| failure.while_doing(&format!("starting {}", instance.name), "StartFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let started = self.client.within(START_DEADLINE, docker.start_container(id, None)).await;
        self.observer.forget(id);
        match started {
            Ok(()) => {
                self.name_itself(instance, id).await;
                Ok(Pass::Done)
            }
            Err(failure) if failure.kind == Kind::NoNetwork => {
                // It holds on to the network that it was made with, so it is made anew.
                debug!(instance = %instance.name, error = failure.message, "the network of a container is gone");
                self.networks.forget(&instance.name.app);
                self.remove(id, age.volumes()).await?;
                Ok(Pass::Wait(failed(failure)))
            }
            // Also for a reason that nobody knows: what a kill or a power loss left behind has many texts, and a new one is free of it.
            Err(failure)
                if failure.kind == Kind::StaleTask || (age == Age::Kept && failure.kind == Kind::Other) =>
            {
                debug!(instance = %instance.name, error = failure.message, "a container that cannot start again is made anew");
                self.remove(id, age.volumes()).await?;
                Ok(Pass::Wait(failed(failure)))
            }
            Err(Failure { kind: Kind::NotFound, .. }) => Ok(Pass::Again),
            Err(failure) if failure.kind == Kind::BeingRemoved => Ok(Pass::Wait(failed(failure))),
            Err(failure) => Err(failed(failure)),
        }
    }

    async fn stop_and_remove(
        &self,
        instance: &InstanceName,
        copy: &Copy,
        volumes: Volumes,
    ) -> Result<Pass, RuntimeError> {
        self.stop_one(instance, copy).await?;
        self.remove(&copy.id, volumes).await
    }

    /// Removes a container that does not run; named volumes stay.
    async fn remove(&self, id: &str, volumes: Volumes) -> Result<Pass, RuntimeError> {
        let failed =
            |failure: Failure| failure.while_doing(&format!("removing container {id}"), "RemoveFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        let options = RemoveContainerOptionsBuilder::new().v(volumes == Volumes::Go).force(true).build();
        match self.client.within(REMOVE_DEADLINE, docker.remove_container(id, Some(options))).await {
            Ok(()) | Err(Failure { kind: Kind::NotFound, .. }) => {
                self.observer.gone(id);
                Ok(Pass::Again)
            }
            Err(failure) if failure.kind == Kind::BeingRemoved => Ok(Pass::Wait(failed(failure))),
            Err(failure) => Err(failed(failure)),
        }
    }

    pub(super) async fn obtain_image(
        &self,
        instance: &InstanceSpec,
        container: &Container,
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        let logins = self.logins(instance)?;
        pull::obtain(&self.client, &logins, &self.kept, container.into(), progress).await?;
        if relies_on_image(instance) {
            pull::require_health_check(&self.client, &container.image).await?;
        }
        Ok(())
    }

    /// What there is to show to registries.
    fn logins(&self, instance: &InstanceSpec) -> Result<Logins, RuntimeError> {
        let secret = self.secrets.image_credentials(instance)?;
        Ok(Logins { file: self.credentials.clone(), secret })
    }

    async fn lay_out_secrets(&self, instance: &InstanceSpec) -> Result<(), RuntimeError> {
        if instance.service.secrets.is_empty() {
            return Ok(());
        }
        let (secrets, instance) = (Arc::clone(&self.secrets), instance.clone());
        let done = tokio::task::spawn_blocking(move || secrets.lay_out(&instance, None)).await;
        done.unwrap_or_else(|error| {
            let message = format!("laying out secrets: {error}");
            Err(RuntimeError { reason: "SecretLayoutFailed", message, transient: true })
        })
    }

    async fn ensure_networks(
        &self,
        instance: &InstanceSpec,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        for attachment in attachments(instance, container, &self.owner) {
            let network = (instance.name.app.clone(), attachment.network.cloned());
            self.networks.ensure(&self.client, &self.owner, &network).await?;
        }
        Ok(())
    }

    async fn lay_out(&self, instance: &InstanceSpec) -> Result<(), RuntimeError> {
        for (config, content) in &instance.configs {
            let (configs, name, content) = (self.configs.clone(), config.clone(), content.clone());
            let done = tokio::task::spawn_blocking(move || layout::lay_out(&configs, &name, &content)).await;
            done.map_err(std::io::Error::other).flatten().map_err(|error| RuntimeError {
                reason: if error.kind() == std::io::ErrorKind::StorageFull {
                    "DiskFull"
                } else {
                    "ConfigLayoutFailed"
                },
                message: format!("laying out config `{config}`: {error}"),
                transient: true,
            })?;
        }
        Ok(())
    }
}

/// Otherwise creating tells whether the image is here, with no question before.
fn must_look_at_image(instance: &InstanceSpec, container: &Container) -> bool {
    container.pull_policy == skerry_model::app::PullPolicy::Always || relies_on_image(instance)
}

fn relies_on_image(instance: &InstanceSpec) -> bool {
    instance.service.health_check.as_ref().is_some_and(|check| check.probe == Probe::Image)
}

/// Half removed: neither starts again nor is gone.
fn is_broken(state: Option<State>) -> bool {
    matches!(state, Some(State::DEAD | State::REMOVING))
}

fn copy(listed: ContainerSummary, name: &str, beside: &str) -> Option<Copy> {
    let (named, missing_networks) = (is_named(&listed, name), missing_networks(&listed));
    let beside = !named && is_named(&listed, beside);
    let volumes = listed.mounts.into_iter().flatten();
    let volumes = volumes.filter(|mount| mount.typ.as_deref() == Some("volume")).collect();
    let labels = listed.labels.unwrap_or_default();
    let grace = labels.get(LABEL_GRACE).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    Some(Copy {
        id: listed.id?,
        fingerprint: labels.get(LABEL_FINGERPRINT).cloned().unwrap_or_default(),
        state: listed.state,
        grace: grace.unwrap_or(GRACE_DEFAULT),
        named,
        beside,
        missing_networks,
        volumes,
        gpus: labels.get(LABEL_GPUS).cloned().unwrap_or_default(),
    })
}

fn wait(pass: u32) -> Duration {
    WAIT_FIRST.saturating_mul(1 << pass.min(16)).min(WAIT_MAX)
}
