//! A container's isolation, kernel parameters, resolver and log, as Docker's host configuration has them. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{DeviceMapping, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use skerry_model::app::{Amounts, Device, ExtraHost, IpcMode, Isolation, Kernel, Log, Network, Ulimit};

use super::bytes;

/// Where output goes if nothing is said.
const LOG_DRIVER: &str = "json-file";
/// Docker's own default for it has no bound, and a node would fill up.
const LOG_BOUNDS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];

/// `config` with limits on resources.
pub(super) fn with_limits(config: HostConfig, limits: Amounts) -> HostConfig {
    // Docker counts memory and swap together: without swap the limit on both is that on memory.
    let both = limits.memory_bytes.map(|memory| memory.saturating_add(limits.swap_bytes.unwrap_or(0)));
    HostConfig {
        nano_cpus: limits.cpu_millis.and_then(|millis| i64::try_from(millis.saturating_mul(1_000_000)).ok()),
        memory: bytes(limits.memory_bytes),
        memory_swap: bytes(both),
        pids_limit: bytes(limits.pids),
        ..config
    }
}

/// `config` with what the container may do and see.
pub(super) fn with_isolation(config: HostConfig, isolation: &Isolation) -> HostConfig {
    let ipc = isolation.ipc.map(|ipc| match ipc {
        IpcMode::Private => "private",
        IpcMode::Shareable => "shareable",
        IpcMode::Host => "host",
    });
    HostConfig {
        readonly_rootfs: isolation.read_only_root.then_some(true),
        cap_add: mapped(&isolation.cap_add, capability),
        cap_drop: mapped(&isolation.cap_drop, capability),
        privileged: isolation.privileged.then_some(true),
        security_opt: some_if_any(&isolation.security_opts),
        devices: mapped(&isolation.devices, device),
        group_add: some_if_any(&isolation.group_add),
        ipc_mode: ipc.map(str::to_owned),
        pid_mode: isolation.host_pid.then(|| "host".to_owned()),
        device_cgroup_rules: some_if_any(&isolation.device_cgroup_rules),
        runtime: isolation.runtime.clone(),
        ..config
    }
}

/// `config` with limits and parameters of processes and namespaces.
pub(super) fn with_kernel(config: HostConfig, kernel: &Kernel) -> HostConfig {
    HostConfig {
        ulimits: mapped(&kernel.ulimits, ulimit),
        sysctls: (!kernel.sysctls.is_empty()).then(|| hash_map(&kernel.sysctls)),
        shm_size: bytes(kernel.shm_size_bytes),
        init: kernel.init.then_some(true),
        oom_score_adj: kernel.oom_score_adj.map(i64::from),
        cpuset_cpus: kernel.cpuset_cpus.clone(),
        ..config
    }
}

/// `config` with how names are resolved.
pub(super) fn with_names(config: HostConfig, network: &Network) -> HostConfig {
    let servers: Vec<String> = network.dns.servers.iter().map(ToString::to_string).collect();
    HostConfig {
        extra_hosts: mapped(&network.extra_hosts, extra_host),
        dns: some_if_any(&servers),
        dns_search: some_if_any(&network.dns.search),
        dns_options: some_if_any(&network.dns.options),
        ..config
    }
}

/// `config` with where output goes.
pub(super) fn with_log(config: HostConfig, log: &Log) -> HostConfig {
    let driver = log.driver.as_deref().unwrap_or(LOG_DRIVER);
    let mut options = hash_map(&log.options);
    if driver == LOG_DRIVER {
        for (key, value) in LOG_BOUNDS {
            options.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    let log = HostConfigLogConfig { typ: Some(driver.to_owned()), config: Some(options) };
    HostConfig { log_config: Some(log), ..config }
}

/// In the form that every Docker keeps as it is.
fn capability(name: &String) -> String {
    if name == "ALL" { name.clone() } else { format!("CAP_{name}") }
}

fn device(device: &Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.path.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    }
}

fn ulimit(ulimit: &Ulimit) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(ulimit.name.clone()), soft: Some(ulimit.soft), hard: Some(ulimit.hard) }
}

fn extra_host(host: &ExtraHost) -> String {
    let address = host.address.map_or_else(|| "host-gateway".to_owned(), |address| address.to_string());
    format!("{}:{address}", host.hostname)
}

/// None for nothing, so that Docker's default counts.
fn mapped<T, U>(list: &[T], map: impl Fn(&T) -> U) -> Option<Vec<U>> {
    (!list.is_empty()).then(|| list.iter().map(map).collect())
}

pub(super) fn some_if_any(list: &[String]) -> Option<Vec<String>> {
    mapped(list, String::clone)
}

fn hash_map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
