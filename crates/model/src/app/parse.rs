//! From the wire to `AppSpec`: every rule on a spec, each with the field it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use skerry_proto::types::v1 as pb;

use crate::quantity::format_duration;
use crate::time::{from_proto_duration, from_timestamp};
use crate::{ConfigName, Fault, Selector, ServiceName, Violations, VolumeName};

use super::artifacts;
use super::{
    Amounts, AppSpec, ConfigMount, Dependency, DependencyCondition, HealthCheck, Kind, MountSource,
    NetworkMode, Probe, Program, RestartPolicy, RestartWhen, ServiceSpec, env, gpu, job, normal_path,
    placing, program, rollout, secrets, start_order, stop, update,
};

/// Most services of one app.
pub const SERVICES_MAX: usize = 64;
/// Most bytes of an encoded spec.
pub const SPEC_BYTES_MAX: usize = 256 * 1024;
/// Most copies of a `Deployment` in one cluster.
pub const REPLICAS_MAX: u32 = 100;
/// Longest wait before a restart, where none is said.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Most entries of any other list or map of a service.
const ENTRIES_MAX: usize = 256;

impl AppSpec {
    /// Parses what travels; violations name fields below `spec`.
    pub fn from_proto(spec: &pb::AppSpec) -> Result<Self, Fault> {
        let mut v = Violations::new();
        let bytes = spec.encoded_len();
        if bytes > SPEC_BYTES_MAX {
            return Err(Fault::invalid_field(
                "spec",
                format!("{bytes} bytes are too many for an app: at most {SPEC_BYTES_MAX}"),
            ));
        }
        if spec.services.is_empty() {
            v.add("spec.services", "name at least one service");
        }
        if spec.services.len() > SERVICES_MAX {
            let count = spec.services.len();
            return Err(Fault::invalid_field(
                "spec.services",
                format!("{count} services are too many: at most {SERVICES_MAX}"),
            ));
        }
        let selector = Selector::from_proto("spec.selector", spec.selector.as_ref(), &mut v);
        let services: Vec<ServiceSpec> = spec
            .services
            .iter()
            .enumerate()
            .filter_map(|(index, service)| parse_service(&format!("spec.services[{index}]"), service, &mut v))
            .collect();
        if v.is_empty() {
            check_together(&services, &mut v);
        }
        let rollout = spec.rollout.as_ref().map(|wire| rollout::parse("spec.rollout", wire, &mut v));
        v.finish(Some(Self { selector, system: spec.system, services, rollout }))
    }

    /// Parses stored bytes of a revision.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let spec = pb::AppSpec::decode(bytes)
            .map_err(|error| Fault::invalid_field("spec", format!("not an encoded app spec: {error}")))?;
        Self::from_proto(&spec)
    }
}

/// Rules that span services: unique names, known dependencies, no cycle, ports taken once.
fn check_together(services: &[ServiceSpec], v: &mut Violations) {
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut volumes = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        let at = format!("spec.services[{index}]");
        if !names.insert(&service.name) {
            v.add(
                format!("{at}.name"),
                format!("`{}` is there twice: names of services are unique", service.name),
            );
        }
        for (n, port) in service.host_ports().iter().enumerate() {
            if !ports.insert((port.host_port, port.protocol, port.host_address)) {
                v.add(
                    format!("{at}.container.ports[{n}].host_port"),
                    format!("port {} of the machine is taken twice in this app", port.host_port),
                );
            }
        }
        check_volumes(&at, service, &mut volumes, v);
        for (n, dependency) in service.depends_on.iter().enumerate() {
            let path = format!("{at}.depends_on[{n}]");
            match services.iter().find(|other| other.name == dependency.service) {
                None => v.add(
                    format!("{path}.service"),
                    format!("no service `{}` in this app", dependency.service),
                ),
                Some(other) if other.name == service.name => {
                    v.add(format!("{path}.service"), "a service cannot depend on itself");
                }
                Some(other) => check_condition(&path, other, dependency.condition, v),
            }
        }
    }
    if let Err(cycle) = start_order(services)
        && let [first, _, ..] = cycle.as_slice()
    {
        // A circle of one was told at its dependency.
        let text: Vec<&str> = cycle.iter().chain([first]).map(ServiceName::as_str).collect();
        v.add("spec.services", format!("dependencies go round in a circle: {}", text.join(" -> ")));
    }
}

