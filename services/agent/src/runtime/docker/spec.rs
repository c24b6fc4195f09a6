//! From an instance's spec to what Docker is asked to create: names, labels and the body of the request. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, Mount as DockerMount, MountType, MountVolumeOptions,
    NetworkingConfig, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use skerry_model::app::{ConfigMount, Container, MountSource, Port, Program, Protocol};
use skerry_model::{AppName, ConfigName, InstanceName, VolumeName};

use crate::desired::InstanceSpec;
use crate::runtime::RuntimeError;

/// Whose it is: `Owner`.
pub(super) const LABEL_OWNER: &str = "skerry.io/managed-by";
/// `<app>/<service>/<cluster>/<ordinal>`.
pub(super) const LABEL_INSTANCE: &str = "skerry.io/instance";
/// The app, on containers, networks and volumes.
pub(super) const LABEL_APP: &str = "skerry.io/app";
/// The service.
pub(super) const LABEL_SERVICE: &str = "skerry.io/service";
/// Revision that the container was made from.
pub(super) const LABEL_REVISION: &str = "skerry.io/revision";
/// Fingerprint that the container was made from.
pub(super) const LABEL_FINGERPRINT: &str = "skerry.io/fingerprint";
/// Seconds of grace when it is stopped: what `StopTimeout` says too, but lists of containers show only labels.
pub(super) const LABEL_GRACE: &str = "skerry.io/stop-grace-seconds";
/// The volume, on volumes.
const LABEL_VOLUME: &str = "skerry.io/volume";

/// Digits of the hash that ends every name.
const NAME_HASH_DIGITS: usize = 10;

/// Whose containers, networks and volumes they are. Two agents on one machine have two owners, and see nothing of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner(String);

