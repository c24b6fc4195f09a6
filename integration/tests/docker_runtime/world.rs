//! What the tests of the Docker runtime share: an owner of one's own, looks at Docker past the runtime, and small specs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::docker::DockerRuntime;
use skerry_agent::runtime::{Observed, RunState, Runtime, RuntimeDirs, RuntimeError};
use skerry_model::app::{
    Amounts, Container, Isolation, Kernel, Kind, Log, Network, Placing, Program, PullPolicy, RestartPolicy,
    RestartWhen, ServiceSpec, StopPolicy, UpdateOrder,
};
use skerry_model::{ContentHash, InstanceName, ServiceName};
use skerry_testing::{BUSYBOX_IMAGE, Docker};
use tempfile::TempDir;

/// Runs until it is asked to end, and then ends at once.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 0.05; done";
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) docker: Docker,
    pub(crate) runtime: DockerRuntime,
    pub(crate) owner: String,
    pub(crate) dir: TempDir,
}

impl World {
    /// None: no Docker, and somebody said that this is fine.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let docker = Docker::required()?;
        docker.busybox().expect("the busybox image is made");
        let dir = tempfile::tempdir().expect("a directory");
        let owner = format!("test/{test}/{}", std::process::id());
        let runtime = runtime(&docker, &owner, &dir);
        Some(Self { docker, runtime, owner, dir })
    }

    pub(crate) fn label(&self) -> String {
        format!("skerry.io/managed-by={}", self.owner)
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        self.docker.containers(&self.label()).expect("containers are listed")
    }

    pub(crate) fn inspect(&self, spec: &InstanceSpec) -> Value {
        self.docker.inspect(&self.runtime.container_name(&spec.name)).expect("the container is there")
    }

    pub(crate) fn post(&self, path: &str) {
        let answer = self.docker.request("POST", path, &[]).expect("Docker answers");
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    }

    pub(crate) fn post_json(&self, path: &str, body: &Value) {
        let answer = self.docker.post_json(path, body).expect("Docker answers");
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    }

    pub(crate) async fn ensure(&self, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        self.runtime.ensure(spec, &|_| ()).await
    }

    pub(crate) async fn observe(&self, spec: &InstanceSpec) -> Option<Observed> {
        let observed = self.runtime.observe().await.expect("Docker is observed");
        observed.into_iter().find(|one| one.instance == spec.name)
    }

    pub(crate) async fn exec(&self, spec: &InstanceSpec, script: &str) -> i32 {
        let command = ["sh", "-c", script].map(str::to_owned);
        self.runtime.exec(&spec.name, &command).await.expect("the command runs")
    }

    /// What a filter (`label=value`, as Docker's JSON wants it) finds of `networks` or `volumes`.
    pub(crate) fn listed(&self, what: &str) -> Vec<Value> {
        let filters = format!("%7B%22label%22:%5B%22{}%22%5D%7D", self.label().replace('/', "%2F"));
        let answer = self.docker.json("GET", &format!("/{what}?filters={filters}")).expect("a list");
        let list = if what == "volumes" { &answer["Volumes"] } else { &answer };
        list.as_array().cloned().unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.docker.remove_labelled(&self.label()).expect("containers and networks are removed");
        for volume in self.listed("volumes") {
            let name = volume["Name"].as_str().unwrap_or_default();
            self.docker.request("DELETE", &format!("/volumes/{name}"), &[]).expect("volumes are removed");
        }
    }
}

pub(crate) fn runtime(docker: &Docker, owner: &str, dir: &TempDir) -> DockerRuntime {
    let dirs = RuntimeDirs {
        configs: dir.path().join("configs"),
        instances: dir.path().join("instances"),
        artifacts: dir.path().join("artifacts"),
    };
    DockerRuntime::at_socket(docker.socket(), owner, &dirs)
}

pub(crate) fn shell(script: &str) -> Container {
    Container {
        image: BUSYBOX_IMAGE.to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        image_credentials: None,
        entrypoint: vec![],
        command: vec!["sh".into(), "-c".into(), script.into()],
        ports: vec![],
        mounts: vec![],
        hostname: None,
        platform: None,
        network: Network::default(),
        isolation: Isolation::default(),
        kernel: Kernel::default(),
        log: Log::default(),
        tty: false,
        stdin_open: false,
        labels: BTreeMap::new(),
    }
}

/// An instance `app/<service>/n1/0`, whose fingerprint is made of all that `change` did.
pub(crate) fn spec(
    service: &str,
    container: Container,
    change: impl FnOnce(&mut ServiceSpec),
) -> InstanceSpec {
    let mut service = ServiceSpec {
        name: ServiceName::parse(service).expect("a service name"),
        kind: Kind::DaemonSet,
        program: Program::Container(container),
        placing: Placing::default(),
        gpu: None,
        env: BTreeMap::new(),
        env_from: Vec::new(),
        working_directory: None,
        user: None,
        configs: vec![],
        secrets: vec![],
        requests: Amounts::default(),
        limits: Amounts::default(),
        health_check: None,
        depends_on: vec![],
        restart: RestartPolicy {
            when: RestartWhen::Always,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        },
        stop: StopPolicy { signal: None, grace_period: Duration::from_secs(5) },
        restart_time: None,
        update: UpdateOrder::StopFirst,
    };
    change(&mut service);
    InstanceSpec {
        name: InstanceName::parse(&format!("app/{}/n1/0", service.name)).expect("an instance name"),
        revision: ContentHash::of(b"revision"),
        fingerprint: ContentHash::of(format!("{service:?}").as_bytes()).to_string(),
        service: Arc::new(service),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
        gpus: Vec::new(),
    }
}

pub(crate) fn idle(service: &str) -> InstanceSpec {
    spec(service, shell(IDLE), |_| ())
}

pub(crate) fn idle_with_env(value: &str) -> InstanceSpec {
    spec("web", shell(IDLE), |service| {
        service.env.insert("VALUE".into(), value.into());
    })
}

pub(crate) fn is_running(observed: Option<&Observed>) -> bool {
    matches!(observed, Some(Observed { state: RunState::Running { .. }, .. }))
}
