//! What makes two copies of an instance the same: a hash over the values that a running copy depends on.
//!
//! Over values in one fixed order, each with its length, never over encoded protobuf (which is not canonical). Left out is what the agent
//! can change its mind about while a copy runs: replicas, where they are placed, requests, health check, dependencies, restart policy, pull policy,
//! credentials for pulls.
//! Of secrets their versions are in it and never their values: the hash stands in a label, and a short value could be tried out against it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use skerry_model::app::{
    Artifact, Container, Device, EnvSource, ExtraHost, IpcMode, LogBounds, MountSource, NetworkMode,
    OnChange, Process, Program, Protocol, SecretEntries, ServiceSpec, Ulimit, Unpack,
};
use skerry_model::gpu::GpuShare;
use skerry_model::{ConfigName, GpuBooking, SecretName};

use crate::desired::ConfigContent;
use crate::secrets::SealedContent;

/// Changes with the meaning of the hash; raising it restarts every instance, so it is raised for nothing less.
const FORMAT: &str = "skerry-fingerprint-1";

/// BLAKE3 over all that a running copy of `service` depends on, 64 hexadecimal digits.
pub(crate) fn fingerprint(
    service: &ServiceSpec,
    configs: &BTreeMap<ConfigName, Arc<ConfigContent>>,
    secrets: &BTreeMap<SecretName, Arc<SealedContent>>,
    gpus: &[GpuBooking],
) -> String {
    let mut hash = Canon::default();
    hash.text(FORMAT);
    match &service.program {
        Program::Container(container) => hash.container(container),
        Program::Process(process) => {
            hash.text("process");
            hash.text(&process.program);
            hash.texts(&process.args);
        }
    }
    hash.count(service.env.len());
    for (key, value) in &service.env {
        hash.text(key);
        hash.text(value);
    }
    hash.option(service.working_directory.as_deref());
    hash.option(service.user.as_deref());
    hash.count(service.configs.len());
    for mount in &service.configs {
        hash.text(mount.config.as_str());
        hash.text(&mount.path);
        hash.option(mount.key.as_deref());
        let content = configs.get(&mount.config).map(|content| content.hash.to_string());
        hash.option(content.as_deref());
    }
    hash.number(service.limits.cpu_millis.unwrap_or(0));
    hash.number(service.limits.memory_bytes.unwrap_or(0));
    hash.option(service.stop.signal.as_deref());
    hash.number(u64::try_from(service.stop.grace_period.as_millis()).unwrap_or(u64::MAX));
    // Came later: they count only where they say something, so that they restarted nothing when they came.
    if let Some(pids) = service.limits.pids {
        hash.field("pids", [pids.to_string()]);
    }
    if let Some(swap) = service.limits.swap_bytes {
        hash.field("swap_bytes", [swap.to_string()]);
    }
    if let Some(time) = service.restart_time {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        hash.field("restart_time", [since.as_nanos().to_string()]);
    }
    for (n, mount) in service.configs.iter().enumerate().filter(|(_, mount)| mount.executable) {
        hash.field("executable", [n.to_string(), mount.path.clone()]);
    }
    for source in &service.env_from {
        match source {
            EnvSource::Config { config, key } => {
                let content = configs.get(config).map(|content| content.hash.to_string());
                let key = key.clone().unwrap_or_default();
                hash.field("env_config", [config.to_string(), key, content.unwrap_or_default()]);
            }
            EnvSource::Secret { secret, entries } => {
                let version = secrets.get(secret).map(|one| one.version.clone()).unwrap_or_default();
                let (key, variable) = match entries {
                    SecretEntries::All => (None, None),
                    SecretEntries::File(key) => (Some(key), None),
                    SecretEntries::Value { key, variable } => (Some(key), Some(variable)),
                };
                let text = |text: Option<&String>| text.cloned().unwrap_or_default();
                hash.field("env_secret", [secret.to_string(), text(key), text(variable), version]);
            }
            EnvSource::File { path, optional } => {
                hash.field("env_file", [path.clone(), optional.to_string()]);
            }
        }
    }
    for mount in &service.secrets {
        let version = secrets.get(&mount.secret).map(|one| one.version.clone()).unwrap_or_default();
        let version = match mount.on_change {
            OnChange::Restart => version,
            OnChange::Update => "updated".to_owned(),
        };
        let (secret, path, key) =
            (mount.secret.to_string(), mount.path.clone(), mount.key.clone().unwrap_or_default());
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let (user, group) = mount.owner.map_or((None, None), |(user, group)| (Some(user), group));
        let (mode, owner) = (mount.mode.to_string(), format!("{}:{}", number(user), number(group)));
        hash.field("secret", [secret, path, key, mode, owner, version]);
    }
    // A copy of something that goes on is no run of a job. Which run it is of is said beside the hash.
    if service.is_job() {
        hash.field("job", [String::new()]);
    }
    // How well it is kept from others is nothing that it was made from: a daemon may come and go.
    for GpuBooking { gpu, share, isolation: _ } in gpus {
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let share = match share {
            GpuShare::Whole => ["whole".to_owned(), String::new()],
            GpuShare::Part { memory_bytes, compute_percent } => {
                [number(*memory_bytes), number(compute_percent.map(u64::from))]
            }
            GpuShare::Mig { profile, device } => [profile.to_string(), device.to_string()],
        };
        hash.field("gpu", std::iter::once(gpu.to_string()).chain(share));
    }
    match &service.program {
        Program::Container(container) => hash.settings(container),
        Program::Process(process) => hash.process(process),
    }
    hash.0.finalize().to_hex().to_string()
}

