//! An app's spec, valid by construction: what placement places and agents run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::{ConfigName, SecretName, Selector, ServiceName};

mod artifacts;
mod container;
mod env;
mod gpu;
mod graph;
mod image;
mod job;
mod parse;
mod placing;
mod process;
mod program;
mod rollout;
mod secrets;
mod settings;
mod stop;
#[cfg(test)]
mod tests;
mod update;

pub use artifacts::{Artifact, Unpack, normal_path};
pub use container::{
    Container, Device, Dns, ExtraHost, IpcMode, Isolation, Kernel, Log, Mount, MountSource, Network,
    NetworkMode, Port, Protocol, PullPolicy, Ulimit,
};
pub use env::{EnvSource, SecretEntries};
pub use gpu::{Gpu, GpuNeed, ModelSelector, OnOveruse};
pub use graph::start_order;
pub use image::check_image;
pub use job::{CronJob, Job, Overlap};
pub use parse::{REPLICAS_MAX, SERVICES_MAX, SPEC_BYTES_MAX};
pub use placing::{Failover, Placing, Spread};
pub use process::{LogBounds, Process};
pub use rollout::{BATCH_CLUSTERS_MAX, OnFailure, ROLLED_BACK, RolloutStrategy, Share, UpdateBounds};
pub use secrets::{OnChange, SecretMount};

/// What an app is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSpec {
    /// Which clusters it goes to. Empty: all, and for a system app none but those that it is chosen for.
    pub selector: Selector,
    /// Whether it is a system app, which goes where it is chosen too.
    pub system: bool,
    /// Its programs; names are unique, dependencies exist and have no cycle.
    pub services: Vec<ServiceSpec>,
    /// How changes come to the clusters. Absent: to all at once, and always in what a revision holds.
    pub rollout: Option<RolloutStrategy>,
}

/// One program of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// How many copies, and where.
    pub kind: Kind,
    /// What is run.
    pub program: Program,
    /// Environment variables. They win over `env_from`.
    pub env: BTreeMap<String, String>,
    /// Where more of them come from; a later one wins.
    pub env_from: Vec<EnvSource>,
    /// Absolute directory that it starts in.
    pub working_directory: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// Configs as read-only files.
    pub configs: Vec<ConfigMount>,
    /// Secrets as read-only files.
    pub secrets: Vec<SecretMount>,
    /// Kept free for it by placement; limits count where no request is named.
    pub requests: Amounts,
    /// Enforced on it.
    pub limits: Amounts,
    /// How to tell that it works.
    pub health_check: Option<HealthCheck>,
    /// Services that come first.
    pub depends_on: Vec<Dependency>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// How it is asked to end.
    pub stop: StopPolicy,
    /// When its instances were last asked to start anew.
    pub restart_time: Option<SystemTime>,
    /// How a copy of another revision takes its place.
    pub update: UpdateOrder,
    /// Which nodes of a cluster it may be on, and which of them is taken.
    pub placing: Placing,
    /// What it needs of its machine's GPUs. Absent: nothing.
    pub gpu: Option<Gpu>,
}

/// How many copies, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// So many in each matching cluster.
    Deployment {
        /// 0 to 100.
        replicas: u32,
    },
    /// One on each node of a matching cluster that it may be on.
    DaemonSet,
    /// Runs to completion.
    Job(Job),
    /// Runs to completion on a schedule.
    CronJob(CronJob),
}

/// What is run.
#[expect(clippy::large_enum_variant, reason = "most programs are containers, and a spec is held once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A container, by Docker.
    Container(Container),
    /// A process of the machine.
    Process(Process),
}

/// A config as read-only files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMount {
    /// Which config.
    pub config: ConfigName,
    /// With `key` the file's path, else the directory's. Containers: absolute. Processes: relative to the instance's state directory.
    pub path: String,
    /// One entry only.
    pub key: Option<String>,
    /// Whether the files may be executed; only for processes.
    pub executable: bool,
}

/// Amounts of resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads; only as a limit.
    pub pids: Option<u64>,
    /// Bytes of swap beside the memory; only as a limit, beside one on memory.
    pub swap_bytes: Option<u64>,
}

