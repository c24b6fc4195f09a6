//! What an agent must be able to do to run a spec as it is written: the names that travel as `requires` of a resource.
//!
//! The base of protocol version 1 asks for none. A field gets a feature here when an agent that does not know it would run the instance
//! with more reach than was asked for, and say nothing: whoever cannot hold such a bound refuses the resource. A new field that matters so
//! gets a row in [`of_app`] in the change that adds it, and a line in the list of an agent that carries it out.

use std::collections::BTreeSet;

use crate::app::{Amounts, AppSpec, IpcMode, Kind, LogBounds, Program};

/// A port is published on one address of the machine instead of all of them.
pub const PORT_HOST_ADDRESS: &str = "port-host-address";
/// A mount may only be read.
pub const READ_ONLY_MOUNT: &str = "read-only-mount";
/// A container runs as a named user.
pub const CONTAINER_USER: &str = "container-user";
/// A container is held to its limits of processor and memory.
pub const CONTAINER_LIMITS: &str = "container-limits";
/// A container is held to its limit of processes.
pub const CONTAINER_PIDS: &str = "container-pids";
/// A container's own file system may only be read.
pub const READ_ONLY_ROOT: &str = "read-only-root";
/// Capabilities are taken away from a container.
pub const CAP_DROP: &str = "cap-drop";
/// Security options of a container: no new privileges, profiles.
pub const SECURITY_OPTS: &str = "security-opts";
/// Limits on each process of a container.
pub const ULIMITS: &str = "ulimits";
/// A container's memory segments are nobody else's.
pub const PRIVATE_IPC: &str = "private-ipc";
/// A container is not in its app's own network.
pub const ONLY_NETWORKS: &str = "only-networks";
/// Variables come from configs and files.
pub const ENV_FROM: &str = "env-from";
/// What an app has on other members of the cluster: addresses in containers' `/etc/hosts`, and what waits for services there.
pub const PEERS: &str = "peers";
/// Images are fetched before an instance uses them, and it is said how far they are.
pub const PREFETCH: &str = "prefetch-1";
/// A process runs as a named user.
pub const PROCESS_USER: &str = "process-user";
/// A process is held to its limits, or it is said that it is not.
pub const PROCESS_LIMITS: &str = "process-limits";
/// How much of a process's output is kept.
pub const PROCESS_LOG: &str = "process-log";
/// A config's files may be executed.
pub const EXECUTABLE_CONFIGS: &str = "executable-configs";
/// Files are downloaded before a process starts.
pub const ARTIFACTS: &str = "artifacts";

/// A service runs to completion, each of its instances once.
pub const JOBS: &str = "jobs-1";
/// A service runs to completion on a schedule.
pub const CRON_JOBS: &str = "cron-jobs-1";

/// An instance has the GPUs that are booked for it, and no others.
pub const GPU: &str = "gpu";

/// The agent opens channels that relays offer. No resource requires it.
pub const CHANNELS: &str = "channels-1";

/// Secrets come sealed to the node, and are given as files in memory or as variables. `skerry-identity` seals and opens them.
pub const SEALED_SECRETS: &str = "sealed-secrets-1";

