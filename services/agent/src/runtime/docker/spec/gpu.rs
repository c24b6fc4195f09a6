//! How a container is given what is booked for it of GPUs: by NVIDIA's runtime, by CDI, or by device nodes. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::models::{ContainerCreateBody, DeviceMapping, DeviceRequest, Mount, MountType, SystemInfo};
use skerry_model::app::{Container, IpcMode};

use crate::gpu::{Granted, Node, Nodes, WARNING, none_by_runtime, noted};

/// What a container was granted: UUIDs, and whether an MPS daemon serves it. One that was granted something else is made anew before it starts.
pub(in crate::runtime::docker) const LABEL_GPUS: &str = "skerry.io/gpus";
/// What is booked for it of them (`noted`).
pub(in crate::runtime::docker) const LABEL_GPU_BOOKINGS: &str = "skerry.io/gpu-bookings";
/// What it lacks of it, line by line.
pub(in crate::runtime::docker) const LABEL_GPU_WARNINGS: &str = "skerry.io/gpu-warnings";
/// At the end of the label of one that an MPS daemon serves.
const WITH_MPS: &str = ";mps";
/// The engine's name of NVIDIA's runtime and of its driver of devices.
const NVIDIA: &str = "nvidia";
/// The first API of an engine that gives devices by CDI when asked.
const CDI_API: (usize, usize) = (1, 44);
/// What CDI calls GPUs of NVIDIA.
const CDI_KIND: &str = "nvidia.com/gpu";
/// Where containers find the daemon's pipes: where programs look by themselves.
const PIPE: &str = "/tmp/nvidia-mps";
/// What client and daemon share, beside the pipes.
const SHARED_MEMORY: &str = "/dev/shm";

/// What the engine can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime::docker) struct Engine {
    /// It has NVIDIA's runtime, or its hook.
    pub(in crate::runtime::docker) nvidia: bool,
    /// Containers are run by that one if nothing else is said.
    pub(in crate::runtime::docker) nvidia_by_default: bool,
    /// Version of its API.
    pub(in crate::runtime::docker) api: (usize, usize),
    /// Directories of CDI's descriptions.
    pub(in crate::runtime::docker) cdi_dirs: Vec<String>,
}

impl Engine {
    /// As it tells of itself. `hook`: NVIDIA's hook is on the machine.
    pub(in crate::runtime::docker) fn of(info: &SystemInfo, api: (usize, usize), hook: bool) -> Self {
        let has_runtime = info.runtimes.as_ref().is_some_and(|all| all.contains_key(NVIDIA));
        Self {
            nvidia: has_runtime || hook,
            nvidia_by_default: info.default_runtime.as_deref() == Some(NVIDIA),
            api,
            cdi_dirs: info.cdi_spec_dirs.clone().unwrap_or_default(),
        }
    }
}

/// What the machine has for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime::docker) struct Machine {
    /// The texts of CDI's descriptions, of those directories of the engine.
    pub(in crate::runtime::docker) cdi: Vec<String>,
    /// The device nodes of what is granted.
    pub(in crate::runtime::docker) nodes: Nodes,
}

/// In what way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime::docker) enum Way {
    /// NVIDIA's runtime is asked for it, which brings the driver's libraries too.
    Runtime,
    /// The engine is asked for devices that CDI describes.
    Cdi,
    /// The nodes themselves.
    Nodes(Nodes),
}

impl Way {
    /// In words, for the log.
    pub(in crate::runtime::docker) fn words(&self) -> String {
        match self {
            Self::Runtime => "by NVIDIA's container runtime".to_owned(),
            Self::Cdi => "by CDI".to_owned(),
            Self::Nodes(nodes) if nodes.there.is_empty() => {
                "not at all: the machine has no device nodes for them".to_owned()
            }
            Self::Nodes(_) => "as device nodes".to_owned(),
        }
    }
}

/// The way for devices of these UUIDs: the one that brings most of what is there.
pub(in crate::runtime::docker) fn way(engine: &Engine, machine: Machine, ids: &[String]) -> Way {
    let is_described = |id: &String| machine.cdi.iter().any(|text| describes(text, id));
    if engine.nvidia {
        Way::Runtime
    } else if engine.api >= CDI_API && !engine.cdi_dirs.is_empty() && ids.iter().all(is_described) {
        Way::Cdi
    } else {
        Way::Nodes(machine.nodes)
    }
}

