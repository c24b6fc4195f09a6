//! GPUs of containers: asks the engine and the machine what they can do, and gives a container what is granted.

use std::fs;
use std::path::Path;

use bollard::models::ContainerCreateBody;
use skerry_model::app::Container;

use super::DockerRuntime;
use super::client::LOOK_DEADLINE;
use super::error::Failure;
use super::spec::{self, Engine, Machine};
use crate::desired::InstanceSpec;
use crate::gpu::{Granted, Nodes};
use crate::lock::lock;
use crate::runtime::RuntimeError;

/// NVIDIA's hook, where packages put it.
const HOOKS: [&str; 2] =
    ["usr/bin/nvidia-container-runtime-hook", "usr/local/bin/nvidia-container-runtime-hook"];
/// Most descriptions of CDI that are read, and most bytes of one.
const CDI_FILES_MAX: usize = 64;
const CDI_BYTES_MAX: u64 = 1 << 20;

impl DockerRuntime {
    /// `body` with what is granted to an instance.
    pub(super) async fn with_gpus(
        &self,
        body: ContainerCreateBody,
        instance: &InstanceSpec,
        container: &Container,
        granted: Option<&Granted>,
    ) -> Result<ContainerCreateBody, RuntimeError> {
        if granted.is_none() && !self.gpus.has_gpus() {
            return Ok(body);
        }
        let engine = self.engine().await.map_err(|failure| {
            failure.while_doing(&format!("asking Docker how {} can have GPUs", instance.name), "CreateFailed")
        })?;
        let Some(granted) = granted else { return Ok(spec::without_gpus(body, container, &engine)) };
        let (root, dirs, held) = (self.gpus.root().to_owned(), engine.cdi_dirs.clone(), granted.clone());
        let look = move || Machine { cdi: descriptions(&root, &dirs), nodes: Nodes::of(&held, &root) };
        let machine = tokio::task::spawn_blocking(look).await.map_err(|error| RuntimeError {
            reason: "CreateFailed",
            message: format!("looking for GPUs' device nodes: {error}"),
            transient: true,
        })?;
        let way = spec::way(&engine, machine, &granted.ids());
        let words = way.words();
        let mut told = lock(&self.gpu_way);
        if *told != words {
            tracing::info!(way = words, "containers are given GPUs");
            *told = words;
        }
        Ok(spec::with_gpus(body, container, granted, &way))
    }

    async fn engine(&self) -> Result<Engine, Failure> {
        let docker = self.client.docker().await?;
        let info = self.client.within(LOOK_DEADLINE, docker.info()).await?;
        let api = docker.client_version();
        let root = self.gpus.root();
        let hook = HOOKS.iter().any(|hook| root.join(hook).exists());
        Ok(Engine::of(&info, (api.major_version, api.minor_version), hook))
    }
}

/// CDI's descriptions in these directories.
fn descriptions(root: &Path, dirs: &[String]) -> Vec<String> {
    let files = dirs.iter().filter_map(|dir| fs::read_dir(root.join(dir.trim_start_matches('/'))).ok());
    let files = files.flatten().filter_map(|one| Some(one.ok()?.path()));
    let is_one = |path: &std::path::PathBuf| {
        let is_named = path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
        is_named && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= CDI_BYTES_MAX)
    };
    files.filter(is_one).take(CDI_FILES_MAX).filter_map(|path| fs::read_to_string(path).ok()).collect()
}