/// The features that an agent needs for `spec`, each once, in order.
pub fn of_app(spec: &AppSpec) -> Vec<&'static str> {
    let mut needed = BTreeSet::new();
    for service in &spec.services {
        match service.kind {
            Kind::Deployment { .. } | Kind::DaemonSet => {}
            Kind::Job(_) => needed.extend([JOBS]),
            Kind::CronJob(_) => needed.extend([JOBS, CRON_JOBS]),
        }
        if !service.env_from.is_empty() {
            needed.insert(ENV_FROM);
        }
        if service.gpu.is_some() {
            needed.insert(GPU);
        }
        if !service.secret_names().is_empty() {
            needed.insert(SEALED_SECRETS);
        }
        let container = match &service.program {
            Program::Container(container) => container,
            Program::Process(process) => {
                let rows = [
                    (PROCESS_USER, service.user.is_some()),
                    (PROCESS_LIMITS, service.limits != Amounts::default()),
                    (PROCESS_LOG, process.log != LogBounds::default()),
                    (EXECUTABLE_CONFIGS, service.configs.iter().any(|mount| mount.executable)),
                    (ARTIFACTS, !process.artifacts.is_empty()),
                ];
                needed.extend(rows.into_iter().filter(|(_, needs)| *needs).map(|(feature, _)| feature));
                continue;
            }
        };
        let rows = [
            (PORT_HOST_ADDRESS, container.ports.iter().any(|port| port.host_address.is_some())),
            (READ_ONLY_MOUNT, container.mounts.iter().any(|mount| mount.read_only)),
            (CONTAINER_USER, service.user.is_some()),
            (CONTAINER_LIMITS, service.limits != Amounts::default()),
            (CONTAINER_PIDS, service.limits.pids.is_some()),
            (READ_ONLY_ROOT, container.isolation.read_only_root),
            (CAP_DROP, !container.isolation.cap_drop.is_empty()),
            (SECURITY_OPTS, !container.isolation.security_opts.is_empty()),
            (ULIMITS, !container.kernel.ulimits.is_empty()),
            (ONLY_NETWORKS, container.network.only_further),
            (PRIVATE_IPC, container.isolation.ipc == Some(IpcMode::Private)),
        ];
        needed.extend(rows.into_iter().filter(|(_, needs)| *needs).map(|(feature, _)| feature));
    }
    needed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use skerry_proto::types::v1 as pb;

    use super::*;

    fn needed(change: impl FnOnce(&mut pb::ServiceSpec, &mut pb::Container)) -> Vec<&'static str> {
        let mut service = pb::ServiceSpec { name: "a".to_owned(), ..Default::default() };
        let mut container = pb::Container { image: "web:1".to_owned(), ..Default::default() };
        change(&mut service, &mut container);
        service.program = Some(pb::service_spec::Program::Container(container));
        let spec = pb::AppSpec { services: vec![service], ..Default::default() };
        of_app(&AppSpec::from_proto(&spec).unwrap())
    }

    #[test]
    fn what_would_be_run_with_more_reach_if_it_were_dropped_needs_a_feature() {
        assert!(needed(|_, _| {}).is_empty(), "the base needs none");
        let port = |host_address: &str| pb::Port {
            container_port: 80,
            host_address: host_address.to_owned(),
            ..Default::default()
        };
        assert!(needed(|_, container| container.ports = vec![port("")]).is_empty());
        assert_eq!(needed(|_, container| container.ports = vec![port("127.0.0.1")]), [PORT_HOST_ADDRESS]);
        let mount = |read_only| pb::Mount {
            target: "/data".to_owned(),
            source: Some(pb::mount::Source::Bind(pb::mount::Bind {
                path: "/srv".to_owned(),
                ..Default::default()
            })),
            read_only,
        };
        assert!(needed(|_, container| container.mounts = vec![mount(false)]).is_empty());
        assert_eq!(needed(|_, container| container.mounts = vec![mount(true)]), [READ_ONLY_MOUNT]);
        let limits = pb::ResourceList { cpu_millis: Some(100), ..Default::default() };
        let both = needed(|service, _| {
            service.user = "1000".to_owned();
            service.resources = Some(pb::Resources { requests: None, limits: Some(limits) });
        });
        assert_eq!(both, [CONTAINER_LIMITS, CONTAINER_USER]);
        let pids = pb::Resources {
            limits: Some(pb::ResourceList { pids: Some(9), ..Default::default() }),
            ..Default::default()
        };
        let narrow = needed(|service, container| {
            service.resources = Some(pids);
            container.read_only_root = true;
            container.cap_drop = vec!["ALL".to_owned()];
            container.security_opts = vec!["no-new-privileges".to_owned()];
            container.ulimits = vec![pb::Ulimit { name: "core".to_owned(), soft: 0, hard: None }];
            container.ipc_mode = pb::IpcMode::Private.into();
            container.only_networks = true;
            container.networks = vec![pb::NetworkAttachment { name: "back".to_owned(), aliases: Vec::new() }];
        });
        let expected = [
            CAP_DROP,
            CONTAINER_LIMITS,
            CONTAINER_PIDS,
            ONLY_NETWORKS,
            PRIVATE_IPC,
            READ_ONLY_ROOT,
            SECURITY_OPTS,
            ULIMITS,
        ];
        assert_eq!(narrow, expected);
        assert!(needed(|_, container| container.privileged = true).is_empty(), "that only widens");
    }

    #[test]
    fn what_is_new_about_processes_needs_features() {
        let mut process = pb::Process { program: "x".to_owned(), ..Default::default() };
        let of = |service: pb::ServiceSpec| {
            of_app(
                &AppSpec::from_proto(&pb::AppSpec { services: vec![service], ..Default::default() }).unwrap(),
            )
        };
        let service = |process: &pb::Process| pb::ServiceSpec {
            name: "a".to_owned(),
            program: Some(pb::service_spec::Program::Process(process.clone())),
            ..Default::default()
        };
        assert!(of(service(&process)).is_empty());
        process.log = Some(pb::ProcessLog { max_files: Some(9), ..Default::default() });
        process.artifacts = vec![pb::Artifact {
            url: "https://example.org/x".to_owned(),
            sha256: "0".repeat(64),
            path: "x".to_owned(),
            ..Default::default()
        }];
        let mut all = service(&process);
        all.user = "nobody".to_owned();
        let limits = pb::ResourceList { pids: Some(9), ..Default::default() };
        all.resources = Some(pb::Resources { limits: Some(limits), ..Default::default() });
        all.configs =
            vec![pb::ConfigMount { config: "c".to_owned(), executable: true, ..Default::default() }];
        let file = pb::env_source::Source::File("/etc/default/x".to_owned());
        all.env_from = vec![pb::EnvSource { source: Some(file), ..Default::default() }];
        let expected = [ARTIFACTS, ENV_FROM, EXECUTABLE_CONFIGS, PROCESS_LIMITS, PROCESS_LOG, PROCESS_USER];
        assert_eq!(of(all), expected);
    }
}