/// All mounts of a volume say the same about its end.
fn check_volumes<'a>(
    at: &str,
    service: &'a ServiceSpec,
    volumes: &mut BTreeMap<&'a VolumeName, bool>,
    v: &mut Violations,
) {
    let Program::Container(container) = &service.program else { return };
    for (n, mount) in container.mounts.iter().enumerate() {
        if let MountSource::Volume { name, remove_with_app } = &mount.source
            && volumes.insert(name, *remove_with_app).is_some_and(|before| before != *remove_with_app)
        {
            v.add(
                format!("{at}.container.mounts[{n}].volume.remove_with_app"),
                format!("volume `{name}` is mounted in this app with another word on this: say the same everywhere"),
            );
        }
    }
}

fn check_condition(path: &str, other: &ServiceSpec, condition: DependencyCondition, v: &mut Violations) {
    match &other.kind {
        Kind::CronJob(_) => v.add(
            format!("{path}.service"),
            format!("`{}` runs at its own times: nothing can wait for a cron job", other.name),
        ),
        Kind::Job(_) if condition == DependencyCondition::Healthy => v.add(
            format!("{path}.condition"),
            format!("`{}` is a job, which ends: use completed or started", other.name),
        ),
        Kind::Job(_) | Kind::Deployment { .. } | Kind::DaemonSet => {}
    }
    let is_restarted = !other.is_job() && other.restart.when == RestartWhen::Always;
    if condition == DependencyCondition::Completed && is_restarted {
        v.add(
            format!("{path}.condition"),
            format!("`{}` is restarted always and so never completes: set its restart.policy to on-failure or never", other.name),
        );
    }
    if matches!(other.kind, Kind::Deployment { replicas: 0 }) {
        v.add(
            format!("{path}.service"),
            format!("`{}` has no replicas, so that this would wait for ever", other.name),
        );
    }
}

fn parse_service(at: &str, service: &pb::ServiceSpec, v: &mut Violations) -> Option<ServiceSpec> {
    let name = v.check(format!("{at}.name"), ServiceName::parse(&service.name));
    let kind = parse_kind(at, service.kind.as_ref(), v);
    let program = program::parse(at, service.program.as_ref(), v);
    bound(&format!("{at}.env"), service.env.len(), v);
    for (key, value) in &service.env {
        let is_container = matches!(program, Some(Program::Container(_)));
        check_env(&format!("{at}.env.{key}"), key, value, is_container, v);
    }
    let env_from = env::parse(&format!("{at}.env_from"), &service.env_from, v);
    let working_directory = absent_if_empty(&service.working_directory);
    if working_directory.as_ref().is_some_and(|path| !is_absolute(path)) {
        v.add(format!("{at}.working_directory"), "use an absolute path");
    }
    let user = absent_if_empty(&service.user);
    let is_process = matches!(program, Some(Program::Process(_)));
    if user.as_ref().is_some_and(|user| !is_user(user, is_process)) {
        v.add(format!("{at}.user"), "use user, uid, user:group or uid:gid");
    }
    bound(&format!("{at}.configs"), service.configs.len(), v);
    let configs = service
        .configs
        .iter()
        .enumerate()
        .filter_map(|(n, mount)| parse_config_mount(&format!("{at}.configs[{n}]"), mount, is_process, v))
        .collect::<Vec<_>>();
    let secrets = secrets::parse(at, &service.secrets, is_process, v);
    if let Some(Program::Process(process)) = &program {
        artifacts::check_configs(&format!("{at}.process.artifacts"), &process.artifacts, &configs, v);
        secrets::check_places(at, &secrets, &configs, &process.artifacts, v);
    }
    if let Some(Program::Container(container)) = &program {
        program::check_places(at, &container.mounts, &configs, &secrets, v);
    }
    let resources = service.resources.unwrap_or_default();
    let requests = parse_amounts(&format!("{at}.resources.requests"), resources.requests.as_ref(), v);
    let limits = parse_amounts(&format!("{at}.resources.limits"), resources.limits.as_ref(), v);
    check_limits(at, requests, limits, is_process, v);
    let health_check = service.health_check.as_ref().and_then(|check| parse_health(at, check, is_process, v));
    bound(&format!("{at}.depends_on"), service.depends_on.len(), v);
    let depends_on = service
        .depends_on
        .iter()
        .enumerate()
        .filter_map(|(n, dependency)| parse_dependency(&format!("{at}.depends_on[{n}]"), dependency, v))
        .collect();
    let is_job =
        matches!(service.kind, Some(pb::service_spec::Kind::Job(_) | pb::service_spec::Kind::CronJob(_)));
    let restart = parse_restart(&format!("{at}.restart"), service.restart.as_ref(), is_job, v);
    let stop = stop::parse(&format!("{at}.stop"), service.stop.as_ref(), is_process, v);
    let restart_time = service.restart_time.as_ref().and_then(|at_time| {
        let read = from_timestamp(at_time);
        if read.is_none() {
            v.add(format!("{at}.restart_time"), "use a time after 1970, as 2026-01-31T12:00:00Z");
        }
        read
    });
    let update = update::parse(&format!("{at}.update"), service.update.as_ref(), v);
    let placing = placing::parse(at, service, v);
    let gpu = service.gpu.as_ref().and_then(|wire| gpu::parse(at, wire, v));
    let (name, kind, program) = (name?, kind?, program?);
    update::check(&format!("{at}.update.order"), update, &program, v);
    check_reach(at, &program, health_check.as_ref(), v);
    job::check(at, &kind, &program, update, v);
    if gpu.is_some() {
        gpu::check(at, &kind, update, v);
    }
    Some(ServiceSpec {
        name,
        kind,
        program,
        env: service.env.clone(),
        env_from,
        working_directory,
        user,
        configs,
        secrets,
        requests,
        limits,
        health_check,
        depends_on,
        restart,
        stop,
        restart_time,
        update,
        placing,
        gpu,
    })
}