/// How to tell that a service works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Between two tries.
    pub interval: Duration,
    /// For one try.
    pub timeout: Duration,
    /// Failures in this time from the start do not count.
    pub start_period: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// What a health check tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// HTTP GET: 200 to 399.
    Http {
        /// Path and query.
        path: String,
        /// Port.
        port: u16,
    },
    /// TCP connect.
    Tcp {
        /// Port.
        port: u16,
    },
    /// A command inside: exit code 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The image's own.
    Image,
}

/// A service that comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Which.
    pub service: ServiceName,
    /// What is waited for.
    pub condition: DependencyCondition,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyCondition {
    /// It runs.
    Started,
    /// It is healthy.
    Healthy,
    /// It ended with exit code 0.
    Completed,
}

/// What happens when a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When it is started again.
    pub when: RestartWhen,
    /// Before the first restart; doubles up to `backoff_max`.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

/// When a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartWhen {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Never.
    Never,
}

/// How a program is asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopPolicy {
    /// Signal name with `SIG`, as `SIGTERM`. Absent: the image's own, else SIGTERM.
    pub signal: Option<String>,
    /// Before SIGKILL.
    pub grace_period: Duration,
}

/// Which comes first when a copy takes the place of another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpdateOrder {
    /// The old one is stopped, then the new one started.
    #[default]
    StopFirst,
    /// The new one is started beside the old one, which is stopped once the new one is healthy. Only containers that take nothing of the
    /// machine that is there only once.
    StartFirst,
}

impl AppSpec {
    /// The service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceSpec> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// Names of all configs that are used, each once.
    pub fn config_names(&self) -> BTreeSet<&ConfigName> {
        self.services.iter().flat_map(ServiceSpec::config_names).collect()
    }

    /// Names of all secrets that are used, each once.
    pub fn secret_names(&self) -> BTreeSet<&SecretName> {
        self.services.iter().flat_map(ServiceSpec::secret_names).collect()
    }
}

impl ServiceSpec {
    /// Names of the configs that it uses, as files or as environment, each once.
    pub fn config_names(&self) -> BTreeSet<&ConfigName> {
        let mounted = self.configs.iter().map(|mount| &mount.config);
        mounted.chain(self.env_from.iter().filter_map(EnvSource::config)).collect()
    }

    /// Names of the secrets that it uses, as files, as environment or for its image, each once.
    pub fn secret_names(&self) -> BTreeSet<&SecretName> {
        let for_image = match &self.program {
            Program::Container(container) => container.image_credentials.as_ref(),
            Program::Process(_) => None,
        };
        let mounted = self.secrets.iter().map(|mount| &mount.secret);
        mounted.chain(self.env_from.iter().filter_map(EnvSource::secret)).chain(for_image).collect()
    }

    /// Whether its instances end, and are not started again once they succeeded.
    pub fn is_job(&self) -> bool {
        matches!(self.kind, Kind::Job(_) | Kind::CronJob(_))
    }

    /// What placement keeps free for one instance: nothing for one of a job that only runs when another one has ended.
    pub fn booked_by(&self, ordinal: u32) -> Amounts {
        if self.is_counted(ordinal) { self.booked() } else { Amounts::default() }
    }

    /// The ports that one instance takes on the machine, likewise.
    pub fn ports_of(&self, ordinal: u32) -> &[Port] {
        if self.is_counted(ordinal) { self.host_ports() } else { &[] }
    }

    /// Of each run of a job there are as many instances to be counted as run at once.
    fn is_counted(&self, ordinal: u32) -> bool {
        let job = match &self.kind {
            Kind::Deployment { .. } | Kind::DaemonSet => return true,
            Kind::Job(job) => job,
            Kind::CronJob(cron) => &cron.job,
        };
        ordinal % job.completions < job.at_once()
    }

    /// What placement keeps free: requests, and limits where no request is named.
    pub fn booked(&self) -> Amounts {
        Amounts {
            cpu_millis: self.requests.cpu_millis.or(self.limits.cpu_millis),
            memory_bytes: self.requests.memory_bytes.or(self.limits.memory_bytes),
            ..Amounts::default()
        }
    }

    /// The ports that it takes on the machine.
    pub fn host_ports(&self) -> &[Port] {
        match &self.program {
            Program::Container(container) => &container.ports,
            Program::Process(_) => &[],
        }
    }
}
