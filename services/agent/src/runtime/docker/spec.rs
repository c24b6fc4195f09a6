//! From an instance's spec to what Docker is asked to create: the body of the request, made of the parts below. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountPoint, MountType, PortBinding, PortMap, RestartPolicy,
    RestartPolicyNameEnum,
};
use skerry_model::ConfigName;
use skerry_model::app::{Container, NetworkMode, Port, Program, Protocol};

use super::hosts;
use crate::desired::InstanceSpec;
use crate::runtime::RuntimeError;

mod gpu;
mod host;
mod mounts;
mod names;
mod network;

pub(super) use gpu::{
    Engine, LABEL_GPU_BOOKINGS, LABEL_GPU_WARNINGS, LABEL_GPUS, Machine, label as gpu_label, way, with_gpus,
    without_gpus,
};
pub(super) use names::{
    LABEL_APP, LABEL_FINGERPRINT, LABEL_GRACE, LABEL_INSTANCE, LABEL_NETWORK, LABEL_NETWORKS, LABEL_OWNER,
    LABEL_REMOVE_WITH_APP, LABEL_REVISION, LABEL_VOLUME, Owner,
};
use names::{LABEL_SERVICE, labels};
pub(super) use network::{Attachment, attachments};

/// Whole seconds of grace: Docker counts in them, and less than was asked for would be a broken promise.
pub(super) fn grace_seconds(grace: Duration) -> u64 {
    grace.as_secs() + u64::from(grace.subsec_nanos() > 0)
}

/// The container of an instance.
pub(super) fn container(instance: &InstanceSpec) -> Result<&Container, RuntimeError> {
    match &instance.service.program {
        Program::Container(container) => Ok(container),
        Program::Process(_) => Err(RuntimeError {
            reason: "WrongRuntime",
            message: format!("{} is a process, which Docker does not run", instance.name),
            transient: false,
        }),
    }
}

/// Where a config is laid out: `<configs>/<config>/<hash>`.
pub(super) fn layout_dir(configs: &Path, config: &ConfigName, hash: &str) -> PathBuf {
    configs.join(config.as_str()).join(hash)
}