/// What Docker takes; for a process, no part of it may be empty.
fn is_user(user: &str, is_process: bool) -> bool {
    let fits = user.len() <= 128 && !user.contains(char::is_whitespace) && !user.contains('\0');
    let parts: Vec<&str> = user.split(':').collect();
    fits && (!is_process || (parts.len() <= 2 && parts.iter().all(|part| !part.is_empty())))
}

fn parse_kind(at: &str, kind: Option<&pb::service_spec::Kind>, v: &mut Violations) -> Option<Kind> {
    use pb::service_spec::Kind as Wire;
    match kind {
        None => Some(Kind::Deployment { replicas: 1 }),
        Some(Wire::Deployment(deployment)) => {
            let replicas = deployment.replicas.unwrap_or(1);
            if replicas > REPLICAS_MAX {
                v.add(
                    format!("{at}.deployment.replicas"),
                    format!("{replicas} are too many: at most {REPLICAS_MAX} in a cluster"),
                );
            }
            Some(Kind::Deployment { replicas })
        }
        Some(Wire::DaemonSet(_)) => Some(Kind::DaemonSet),
        Some(Wire::Job(wire)) => Some(Kind::Job(job::parse(&format!("{at}.job"), Some(wire), v))),
        Some(Wire::CronJob(wire)) => job::parse_cron(&format!("{at}.cron_job"), wire, v).map(Kind::CronJob),
    }
}

/// Nobody reaches a port of a container without a network.
fn check_reach(at: &str, program: &Program, check: Option<&HealthCheck>, v: &mut Violations) {
    let cut_off =
        matches!(program, Program::Container(container) if container.network.mode == NetworkMode::None);
    let field = match check.map(|check| &check.probe) {
        Some(Probe::Http { .. }) => "http",
        Some(Probe::Tcp { .. }) => "tcp",
        Some(Probe::Exec { .. } | Probe::Image) | None => return,
    };
    if cut_off {
        v.add(
            format!("{at}.health_check.{field}"),
            "without a network no port of the container is reached: use exec or image",
        );
    }
}

/// Programs in containers read names that no shell knows, as `discovery.type`.
fn check_env(at: &str, key: &str, value: &str, is_container: bool, v: &mut Violations) {
    let mut bytes = key.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (is_container && matches!(b, b'.' | b'-'));
    if !first || !bytes.all(fine) {
        let characters = if is_container { "letters, digits, _, . and -" } else { "letters, digits and _" };
        v.add(at, format!("use {characters}, not beginning with a digit, as the name of a variable"));
    }
    if value.contains('\0') {
        v.add(at, "a value cannot hold a NUL character");
    }
}

fn parse_config_mount(
    at: &str,
    mount: &pb::ConfigMount,
    is_process: bool,
    v: &mut Violations,
) -> Option<ConfigMount> {
    let config = v.check(format!("{at}.config"), ConfigName::parse(&mount.config))?;
    let key = absent_if_empty(&mount.key);
    if let Some(key) = &key
        && !crate::config::is_config_key(key)
    {
        v.add(format!("{at}.key"), "use 1 to 253 of letters, digits, -, _ and . as a file name");
    }
    let path = match (mount.path.as_str(), is_process, &key) {
        ("", false, _) => {
            v.add(format!("{at}.path"), "name the absolute path inside the container");
            return None;
        }
        ("", true, None) => format!("configs/{config}"),
        ("", true, Some(key)) => format!("configs/{config}/{key}"),
        (path, false, _) if !is_absolute(path) || normal_path(path).is_empty() => {
            v.add(format!("{at}.path"), "use an absolute path other than /, without `..`");
            return None;
        }
        (path, true, _) if path.starts_with('/') || has_parent(path) => {
            v.add(
                format!("{at}.path"),
                "for a process use a path relative to its state directory, without `..`",
            );
            return None;
        }
        (path, _, _) => path.to_owned(),
    };
    if mount.executable && !is_process {
        v.add(
            format!("{at}.executable"),
            "only for processes: in a container run the file by its interpreter, as [sh, FILE]",
        );
    }
    Some(ConfigMount { config, path, key, executable: mount.executable })
}

