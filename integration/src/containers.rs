//! The containers of one node, looked at past Skerry, and removed when the test ends.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use skerry_proto::types::v1::container::PullPolicy;
use skerry_proto::types::v1::{Mount, NetworkMode, ServiceSpec, mount, service_spec};
use skerry_testing::{Docker, eventually};

use crate::Witness;
use crate::apps::container;
use crate::stack::PATIENCE;

const LABEL_OWNER: &str = "skerry.io/managed-by";
const LABEL_INSTANCE: &str = "skerry.io/instance";

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    /// `<app>/<service>/<cluster>/<ordinal>`.
    pub instance: String,
    /// Docker's id.
    pub id: String,
    /// When it started, as Docker writes it: another start of the same container has another time.
    pub started_at: String,
    /// The process of the machine that it is.
    pub pid: u32,
    /// What its `VERSION` variable says.
    pub version: String,
}

/// The containers of a node of project `default`. Dropping it removes them with their networks and volumes, so make it before the stack whose agent would make new ones.
#[derive(Debug)]
pub struct Containers {
    docker: Docker,
    node: String,
}

impl Containers {
    /// Of `node`, whose name must be of this test alone on the whole machine: [`unique`] makes such.
    pub fn of(docker: &Docker, node: &str) -> Self {
        Self { docker: docker.clone(), node: node.to_owned() }
    }

    /// Those that run, by instance.
    pub fn running(&self) -> Result<Vec<Running>> {
        let listed = self.docker.json("GET", "/containers/json")?;
        let mut running = Vec::new();
        for one in listed.as_array().into_iter().flatten().filter(|one| self.is_ours(one)) {
            let id = one["Id"].as_str().unwrap_or_default();
            // One that is gone since does not run.
            let Ok(seen) = self.docker.inspect(id) else { continue };
            let env = seen["Config"]["Env"].as_array().into_iter().flatten();
            let version = env.filter_map(Value::as_str).find_map(|one| one.strip_prefix("VERSION="));
            running.push(Running {
                instance: one["Labels"][LABEL_INSTANCE].as_str().unwrap_or_default().to_owned(),
                id: id.to_owned(),
                started_at: seen["State"]["StartedAt"].as_str().unwrap_or_default().to_owned(),
                pid: seen["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
                version: version.unwrap_or_default().to_owned(),
            });
        }
        running.sort();
        Ok(running)
    }

    /// The one that runs of an app with one instance on the node; none where none does.
    ///
    /// # Errors
    /// When several do.
    pub fn of_app(&self, app: &str) -> Result<Option<Running>> {
        let prefix = format!("{app}/");
        let mut found: Vec<_> =
            self.running()?.into_iter().filter(|one| one.instance.starts_with(&prefix)).collect();
        ensure!(found.len() <= 1, "runs twice: {found:?}");
        Ok(found.pop())
    }

    /// Waits until nothing of the node is left.
    pub async fn wait_none(&self) {
        eventually("no container left", PATIENCE, async || {
            let running = self.running()?;
            ensure!(running.is_empty(), "{running:?}");
            Ok(())
        })
        .await;
    }

    fn is_ours(&self, one: &Value) -> bool {
        let owner = one["Labels"][LABEL_OWNER].as_str().unwrap_or_default();
        owner.starts_with(&format!("default/{}/", self.node))
    }

    fn remove(&self) -> Result<()> {
        let mut owners = BTreeSet::new();
        for path in ["/containers/json?all=1", "/networks"] {
            let listed = self.docker.json("GET", path)?;
            let ours = listed.as_array().into_iter().flatten().filter(|one| self.is_ours(one));
            owners.extend(ours.filter_map(|one| one["Labels"][LABEL_OWNER].as_str().map(str::to_owned)));
        }
        owners.iter().try_for_each(|owner| self.docker.remove_labelled(&format!("{LABEL_OWNER}={owner}")))?;
        // Last, when nothing uses them.
        let volumes = self.docker.json("GET", "/volumes")?;
        for one in volumes["Volumes"].as_array().into_iter().flatten().filter(|one| self.is_ours(one)) {
            let name = one["Name"].as_str().unwrap_or_default();
            self.docker.request("DELETE", &format!("/volumes/{name}"), &[])?;
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("containers of {} were not removed: {error:#}", self.node);
        }
    }
}

/// A name that no other test and no other run of this one has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A service in a container that stays, ends at once when it is told to, and signs the witness's book as `name` when it starts; on the
/// machine's network.
pub fn signing(name: &str, version: &str, witness: &Witness) -> ServiceSpec {
    let book = witness.path();
    let script = format!("echo \"{name} 0 $VERSION\" >>/book/starts; exec sleep 1000000");
    let mount = Mount {
        target: "/book".to_owned(),
        source: Some(mount::Source::Bind(mount::Bind {
            path: book.display().to_string(),
            ..Default::default()
        })),
        read_only: false,
    };
    adapted(crate::apps::with_env("VERSION", version, container(name, &script)), |container| {
        container.network_mode = NetworkMode::Host.into();
        container.mounts.push(mount.clone());
    })
}

/// The same on the network of its app.
pub fn on_app_network(service: ServiceSpec) -> ServiceSpec {
    adapted(service, |container| container.network_mode = NetworkMode::App.into())
}

/// The same of the test's image as it is on this machine: nothing is pulled.
pub fn local(service: ServiceSpec) -> ServiceSpec {
    adapted(service, |container| container.pull_policy = PullPolicy::Never.into())
}

/// The same of another image, which is pulled if it is not there.
pub fn of_image(image: &str, service: ServiceSpec) -> ServiceSpec {
    adapted(service, |container| {
        image.clone_into(&mut container.image);
        container.pull_policy = PullPolicy::IfNotPresent.into();
    })
}

fn adapted(mut service: ServiceSpec, adapt: impl Fn(&mut skerry_proto::types::v1::Container)) -> ServiceSpec {
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        adapt(container);
    }
    // Process 1 of a container is deaf to SIGTERM without a handler.
    if let Some(stop) = &mut service.stop {
        "SIGKILL".clone_into(&mut stop.signal);
    }
    service
}
