//! Containers that carry our labels and are not ours: somebody made an image of one of ours (`docker commit`) and ran that, and a container
//! has the labels of its image.
//!
//! One that bears an instance's name is ours without a question: the engine gives a name once. Another one (renamed by hand, or a copy that a
//! kill left over) is held against its image: who made it with our labels did not inherit them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use bollard::models::ContainerSummary;
use skerry_model::InstanceName;

use super::client::{Client, LOOK_DEADLINE};
use super::error::{Failure, Kind};
use super::observe::is_named;
use super::spec::{LABEL_FINGERPRINT, LABEL_INSTANCE, LABEL_OWNER, Owner};
use crate::lock::lock;

/// What was found, by container id: neither its image nor its labels ever change. Bounded by the containers that were listed.
#[derive(Default)]
pub(super) struct Foreign {
    found: Mutex<HashMap<String, bool>>,
}

impl Foreign {
    /// What is listed, without those that only inherited our labels.
    pub(super) async fn without(
        &self,
        client: &Client,
        owner: &Owner,
        mut listed: Vec<ContainerSummary>,
    ) -> Result<Vec<ContainerSummary>, Failure> {
        let mut strangers = BTreeSet::new();
        for one in listed.iter().filter(|one| !has_our_name(owner, one)) {
            let Some(id) = &one.id else { continue };
            let known = lock(&self.found).get(id).copied();
            let is_foreign = if let Some(known) = known {
                known
            } else {
                let is_foreign = inherited(client, one).await?;
                lock(&self.found).insert(id.clone(), is_foreign);
                is_foreign
            };
            if is_foreign {
                strangers.insert(id.clone());
            }
        }
        listed.retain(|one| one.id.as_ref().is_none_or(|id| !strangers.contains(id)));
        Ok(listed)
    }

    /// Forgets all but these: a list of all.
    pub(super) fn retain(&self, listed: &[ContainerSummary]) {
        let mut found = lock(&self.found);
        if !found.is_empty() {
            found.retain(|id, _| listed.iter().any(|one| one.id.as_ref() == Some(id)));
        }
    }
}

fn label<'a>(labels: Option<&'a HashMap<String, String>>, key: &str) -> Option<&'a str> {
    labels?.get(key).map(String::as_str)
}

fn has_our_name(owner: &Owner, one: &ContainerSummary) -> bool {
    let instance = label(one.labels.as_ref(), LABEL_INSTANCE).and_then(|name| InstanceName::parse(name).ok());
    instance.is_some_and(|instance| {
        is_named(one, &owner.container(&instance)) || is_named(one, &owner.beside(&instance))
    })
}

/// Whether its image has the labels that make it ours. One whose image is gone is taken for ours: two copies of an instance would be worse.
async fn inherited(client: &Client, one: &ContainerSummary) -> Result<bool, Failure> {
    let Some(image) = &one.image_id else { return Ok(false) };
    let docker = client.docker().await?;
    let found = match client.within(LOOK_DEADLINE, docker.inspect_image(image)).await {
        Ok(found) => found,
        Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let of_image = found.config.and_then(|config| config.labels);
    let same = |key: &str| {
        let own = label(one.labels.as_ref(), key);
        own.is_some() && own == label(of_image.as_ref(), key)
    };
    Ok([LABEL_OWNER, LABEL_INSTANCE, LABEL_FINGERPRINT].into_iter().all(same))
}
