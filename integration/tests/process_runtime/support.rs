//! One directory of instances, and specs of shells to run in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::process::{Config, ProcessRuntime};
use skerry_agent::runtime::{Observed, RunState, Runtime, RuntimeDirs, RuntimeError};
use skerry_model::app::{
    Amounts, Kind, Placing, Process, Program, RestartPolicy, RestartWhen, ServiceSpec, StopPolicy,
    UpdateOrder,
};
use skerry_model::{ContentHash, InstanceName, ServiceName};
use skerry_testing::{bin, eventually};
use tempfile::TempDir;

pub(super) const SOON: Duration = Duration::from_secs(20);
/// Says that it has begun, and ends at once when it is asked to.
pub(super) const IDLE: &str = "trap 'echo asked; exit 0' TERM; echo begun; while :; do sleep 0.05; done";

pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) runtime: ProcessRuntime,
    pub(super) config: Config,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let dirs = RuntimeDirs {
            configs: dir.path().join("configs"),
            instances: dir.path().join("instances"),
            artifacts: dir.path().join("artifacts"),
        };
        let boot_id = dir.path().join("boot_id");
        fs::write(&boot_id, "boot-1\n").expect("written");
        let config = Config { shim: bin("skerry-agent"), boot_id, ..Config::new(&dirs) };
        Self { runtime: ProcessRuntime::new(config.clone()), dir, config }
    }

    /// As after `kill -9` of the agent.
    pub(super) fn another_agent(&mut self) {
        self.runtime = ProcessRuntime::new(self.config.clone());
    }

    pub(super) async fn start(&self, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        self.runtime.ensure(spec, &|_| {}).await
    }

    pub(super) async fn seen(&self, spec: &InstanceSpec) -> Option<Observed> {
        let all = self.runtime.observe().await.expect("observed");
        all.into_iter().find(|seen| seen.instance == spec.name)
    }

    pub(super) async fn pid(&self, spec: &InstanceSpec) -> i32 {
        let seen = self.seen(spec).await.expect("it is there");
        assert!(matches!(seen.state, RunState::Running { .. }), "{seen:?}");
        seen.runtime_id.parse().expect("a process id")
    }

    pub(super) fn path(&self, spec: &InstanceSpec, file: &str) -> PathBuf {
        self.runtime.instance_dir(&spec.name).join(file)
    }

    pub(super) fn read(&self, spec: &InstanceSpec, file: &str) -> String {
        fs::read_to_string(self.path(spec, file)).unwrap_or_default()
    }

    pub(super) async fn has_written(&self, spec: &InstanceSpec, file: &str, text: &str) {
        eventually(&format!("{file} holds {text:?}"), SOON, async || {
            let content = self.read(spec, file);
            if content.contains(text) { Ok(()) } else { Err(content) }
        })
        .await;
    }

    /// Waits for `changed` and looks, as the reconciler does, until it has ended.
    pub(super) async fn exited(&self, spec: &InstanceSpec) -> Option<i32> {
        let waiting = async {
            loop {
                if let Some(Observed { state: RunState::Exited { code, .. }, .. }) = self.seen(spec).await {
                    return code;
                }
                self.runtime.changed().await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("its end is told without looking again and again")
    }

    /// The shim of a running instance: the parent of its program.
    pub(super) async fn shim(&self, spec: &InstanceSpec) -> i32 {
        parent(self.pid(spec).await)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in processes_with(&format!("SKERRY_STATE_DIR={}", self.dir.path().display())) {
            kill(pid);
        }
    }
}

pub(super) fn spec_of(name: &str, program: &str, args: &[&str]) -> InstanceSpec {
    InstanceSpec {
        name: InstanceName::parse(name).expect("a name"),
        revision: ContentHash::of(b"revision"),
        service: Arc::new(ServiceSpec {
            name: ServiceName::parse("web").expect("a name"),
            kind: Kind::DaemonSet,
            program: Program::Process(Process {
                program: program.to_owned(),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                ..Process::default()
            }),
            placing: Placing::default(),
            gpu: None,
            env: BTreeMap::new(),
            env_from: Vec::new(),
            working_directory: None,
            user: None,
            configs: Vec::new(),
            secrets: Vec::new(),
            requests: Amounts::default(),
            limits: Amounts::default(),
            health_check: None,
            depends_on: Vec::new(),
            restart: RestartPolicy {
                when: RestartWhen::Always,
                backoff: Duration::from_secs(1),
                backoff_max: Duration::from_secs(1),
            },
            stop: StopPolicy { signal: None, grace_period: SOON },
            restart_time: None,
            update: UpdateOrder::StopFirst,
        }),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
        gpus: Vec::new(),
        fingerprint: "one".to_owned(),
    }
}

pub(super) fn shell(script: &str) -> InstanceSpec {
    spec_of("app/web/n1/0", "sh", &["-c", script])
}

pub(super) fn change(
    spec: &InstanceSpec,
    fingerprint: &str,
    change: impl FnOnce(&mut ServiceSpec),
) -> InstanceSpec {
    let mut service = (*spec.service).clone();
    change(&mut service);
    InstanceSpec { service: Arc::new(service), fingerprint: fingerprint.to_owned(), ..spec.clone() }
}

/// SIGKILL.
pub(super) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    // Failure means that it has ended.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub(super) fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields[1].parse().expect("a process id")
}

pub(super) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Processes whose environment holds `text`.
pub(super) fn processes_with(text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(text)
        })
        .collect()
}

pub(super) async fn gone(pid: i32) {
    eventually(
        &format!("process {pid} is gone"),
        SOON,
        async || {
            if is_alive(pid) { Err("alive") } else { Ok(()) }
        },
    )
    .await;
}

/// The process id in a `shim` record's line `shim <pid> <start time>`.
pub(super) fn shim_of(line: &str) -> Option<String> {
    Some(line.strip_prefix("shim ")?.split(' ').next()?.to_owned())
}