fn parse_amounts(at: &str, amounts: Option<&pb::ResourceList>, v: &mut Violations) -> Amounts {
    let Some(amounts) = amounts else { return Amounts::default() };
    let mut positive = |field: &str, amount: Option<i64>, least: i64, most: i64| {
        let amount = amount?;
        if (least..=most).contains(&amount) {
            return u64::try_from(amount).ok();
        }
        v.add(format!("{at}.{field}"), format!("{amount} is out of range: {least} to {most}"));
        None
    };
    Amounts {
        cpu_millis: positive("cpu_millis", amounts.cpu_millis, 1, 1_000_000),
        memory_bytes: positive("memory_bytes", amounts.memory_bytes, 1, 1 << 50),
        pids: positive("pids", amounts.pids, 1, 1 << 22),
        swap_bytes: positive("swap_bytes", amounts.swap_bytes, 1, 1 << 50),
    }
}

fn check_limits(at: &str, requests: Amounts, limits: Amounts, is_process: bool, v: &mut Violations) {
    let over =
        |request: Option<u64>, limit: Option<u64>| matches!((request, limit), (Some(r), Some(l)) if r > l);
    if over(requests.cpu_millis, limits.cpu_millis) {
        v.add(format!("{at}.resources.requests.cpu_millis"), "the request is above the limit");
    }
    if over(requests.memory_bytes, limits.memory_bytes) {
        v.add(format!("{at}.resources.requests.memory_bytes"), "the request is above the limit");
    }
    for (field, given) in [("pids", requests.pids), ("swap_bytes", requests.swap_bytes)] {
        if given.is_some() {
            v.add(
                format!("{at}.resources.requests.{field}"),
                "it can only be limited: write it below limits",
            );
        }
    }
    if limits.swap_bytes.is_some() && limits.memory_bytes.is_none() {
        v.add(
            format!("{at}.resources.limits.swap_bytes"),
            "it counts beside a limit on memory: name that too",
        );
    }
    // Docker refuses less than 6 MiB; a process with less than one is killed before it runs.
    let (least, text) = if is_process {
        (1 << 20, "a process needs at least 1Mi")
    } else {
        (6 << 20, "a container needs at least 6Mi")
    };
    if limits.memory_bytes.is_some_and(|bytes| bytes < least) {
        v.add(format!("{at}.resources.limits.memory_bytes"), text);
    }
}

fn parse_health(
    at: &str,
    check: &pb::HealthCheck,
    is_process: bool,
    v: &mut Violations,
) -> Option<HealthCheck> {
    use pb::health_check::Probe as Wire;
    let at = format!("{at}.health_check");
    let probe = match &check.probe {
        None => {
            v.add(&at, "name one of http, tcp, exec and image");
            None
        }
        Some(Wire::Http(http)) => {
            let path = if http.path.is_empty() { "/".to_owned() } else { http.path.clone() };
            let bad =
                !path.starts_with('/') || path.bytes().any(|b| b <= b' ' || b >= 0x7f) || path.len() > 2048;
            if bad {
                v.add(
                    format!("{at}.http.path"),
                    "begin it with / and use printable ASCII without spaces, 2,048 at most",
                );
            }
            program::port(&format!("{at}.http.port"), http.port, v).map(|port| Probe::Http { path, port })
        }
        Some(Wire::Tcp(tcp)) => {
            program::port(&format!("{at}.tcp.port"), tcp.port, v).map(|port| Probe::Tcp { port })
        }
        Some(Wire::Exec(exec)) => {
            program::check_argv(&format!("{at}.exec.command"), &exec.command, v);
            if exec.command.is_empty() {
                v.add(format!("{at}.exec.command"), "name a program");
            }
            Some(Probe::Exec { command: exec.command.clone() })
        }
        Some(Wire::Image(_)) if is_process => {
            v.add(format!("{at}.image"), "a process has no image: use http, tcp or exec");
            None
        }
        Some(Wire::Image(_)) => Some(Probe::Image),
    };
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3600);
    let interval =
        duration(&format!("{at}.interval"), check.interval.as_ref(), 10 * second, (second, hour), v);
    let timeout =
        duration(&format!("{at}.timeout"), check.timeout.as_ref(), 5 * second, (second, 600 * second), v);
    let start_period = duration(
        &format!("{at}.start_period"),
        check.start_period.as_ref(),
        Duration::ZERO,
        (Duration::ZERO, hour),
        v,
    );
    let retries = check.retries.unwrap_or(3);
    if !(1..=100).contains(&retries) {
        v.add(format!("{at}.retries"), "use 1 to 100");
    }
    probe.map(|probe| HealthCheck { probe, interval, timeout, start_period, retries })
}

