//! New containers beside an instance's, for a look at it with tools that its image has not: they share its processes and its network.
//!
//! Each is removed when its command has ended. One that was given up is noted, and removed with the next look at Docker; those of an agent that
//! was killed are found by their label when the next one begins. Its program ends at once in any case: see `guard`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use skerry_model::InstanceName;

use super::client::{CREATE_DEADLINE, Client, REMOVE_DEADLINE, START_DEADLINE};
use super::command::{self, State, Target};
use super::credentials::{CredentialsFile, Logins};
use super::error::{Failure, Kind};
use super::guard::Guard;
use super::spec::Owner;
use super::upkeep::Kept;
use super::{hijack, observe, pull};
use crate::ahead::Image;
use crate::lock::lock;
use crate::runtime::RuntimeError;
use crate::runtime::exec::{ExecAsk, ExecLine, Exit, Told};

/// Whose it is. Not the label of instances: nobody takes it for one.
const LABEL: &str = "skerry.io/debug-of";
/// The instance that it is beside.
const LABEL_INSTANCE: &str = "skerry.io/debugs";

/// Containers that are to go.
#[derive(Default)]
pub(super) struct Debugs {
    left: Mutex<Vec<String>>,
    /// Whether those of an agent before this one were looked for.
    has_looked: AtomicBool,
}

/// Notes a container when dropped before it was removed.
struct Held<'a> {
    debugs: &'a Debugs,
    id: Option<String>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            lock(&self.debugs.left).push(id);
        }
    }
}

/// By what images are fetched.
pub(super) struct Means<'a> {
    pub(super) client: &'a Client,
    pub(super) owner: &'a Owner,
    pub(super) credentials: &'a CredentialsFile,
    pub(super) kept: &'a Kept,
}

impl Debugs {
    /// Runs a command in a new container of `image` beside the container of an instance, until its end or until it is given up.
    pub(super) async fn run(
        &self,
        means: Means<'_>,
        instance: &InstanceName,
        container: &str,
        image: &str,
        (ask, line): (&ExecAsk, ExecLine),
    ) -> Result<Exit, RuntimeError> {
        let client = means.client;
        let failed = |failure: Failure| {
            failure.while_doing(&format!("running `{image}` beside {instance}"), "ExecFailed")
        };
        let docker = client.docker().await.map_err(failed)?;
        let wanted = Image { image: image.to_owned(), platform: None, credentials: None, round: 0 };
        let logins = Logins { file: means.credentials.clone(), secret: None };
        pull::obtain(client, &logins, means.kept, (&wanted).into(), &|_| {}).await?;

        let name = format!("skerry-debug-{}", command::random()?);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        // By its name, which is known before it is made.
        let mut held = Held { debugs: self, id: Some(name.clone()) };
        let body = body(means.owner, instance, container, image, ask);
        let created = client.within(CREATE_DEADLINE, docker.create_container(Some(options), body)).await;
        let id = created.map_err(failed)?.id;
        let terminal = ask.terminal.is_some();
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let opened = tokio::time::timeout(START_DEADLINE, hijack::open(client.socket(), &path, "", terminal));
        let opened =
            opened.await.map_err(|_| Failure::timed_out(START_DEADLINE)).flatten().map_err(failed)?;
        let mut guard = Guard::set(&id, None)?;
        let exit = match client.within(START_DEADLINE, docker.start_container(&id, None)).await {
            Ok(()) => {
                let target = Target::Container(id.clone());
                if let State::Runs(pid) = command::begun(client, &docker, &target).await.map_err(failed)? {
                    guard.leads(pid).await;
                }
                let flow = command::flow(client, &docker, &target, ask, opened, Vec::new(), &mut guard, line);
                flow.await.map(Exit::of)?
            }
            Err(failure) if matches!(failure.kind, Kind::NoProgram | Kind::NotExecutable) => {
                let _ = line.out.send(Told::Started).await;
                command::complained(failure.message)
            }
            Err(failure) => return Err(failed(failure)),
        };
        guard.over().await;
        if remove(client, &name).await {
            held.id = None;
        }
        Ok(exit)
    }

    /// Removes those that were given up, and once those of an agent before this one.
    pub(super) async fn reap(&self, client: &Client, owner: &Owner) {
        if !self.has_looked.load(Ordering::Relaxed) {
            let Ok(listed) = observe::list(client, vec![format!("{LABEL}={}", owner.as_str())]).await else {
                return;
            };
            // None of this agent's is among them: nothing runs beside what was not looked at.
            self.has_looked.store(true, Ordering::Relaxed);
            lock(&self.left).extend(listed.into_iter().filter_map(|one| one.id));
        }
        let left = std::mem::take(&mut *lock(&self.left));
        for id in left {
            if !remove(client, &id).await {
                lock(&self.left).push(id);
            }
        }
    }
}

/// Whether it is gone.
async fn remove(client: &Client, id: &str) -> bool {
    let Ok(docker) = client.docker().await else { return false };
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match client.within(REMOVE_DEADLINE, docker.remove_container(id, Some(options))).await {
        Ok(()) | Err(Failure { kind: Kind::NotFound, .. }) => true,
        Err(failure) => {
            tracing::debug!(id, error = failure.message, "a debug container is not removed");
            false
        }
    }
}

fn body(
    owner: &Owner,
    instance: &InstanceName,
    container: &str,
    image: &str,
    ask: &ExecAsk,
) -> ContainerCreateBody {
    let beside = format!("container:{container}");
    ContainerCreateBody {
        image: Some(image.to_owned()),
        // Whatever the image would run by itself.
        entrypoint: Some(ask.command.clone()),
        env: Some(command::variables(ask)),
        user: ask.user.clone(),
        working_dir: ask.working_dir.clone(),
        tty: Some(ask.terminal.is_some()),
        open_stdin: Some(ask.stdin),
        stdin_once: Some(ask.stdin),
        attach_stdin: Some(ask.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        labels: Some(HashMap::from([
            (LABEL.to_owned(), owner.as_str().to_owned()),
            (LABEL_INSTANCE.to_owned(), instance.to_string()),
        ])),
        host_config: Some(HostConfig {
            pid_mode: Some(beside.clone()),
            network_mode: Some(beside),
            // Debuggers look into the processes of the instance.
            cap_add: Some(vec!["SYS_PTRACE".to_owned()]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}
