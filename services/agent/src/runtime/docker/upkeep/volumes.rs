//! Volumes that go with their app: told so when they were made, by a label, or since, in the agent's own file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use bollard::query_parameters::ListVolumesOptionsBuilder;
use skerry_model::{AppName, VolumeName};
use tracing::debug;

use super::kept::Kept;
use crate::runtime::docker::client::{Client, LOOK_DEADLINE, REMOVE_DEADLINE};
use crate::runtime::docker::error::{Failure, Kind};
use crate::runtime::docker::spec::{LABEL_APP, LABEL_OWNER, LABEL_REMOVE_WITH_APP, LABEL_VOLUME, Owner};
use crate::runtime::{Needs, Progress, RuntimeError, VolumeWords};

/// Keeps in mind what is said of volumes, also of those that Docker does not have yet: it may be away.
pub(super) async fn note(owner: &Owner, kept: &Kept, said: &VolumeWords) -> Result<(), RuntimeError> {
    let noted = kept.change(|content| {
        content
            .volumes
            .extend(said.iter().map(|((app, volume), remove)| (owner.volume(app, volume), *remove)));
    });
    noted.await.map_err(|error| not_kept(&error))
}

fn not_kept(error: &io::Error) -> RuntimeError {
    RuntimeError {
        reason: "VolumeFailed",
        message: format!("keeping what was said of volumes: {error}"),
        transient: true,
    }
}

/// Removes the volumes of apps that have left, where they were told to go with them. One that is in use stays until a later time.
pub(super) async fn collect(
    client: &Client,
    owner: &Owner,
    kept: &Kept,
    needs: &Needs,
) -> Result<Option<Progress>, RuntimeError> {
    let failed = |failure: Failure| failure.while_doing("listing volumes", "VolumeFailed");
    let docker = client.docker().await.map_err(failed)?;
    let filters = HashMap::from([("label".to_owned(), vec![owner.filter()])]);
    let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
    let listed = client.within(LOOK_DEADLINE, docker.list_volumes(Some(options))).await.map_err(failed)?;
    let listed = listed.volumes.unwrap_or_default();
    let present: BTreeSet<&String> = listed.iter().map(|volume| &volume.name).collect();
    let said = kept.change(|content| {
        let said = needs.volumes.iter();
        let said = said.map(|((app, volume), remove)| (owner.volume(app, volume), (app, *remove)));
        let said: BTreeMap<_, _> = said.collect();
        // One that is not made yet is kept in mind while its app is here.
        let may_come = |name: &String| said.get(name).is_some_and(|(app, _)| needs.apps.contains(*app));
        content.volumes.retain(|name, _| present.contains(name) || may_come(name));
        let counts = said.iter().filter(|(name, _)| present.contains(name) || may_come(name));
        content.volumes.extend(counts.map(|(name, (_, remove))| (name.clone(), *remove)));
    });
    said.await.map_err(|error| not_kept(&error))?;
    let content = kept.content().await;
    let mut removed = Vec::new();
    for volume in &listed {
        let label = |key: &str| volume.labels.get(key).map(String::as_str).unwrap_or_default();
        let (Ok(app), Ok(name)) = (AppName::parse(label(LABEL_APP)), VolumeName::parse(label(LABEL_VOLUME)))
        else {
            continue;
        };
        // Of one that carries our labels by other hands the name is another.
        let ours = label(LABEL_OWNER) == owner.as_str() && volume.name == owner.volume(&app, &name);
        let told = content.volumes.get(&volume.name).copied().unwrap_or_else(|| is_told(&volume.labels));
        if !ours || !told || needs.apps.contains(&app) {
            continue;
        }
        let options = None::<bollard::query_parameters::RemoveVolumeOptions>;
        match client.within(REMOVE_DEADLINE, docker.remove_volume(&volume.name, options)).await {
            Ok(()) => removed.push(format!("`{name}` of {app}")),
            Err(Failure { kind: Kind::NotFound, .. }) => {}
            Err(failure) => debug!(volume = volume.name, error = failure.message, "a volume stays for now"),
        }
    }
    Ok((!removed.is_empty()).then(|| Progress {
        reason: "VolumesRemoved",
        message: format!("removed with their apps, as they were told: {}", super::names(&removed)),
    }))
}

fn is_told(labels: &HashMap<String, String>) -> bool {
    labels.get(LABEL_REMOVE_WITH_APP).is_some_and(|value| value == "true")
}
