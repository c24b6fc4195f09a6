//! What is mounted in a container: paths of the machine, volumes, memory, laid-out configs. Pure.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    Mount as DockerMount, MountBindOptions, MountTmpfsOptions, MountType, MountVolumeOptions,
};
use skerry_model::app::{ConfigMount, Container, MountSource};
use skerry_model::{AppName, VolumeName};

use super::names::{LABEL_REMOVE_WITH_APP, LABEL_VOLUME, Owner};
use super::{bytes, layout_dir};
use crate::desired::InstanceSpec;
use crate::runtime::RuntimeError;

/// Mounts of the kind that Docker never creates a source for: what is missing is an error, not an empty directory.
pub(super) fn mounts(
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
            MountSource::Bind { path, propagation } => DockerMount {
                bind_options: propagation.as_ref().map(|propagation| MountBindOptions {
                    propagation: propagation.parse().ok(),
                    ..MountBindOptions::default()
                }),
                ..bind(target, path.clone(), read_only)
            },
            MountSource::Volume { name: volume, remove_with_app } => DockerMount {
                target,
                source: Some(owner.volume(app, volume)),
                typ: Some(MountType::VOLUME),
                read_only,
                volume_options: Some(MountVolumeOptions {
                    labels: Some(volume_labels(owner, app, volume, *remove_with_app)),
                    ..MountVolumeOptions::default()
                }),
                ..DockerMount::default()
            },
            MountSource::Tmpfs { size_bytes, mode } => DockerMount {
                target,
                typ: Some(MountType::TMPFS),
                read_only,
                tmpfs_options: Some(MountTmpfsOptions {
                    size_bytes: bytes(*size_bytes),
                    mode: mode.map(i64::from),
                    options: None,
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

fn volume_labels(
    owner: &Owner,
    app: &AppName,
    volume: &VolumeName,
    remove_with_app: bool,
) -> HashMap<String, String> {
    let mut labels = owner.labels(app);
    labels.insert(LABEL_VOLUME.to_owned(), volume.to_string());
    if remove_with_app {
        labels.insert(LABEL_REMOVE_WITH_APP.to_owned(), "true".to_owned());
    }
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