/// What Docker is asked to create. `configs` is the directory of laid-out configs, `env` all variables.
pub(super) fn create_body(
    instance: &InstanceSpec,
    owner: &Owner,
    configs: &Path,
    env: &BTreeMap<String, String>,
) -> Result<ContainerCreateBody, RuntimeError> {
    let container = container(instance)?;
    let service = &instance.service;
    let grace = grace_seconds(service.stop.grace_period);
    let (exposed_ports, port_bindings) = ports(&container.ports);
    let (network_mode, networking_config) =
        network::main_network(container.network.mode, &attachments(instance, container, owner));
    let host_config = HostConfig {
        mounts: Some(mounts::mounts(instance, container, owner, configs)?),
        port_bindings,
        network_mode: Some(network_mode),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    };
    let host_config = host::with_limits(host_config, service.limits);
    let host_config = host::with_isolation(host_config, &container.isolation);
    let host_config = host::with_kernel(host_config, &container.kernel);
    let host_config = host::with_names(host_config, &container.network);
    Ok(ContainerCreateBody {
        image: Some(container.image.clone()),
        entrypoint: host::some_if_any(&container.entrypoint),
        cmd: host::some_if_any(&container.command),
        env: Some(env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        working_dir: service.working_directory.clone(),
        user: service.user.clone(),
        hostname: hostname(instance, container),
        exposed_ports,
        tty: container.tty.then_some(true),
        open_stdin: container.stdin_open.then_some(true),
        stop_signal: service.stop.signal.clone(),
        stop_timeout: i64::try_from(grace).ok(),
        labels: Some(container_labels(instance, container, owner, grace)),
        host_config: Some(host::with_log(host_config, &container.log)),
        networking_config,
        ..ContainerCreateBody::default()
    })
}

/// The same with the volumes of an earlier copy, where the spec itself mounts nothing: those that its image asked for, without a name. Docker
/// counts them as named from then on: they stay on the machine until somebody removes them.
pub(super) fn with_volumes(mut body: ContainerCreateBody, earlier: &[MountPoint]) -> ContainerCreateBody {
    let mounts = body.host_config.get_or_insert_default().mounts.get_or_insert_default();
    for volume in earlier {
        let (Some(name), Some(target)) = (&volume.name, &volume.destination) else { continue };
        let has =
            |mount: &Mount| mount.target.as_ref() == Some(target) || mount.source.as_ref() == Some(name);
        if mounts.iter().any(has) {
            continue;
        }
        mounts.push(Mount {
            target: Some(target.clone()),
            source: Some(name.clone()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        });
    }
    body
}

/// The same with secrets, read-only: where they are laid out, and where the container has them.
pub(super) fn with_secrets(
    mut body: ContainerCreateBody,
    places: &[(PathBuf, &str)],
) -> Result<ContainerCreateBody, RuntimeError> {
    let mounts = body.host_config.get_or_insert_default().mounts.get_or_insert_default();
    for (place, target) in places {
        // Docker resolves a link by itself, to the file that it leads to now; a directory has none on the way.
        let source = place.to_str().ok_or_else(|| RuntimeError {
            reason: "SecretLayoutFailed",
            message: format!("the path of secrets, {}, is not UTF-8, which Docker wants", place.display()),
            transient: false,
        })?;
        mounts.push(Mount {
            target: Some((*target).to_owned()),
            source: Some(source.to_owned()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Mount::default()
        });
    }
    Ok(body)
}

/// The same with a hosts file of ours.
pub(super) fn with_hosts(
    mut body: ContainerCreateBody,
    file: Option<PathBuf>,
) -> Result<ContainerCreateBody, RuntimeError> {
    let Some(file) = file else { return Ok(body) };
    let source = file.into_os_string().into_string().map_err(|path| RuntimeError {
        reason: "HostsFailed",
        message: format!("the path of hosts files, {}, is not UTF-8, which Docker wants", path.display()),
        transient: false,
    })?;
    body.host_config.get_or_insert_default().mounts.get_or_insert_default().push(Mount {
        target: Some(hosts::TARGET.to_owned()),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    });
    Ok(body)
}

fn hostname(instance: &InstanceSpec, container: &Container) -> Option<String> {
    if container.network.mode == NetworkMode::Host {
        return None;
    }
    Some(container.hostname.clone().unwrap_or_else(|| instance.service.name.to_string()))
}

/// The user's labels, and ours, whose keys the user cannot have.
fn container_labels(
    instance: &InstanceSpec,
    container: &Container,
    owner: &Owner,
    grace: u64,
) -> HashMap<String, String> {
    let mut all: HashMap<String, String> =
        container.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    all.extend(labels([
        (LABEL_OWNER, owner.as_str().to_owned()),
        (LABEL_INSTANCE, instance.name.to_string()),
        (LABEL_APP, instance.name.app.to_string()),
        (LABEL_SERVICE, instance.name.service.to_string()),
        (LABEL_REVISION, instance.revision.to_string()),
        (LABEL_FINGERPRINT, instance.fingerprint.clone()),
        (LABEL_GRACE, grace.to_string()),
    ]));
    let networks: Vec<String> =
        attachments(instance, container, owner).into_iter().map(|one| one.docker_name).collect();
    all.insert(LABEL_NETWORKS.to_owned(), networks.join(","));
    // Nor does an image have them: what it says of GPUs counts for nothing.
    all.extend(
        [LABEL_GPUS, LABEL_GPU_BOOKINGS, LABEL_GPU_WARNINGS].map(|key| (key.to_owned(), String::new())),
    );
    all
}

fn ports(ports: &[Port]) -> (Option<Vec<String>>, Option<PortMap>) {
    if ports.is_empty() {
        return (None, None);
    }
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let inside = format!("{}/{protocol}", port.container_port);
        bindings.entry(inside).or_default().get_or_insert_default().push(PortBinding {
            host_ip: port.host_address.map(|address| address.to_string()),
            host_port: Some(port.host_port.to_string()),
        });
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    exposed.sort_unstable();
    (Some(exposed), Some(bindings))
}

fn bytes(amount: Option<u64>) -> Option<i64> {
    amount.and_then(|bytes| i64::try_from(bytes).ok())
}

#[cfg(test)]
mod tests;