/// Whether a description, in JSON or YAML, is of GPUs of NVIDIA and names this one.
fn describes(text: &str, id: &str) -> bool {
    let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-');
    text.contains(CDI_KIND)
        && text.match_indices(id).any(|(at, _)| {
            is_end(text[..at].chars().next_back()) && is_end(text[at + id.len()..].chars().next())
        })
}

/// What is noted of a grant on a container. Empty: nothing is granted.
pub(in crate::runtime::docker) fn label(granted: Option<&Granted>) -> String {
    let Some(granted) = granted else { return String::new() };
    let mps = if granted.pipe.is_some() { WITH_MPS } else { "" };
    format!("{}{mps}", granted.ids().join(","))
}

/// The same with what is granted.
pub(in crate::runtime::docker) fn with_gpus(
    mut body: ContainerCreateBody,
    container: &Container,
    granted: &Granted,
    way: &Way,
) -> ContainerCreateBody {
    let mut warnings = granted.warnings.clone();
    let host = body.host_config.get_or_insert_default();
    let request = |driver: &str, ids: Vec<String>, capabilities: Option<Vec<Vec<String>>>| DeviceRequest {
        driver: Some(driver.to_owned()),
        device_ids: Some(ids),
        capabilities,
        ..DeviceRequest::default()
    };
    match way {
        Way::Runtime => {
            let wanted = ["gpu", "compute", "utility"].map(str::to_owned).to_vec();
            host.device_requests = Some(vec![request(NVIDIA, granted.ids(), Some(vec![wanted]))]);
        }
        Way::Cdi => {
            let names = granted.ids().into_iter().map(|id| format!("{CDI_KIND}={id}")).collect();
            host.device_requests = Some(vec![request("cdi", names, None)]);
        }
        Way::Nodes(nodes) => {
            let device = |node: &Node| DeviceMapping {
                path_on_host: Some(node.path.clone()),
                path_in_container: Some(node.name.clone()),
                cgroup_permissions: Some("rwm".to_owned()),
            };
            host.devices.get_or_insert_default().extend(nodes.there.iter().map(device));
            let lacks = if nodes.missing.is_empty() {
                "it has the device nodes, and the driver's libraries only if its image brings them".to_owned()
            } else {
                format!("the machine lacks {}, so that it cannot be used", nodes.missing.join(", "))
            };
            warnings.push(format!("{WARNING}the engine has neither NVIDIA's runtime nor CDI: {lacks}"));
        }
    }
    if let Some(pipe) = &granted.pipe {
        let mut mount = |source: String, target: &str| {
            let mounts = host.mounts.get_or_insert_default();
            if mounts.iter().all(|mount| mount.target.as_deref() != Some(target)) {
                let (source, target) = (Some(source), Some(target.to_owned()));
                mounts.push(Mount { source, target, typ: Some(MountType::BIND), ..Mount::default() });
            }
        };
        mount(pipe.display().to_string(), PIPE);
        if container.isolation.ipc != Some(IpcMode::Host) {
            mount(SHARED_MEMORY.to_owned(), SHARED_MEMORY);
        }
    }
    let labels = body.labels.get_or_insert_default();
    labels.insert(LABEL_GPUS.to_owned(), label(Some(granted)));
    labels.insert(LABEL_GPU_BOOKINGS.to_owned(), noted(&granted.bookings));
    if !warnings.is_empty() {
        labels.insert(LABEL_GPU_WARNINGS.to_owned(), warnings.join("\n"));
    }
    with_variables(body, granted.variables(Some(Path::new(PIPE))))
}

/// The same for a container that has none, on an engine whose usual runtime gives an image what it asks for by itself.
pub(in crate::runtime::docker) fn without_gpus(
    body: ContainerCreateBody,
    container: &Container,
    engine: &Engine,
) -> ContainerCreateBody {
    let by_nvidia = match &container.isolation.runtime {
        Some(runtime) => runtime == NVIDIA,
        None => engine.nvidia_by_default,
    };
    let (name, value) = none_by_runtime();
    let says = body.env.iter().flatten().any(|one| one.split('=').next() == Some(&name));
    if by_nvidia && !says { with_variables(body, BTreeMap::from([(name, value)])) } else { body }
}

/// Over those of the same names.
fn with_variables(mut body: ContainerCreateBody, variables: BTreeMap<String, String>) -> ContainerCreateBody {
    let env = body.env.get_or_insert_default();
    env.retain(|one| one.split('=').next().is_none_or(|name| !variables.contains_key(name)));
    env.extend(variables.into_iter().map(|(name, value)| format!("{name}={value}")));
    env.sort_unstable();
    body
}

#[cfg(test)]
mod tests;