impl Owner {
    pub(super) fn new(id: &str) -> Self {
        Self(id.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// `skerry-<app>-<service>-<ordinal>-<hash>`: names can hold `-`, so that only the hash (over owner and instance) tells them apart.
    pub(super) fn container(&self, instance: &InstanceName) -> String {
        let InstanceName { app, service, ordinal, .. } = instance;
        self.name(&format!("{app}-{service}-{ordinal}"), &instance.to_string())
    }

    /// The network of an app.
    pub(super) fn network(&self, app: &AppName) -> String {
        self.name(app.as_str(), &format!("network/{app}"))
    }

    /// A volume of an app.
    pub(super) fn volume(&self, app: &AppName, volume: &VolumeName) -> String {
        self.name(&format!("{app}-{volume}"), &format!("volume/{app}/{volume}"))
    }

    /// The label that all of this owner's things carry, as filters want it.
    pub(super) fn filter(&self) -> String {
        format!("{LABEL_OWNER}={}", self.0)
    }

    /// Labels of what belongs to an app.
    pub(super) fn labels(&self, app: &AppName) -> HashMap<String, String> {
        labels([(LABEL_OWNER, self.0.clone()), (LABEL_APP, app.to_string())])
    }

    fn name(&self, readable: &str, unique: &str) -> String {
        let hash = blake3::hash(format!("{}\0{unique}", self.0).as_bytes()).to_hex();
        format!("skerry-{readable}-{}", &hash[..NAME_HASH_DIGITS])
    }
}

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

/// What Docker is asked to create. `configs` is the directory of laid-out configs.
pub(super) fn create_body(
    instance: &InstanceSpec,
    owner: &Owner,
    configs: &Path,
) -> Result<ContainerCreateBody, RuntimeError> {
    let container = container(instance)?;
    let service = &instance.service;
    let grace = grace_seconds(service.stop.grace_period);
    let (exposed_ports, port_bindings) = ports(&container.ports);
    let network = if container.host_network { "host".to_owned() } else { owner.network(&instance.name.app) };
    Ok(ContainerCreateBody {
        image: Some(container.image.clone()),
        entrypoint: some_if_any(&container.entrypoint),
        cmd: some_if_any(&container.command),
        env: Some(service.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        working_dir: service.working_directory.clone(),
        user: service.user.clone(),
        hostname: hostname(instance, container),
        exposed_ports,
        stop_signal: service.stop.signal.clone(),
        stop_timeout: i64::try_from(grace).ok(),
        labels: Some(container_labels(instance, owner, grace)),
        host_config: Some(HostConfig {
            mounts: Some(mounts(instance, container, owner, configs)?),
            port_bindings,
            network_mode: Some(network.clone()),
            nano_cpus: service
                .limits
                .cpu_millis
                .and_then(|m| i64::try_from(m.saturating_mul(1_000_000)).ok()),
            memory: bytes(service.limits.memory_bytes),
            // As much as memory: the limit is on both together, so no swap comes on top.
            memory_swap: bytes(service.limits.memory_bytes),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }),
        networking_config: (!container.host_network).then(|| networking(network, service.name.as_str())),
        ..ContainerCreateBody::default()
    })
}

/// The service's name is an alias of each of its replicas, so that it resolves to all of them.
fn networking(network: String, alias: &str) -> NetworkingConfig {
    let endpoint = EndpointSettings { aliases: Some(vec![alias.to_owned()]), ..EndpointSettings::default() };
    NetworkingConfig { endpoints_config: Some(HashMap::from([(network, endpoint)])) }
}

fn hostname(instance: &InstanceSpec, container: &Container) -> Option<String> {
    if container.host_network {
        return None;
    }
    Some(container.hostname.clone().unwrap_or_else(|| instance.service.name.to_string()))
}

fn container_labels(instance: &InstanceSpec, owner: &Owner, grace: u64) -> HashMap<String, String> {
    labels([
        (LABEL_OWNER, owner.0.clone()),
        (LABEL_INSTANCE, instance.name.to_string()),
        (LABEL_APP, instance.name.app.to_string()),
        (LABEL_SERVICE, instance.name.service.to_string()),
        (LABEL_REVISION, instance.revision.to_string()),
        (LABEL_FINGERPRINT, instance.fingerprint.clone()),
        (LABEL_GRACE, grace.to_string()),
    ])
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

/// Mounts of the kind that Docker never creates a source for: what is missing is an error, not an empty directory.
fn mounts(
    instance: &InstanceSpec,
    container: &Container,
    owner: &Owner,
    configs: &Path,
) -> Result<Vec<DockerMount>, RuntimeError> {
    let app = &instance.name.app;
    let mut mounts = Vec::with_capacity(container.mounts.len() + instance.service.configs.len());
    for mount in &container.mounts {
        let target = Some(mount.target.clone());
        let read_only = Some(mount.read_only);
        mounts.push(match &mount.source {
            MountSource::Bind(path) => bind(target, path.clone(), read_only),
            MountSource::Volume(volume) => DockerMount {
                target,
                source: Some(owner.volume(app, volume)),
                typ: Some(MountType::VOLUME),
                read_only,
                volume_options: Some(MountVolumeOptions {
                    labels: Some(volume_labels(owner, app, volume)),
                    ..MountVolumeOptions::default()
                }),
                ..DockerMount::default()
            },
        });
    }
    for mount in &instance.service.configs {
        let source = config_source(instance, mount, configs)?;
        mounts.push(bind(Some(mount.path.clone()), source, Some(true)));
    }
    Ok(mounts)
}

fn bind(target: Option<String>, source: String, read_only: Option<bool>) -> DockerMount {
    DockerMount {
        target,
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only,
        ..DockerMount::default()
    }
}

fn volume_labels(owner: &Owner, app: &AppName, volume: &VolumeName) -> HashMap<String, String> {
    let mut labels = owner.labels(app);
    labels.insert(LABEL_VOLUME.to_owned(), volume.to_string());
    labels
}

/// The directory of a config, or the one file that is mounted of it.
fn config_source(
    instance: &InstanceSpec,
    mount: &ConfigMount,
    configs: &Path,
) -> Result<String, RuntimeError> {
    let missing = |what: String| RuntimeError {
        reason: "ConfigMissing",
        message: format!("{}: {what}", instance.name),
        transient: true,
    };
    let content = instance
        .configs
        .get(&mount.config)
        .ok_or_else(|| missing(format!("config `{}` is not here", mount.config)))?;
    let mut path = layout_dir(configs, &mount.config, &content.hash.to_string());
    if let Some(key) = &mount.key {
        if !content.files.contains_key(key) {
            return Err(missing(format!("config `{}` has no key `{key}`", mount.config)));
        }
        path.push(key);
    }
    path.into_os_string().into_string().map_err(|path| RuntimeError {
        reason: "ConfigMissing",
        message: format!("the path of configs, {}, is not UTF-8, which Docker wants", path.display()),
        transient: false,
    })
}

fn some_if_any(argv: &[String]) -> Option<Vec<String>> {
    (!argv.is_empty()).then(|| argv.to_vec())
}

fn bytes(amount: Option<u64>) -> Option<i64> {
    amount.and_then(|bytes| i64::try_from(bytes).ok())
}

fn labels<const N: usize>(pairs: [(&str, String); N]) -> HashMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