/// Feeds values to a hash so that no two different sequences of values feed the same bytes.
#[derive(Default)]
struct Canon(blake3::Hasher);

impl Canon {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.count(texts.len());
        for text in texts {
            self.text(text);
        }
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn process(&mut self, process: &Process) {
        if process.log != LogBounds::default() {
            let LogBounds { max_size_bytes, max_files } = process.log;
            self.field("log", [max_size_bytes.to_string(), max_files.to_string()]);
        }
        // Not by their URLs: the same bytes from elsewhere are the same artifact.
        for Artifact { url: _, sha256, path, executable, unpack } in &process.artifacts {
            let unpack = match unpack {
                None => "",
                Some(Unpack::Tar) => "tar",
                Some(Unpack::TarGz) => "tar-gz",
            };
            self.field("artifact", [sha256.clone(), path.clone(), executable.to_string(), unpack.to_owned()]);
        }
    }

    fn container(&mut self, container: &Container) {
        self.text("container");
        self.text(&container.image);
        self.texts(&container.entrypoint);
        self.texts(&container.command);
        self.count(container.ports.len());
        for port in &container.ports {
            self.number(u64::from(port.container_port));
            self.number(u64::from(port.host_port));
            self.number(match port.protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => 1,
            });
            self.option(port.host_address.map(|address| address.to_string()).as_deref());
        }
        self.count(container.mounts.len());
        for mount in &container.mounts {
            self.text(&mount.target);
            match &mount.source {
                MountSource::Bind { path, .. } => {
                    self.text("bind");
                    self.text(path);
                }
                // What becomes of it at the end is nothing to a copy that runs.
                MountSource::Volume { name: volume, .. } => {
                    self.text("volume");
                    self.text(volume.as_str());
                }
                MountSource::Tmpfs { size_bytes, mode } => {
                    self.text("tmpfs");
                    self.number(size_bytes.unwrap_or(0));
                    self.option(mode.map(|mode| mode.to_string()).as_deref());
                }
            }
            self.number(u64::from(mount.read_only));
        }
        self.number(match container.network.mode {
            NetworkMode::App => 0,
            NetworkMode::Host => 1,
            NetworkMode::None => 2,
        });
        self.option(container.hostname.as_deref());
    }

    /// A field with its values, if there are any. Only at the end, where what follows can be taken for nothing else.
    fn field(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if !values.is_empty() {
            self.text(name);
            self.texts(&values);
        }
    }

    fn settings(&mut self, container: &Container) {
        let pairs = |map: &BTreeMap<String, String>| -> Vec<String> {
            map.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect()
        };
        let yes = |flag: bool| flag.then(String::new);
        let Container { network, isolation, kernel, log, .. } = container;
        self.field("platform", container.platform.clone());
        self.field("labels", pairs(&container.labels));
        self.field("network_aliases", network.aliases.clone());
        for (name, aliases) in &network.further {
            self.field("network", std::iter::once(name.to_string()).chain(aliases.iter().cloned()));
        }
        self.field("only_networks", yes(network.only_further));
        for ExtraHost { hostname, address } in &network.extra_hosts {
            let address = address.map_or_else(String::new, |address| address.to_string());
            self.field("extra_host", [hostname.clone(), address]);
        }
        self.field("dns_servers", network.dns.servers.iter().map(ToString::to_string));
        self.field("dns_search", network.dns.search.clone());
        self.field("dns_options", network.dns.options.clone());
        self.field("read_only_root", yes(isolation.read_only_root));
        self.field("cap_add", isolation.cap_add.clone());
        self.field("cap_drop", isolation.cap_drop.clone());
        self.field("privileged", yes(isolation.privileged));
        self.field("security_opts", isolation.security_opts.clone());
        for Device { path, target, permissions } in &isolation.devices {
            self.field("device", [path, target, permissions].map(Clone::clone));
        }
        self.field("group_add", isolation.group_add.clone());
        let ipc = isolation.ipc.map(|ipc| match ipc {
            IpcMode::Private => "private",
            IpcMode::Shareable => "shareable",
            IpcMode::Host => "host",
        });
        self.field("ipc", ipc.map(str::to_owned));
        self.field("host_pid", yes(isolation.host_pid));
        for Ulimit { name, soft, hard } in &kernel.ulimits {
            self.field("ulimit", [name.clone(), soft.to_string(), hard.to_string()]);
        }
        self.field("sysctls", pairs(&kernel.sysctls));
        self.field("shm_size_bytes", kernel.shm_size_bytes.map(|bytes| bytes.to_string()));
        self.field("init", yes(kernel.init));
        self.field("log_driver", log.driver.clone());
        self.field("log_options", pairs(&log.options));
        self.field("tty", yes(container.tty));
        self.field("stdin_open", yes(container.stdin_open));
        self.field("device_cgroup_rules", isolation.device_cgroup_rules.clone());
        self.field("runtime", isolation.runtime.clone());
        self.field("oom_score_adj", kernel.oom_score_adj.map(|score| score.to_string()));
        self.field("cpuset_cpus", kernel.cpuset_cpus.clone());
        for mount in &container.mounts {
            if let MountSource::Bind { propagation: Some(propagation), .. } = &mount.source {
                self.field("propagation", [mount.target.clone(), propagation.clone()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{app, service};
    use skerry_model::AppSpec;
    use skerry_model::app::{Dependency, DependencyCondition, HealthCheck, Probe, RestartWhen};
    use skerry_model::{ContentHash, ServiceName};

    /// Of `base`, as the first version of this hash had it.
    const PINNED: &str = "8f5697cdadace5690aa9fb1cc951084fa045601c3dc618ea7b60222bc39da214";

    fn base() -> ServiceSpec {
        AppSpec::from_proto(&app(vec![service("web")])).unwrap().services.remove(0)
    }

    fn of(service: &ServiceSpec) -> String {
        fingerprint(service, &BTreeMap::new(), &BTreeMap::new(), &[])
    }

    #[test]
    fn only_what_a_running_copy_depends_on_counts() {
        let mut same = base();
        same.restart.when = RestartWhen::Never;
        same.health_check = Some(HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            retries: 1,
        });
        same.depends_on = vec![Dependency {
            service: ServiceName::parse("db").unwrap(),
            condition: DependencyCondition::Started,
        }];
        same.requests.cpu_millis = Some(5);
        same.update = skerry_model::app::UpdateOrder::StartFirst;
        same.placing = skerry_model::app::Placing { priority: 9, ..Default::default() };
        assert_eq!(of(&same), of(&base()));
    }

    #[test]
    fn each_thing_that_a_running_copy_depends_on_counts() {
        let changes: Vec<fn(&mut ServiceSpec)> = vec![
            |s| drop(s.env.insert("A".into(), "1".into())),
            |s| drop(s.env.insert("A".into(), "2".into())),
            |s| s.working_directory = Some("/".into()),
            |s| s.user = Some("/".into()),
            |s| s.limits.cpu_millis = Some(1),
            |s| s.limits.memory_bytes = Some(1),
            |s| s.stop.signal = Some("SIGINT".into()),
            |s| s.stop.grace_period = Duration::from_secs(1),
            |s| container(s).image = "other".into(),
            |s| container(s).entrypoint = vec!["a".into()],
            |s| container(s).command = vec!["a".into()],
            |s| container(s).command = vec!["a".into(), String::new()],
            |s| container(s).network.mode = NetworkMode::Host,
            |s| container(s).network.mode = NetworkMode::None,
            |s| s.limits.pids = Some(1),
            |s| s.limits.swap_bytes = Some(1),
            |s| s.restart_time = Some(UNIX_EPOCH),
            |s| s.restart_time = Some(UNIX_EPOCH + Duration::from_nanos(1)),
            |s| container(s).platform = Some("linux/amd64".into()),
            |s| drop(container(s).labels.insert("a".into(), "b".into())),
            |s| container(s).network.aliases = vec!["a".into()],
            |s| drop(container(s).network.further.insert(network("a"), vec![])),
            |s| drop(container(s).network.further.insert(network("a"), vec!["b".into()])),
            |s| container(s).network.only_further = true,
            |s| container(s).network.extra_hosts = vec![ExtraHost { hostname: "a".into(), address: None }],
            |s| container(s).network.dns.servers = vec!["192.0.2.1".parse().unwrap()],
            |s| container(s).network.dns.search = vec!["a".into()],
            |s| container(s).network.dns.options = vec!["a".into()],
            |s| container(s).isolation.read_only_root = true,
            |s| container(s).isolation.cap_add = vec!["a".into()],
            |s| container(s).isolation.cap_drop = vec!["a".into()],
            |s| container(s).isolation.privileged = true,
            |s| container(s).isolation.security_opts = vec!["a".into()],
            |s| container(s).isolation.devices = vec![device("r")],
            |s| container(s).isolation.devices = vec![device("w")],
            |s| container(s).isolation.group_add = vec!["a".into()],
            |s| container(s).isolation.ipc = Some(IpcMode::Host),
            |s| container(s).isolation.ipc = Some(IpcMode::Private),
            |s| container(s).isolation.host_pid = true,
            |s| container(s).kernel.ulimits = vec![Ulimit { name: "core".into(), soft: 0, hard: 0 }],
            |s| container(s).kernel.ulimits = vec![Ulimit { name: "core".into(), soft: 0, hard: 1 }],
            |s| drop(container(s).kernel.sysctls.insert("a".into(), "b".into())),
            |s| container(s).kernel.shm_size_bytes = Some(1),
            |s| container(s).kernel.init = true,
            |s| container(s).log.driver = Some("local".into()),
            |s| drop(container(s).log.options.insert("a".into(), "b".into())),
            |s| container(s).tty = true,
            |s| container(s).stdin_open = true,
            |s| container(s).isolation.device_cgroup_rules = vec!["a".into()],
            |s| container(s).isolation.runtime = Some("a".into()),
            |s| container(s).kernel.oom_score_adj = Some(0),
            |s| container(s).kernel.cpuset_cpus = Some("0".into()),
            |s| container(s).mounts = vec![bind(None)],
            |s| container(s).mounts = vec![bind(Some("rslave"))],
            |s| container(s).mounts = vec![tmpfs(None, None)],
            |s| container(s).mounts = vec![tmpfs(Some(1), None)],
            |s| container(s).mounts = vec![tmpfs(None, Some(0))],
            |s| container(s).hostname = Some("a".into()),
        ];
        let mut seen = std::collections::BTreeSet::from([of(&base())]);
        for (n, change) in changes.iter().enumerate() {
            let mut changed = base();
            change(&mut changed);
            assert!(seen.insert(of(&changed)), "change {n} is not seen");
        }
    }

    #[test]
    fn a_copy_of_what_goes_on_is_no_run_of_a_job_and_the_numbers_of_a_job_do_not_count() {
        use skerry_model::app::{Job, Kind};
        let job = |completions| {
            let job = Job { completions, parallelism: completions, backoff_limit: 1, deadline: None };
            ServiceSpec { kind: Kind::Job(job), ..base() }
        };
        assert_ne!(of(&job(1)), of(&base()));
        assert_eq!(of(&job(1)), of(&job(2)));
    }

    #[test]
    fn new_content_of_a_config_counts() {
        let mut web = base();
        let config = ConfigName::parse("motd").unwrap();
        web.configs.push(skerry_model::app::ConfigMount {
            config: config.clone(),
            path: "/a".into(),
            key: None,
            executable: false,
        });
        let with = |bytes: &[u8]| {
            let content = ConfigContent { hash: ContentHash::of(bytes), files: BTreeMap::new() };
            fingerprint(&web, &BTreeMap::from([(config.clone(), Arc::new(content))]), &BTreeMap::new(), &[])
        };
        assert_ne!(with(b"a"), with(b"b"));
        assert_eq!(with(b"a"), with(b"a"));
    }

    #[test]
    fn what_was_made_before_these_fields_came_has_the_same_fingerprint() {
        assert_eq!(of(&base()), PINNED, "raising it restarts every instance of every installation");
    }

    fn network(name: &str) -> skerry_model::NetworkName {
        skerry_model::NetworkName::parse(name).unwrap()
    }

    fn device(permissions: &str) -> Device {
        Device { path: "/dev/null".into(), target: "/dev/null".into(), permissions: permissions.into() }
    }

    fn bind(propagation: Option<&str>) -> skerry_model::app::Mount {
        let source = MountSource::Bind { path: "/b".into(), propagation: propagation.map(str::to_owned) };
        skerry_model::app::Mount { target: "/t".into(), source, read_only: false }
    }

    fn tmpfs(size_bytes: Option<u64>, mode: Option<u32>) -> skerry_model::app::Mount {
        let source = MountSource::Tmpfs { size_bytes, mode };
        skerry_model::app::Mount { target: "/t".into(), source, read_only: false }
    }

    fn container(service: &mut ServiceSpec) -> &mut Container {
        match &mut service.program {
            Program::Container(container) => container,
            Program::Process(_) => panic!("the base is a container"),
        }
    }
}