fn parse_dependency(at: &str, dependency: &pb::Dependency, v: &mut Violations) -> Option<Dependency> {
    use pb::dependency::Condition as Wire;
    let service = v.check(format!("{at}.service"), ServiceName::parse(&dependency.service));
    let condition = match Wire::try_from(dependency.condition) {
        Ok(Wire::Unspecified | Wire::Started) => DependencyCondition::Started,
        Ok(Wire::Healthy) => DependencyCondition::Healthy,
        Ok(Wire::Completed) => DependencyCondition::Completed,
        Err(_) => {
            v.add(format!("{at}.condition"), "use started, healthy or completed");
            return None;
        }
    };
    Some(Dependency { service: service?, condition })
}

fn parse_restart(
    at: &str,
    restart: Option<&pb::RestartPolicy>,
    is_job: bool,
    v: &mut Violations,
) -> RestartPolicy {
    use pb::restart_policy::Policy as Wire;
    let restart = restart.copied().unwrap_or_default();
    let when = match Wire::try_from(restart.policy) {
        Ok(Wire::Unspecified | Wire::OnFailure) if is_job => RestartWhen::OnFailure,
        Ok(Wire::Always | Wire::Never) if is_job => {
            v.add(
                format!("{at}.policy"),
                "a job is started again on failure only: leave it out, and set backoffLimit to 0 for never",
            );
            RestartWhen::OnFailure
        }
        Ok(Wire::Unspecified | Wire::Always) => RestartWhen::Always,
        Ok(Wire::OnFailure) => RestartWhen::OnFailure,
        Ok(Wire::Never) => RestartWhen::Never,
        Err(_) => {
            v.add(format!("{at}.policy"), "use always, on-failure or never");
            RestartWhen::Always
        }
    };
    let range = (Duration::from_millis(100), Duration::from_secs(3600));
    let backoff =
        duration(&format!("{at}.backoff"), restart.backoff.as_ref(), Duration::from_secs(1), range, v);
    let backoff_max =
        duration(&format!("{at}.backoff_max"), restart.backoff_max.as_ref(), BACKOFF_MAX, range, v);
    if backoff_max < backoff {
        // Named is what was written.
        match restart.backoff_max {
            Some(_) => v.add(format!("{at}.backoff_max"), "it is shorter than backoff"),
            None => v.add(
                format!("{at}.backoff"),
                format!(
                    "it is longer than backoffMax, {} s unless said otherwise: say backoffMax too",
                    BACKOFF_MAX.as_secs()
                ),
            ),
        }
    }
    RestartPolicy { when, backoff, backoff_max }
}

pub(super) fn duration(
    at: &str,
    wire: Option<&prost_types::Duration>,
    default: Duration,
    (least, most): (Duration, Duration),
    v: &mut Violations,
) -> Duration {
    let Some(wire) = wire else { return default };
    match from_proto_duration(wire) {
        Some(duration) if (least..=most).contains(&duration) => duration,
        _ => {
            v.add(at, format!("out of range: {} to {}", format_duration(least), format_duration(most)));
            default
        }
    }
}

/// One that may be absent.
pub(super) fn optional_duration(
    at: &str,
    wire: Option<&prost_types::Duration>,
    range: (Duration, Duration),
    v: &mut Violations,
) -> Option<Duration> {
    wire.map(|wire| duration(at, Some(wire), range.0, range, v))
}

pub(super) fn bound(at: &str, count: usize, v: &mut Violations) {
    if count > ENTRIES_MAX {
        v.add(at, format!("{count} entries are too many: at most {ENTRIES_MAX}"));
    }
}

pub(super) fn absent_if_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// An absolute path without `..` and without a NUL.
pub(super) fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !has_parent(path) && !path.contains('\0')
}

pub(super) fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
