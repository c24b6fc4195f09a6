//! What Docker's things are called and labelled: so that they are found again, and that nobody else's are taken for ours. Pure.

use std::collections::HashMap;

use skerry_model::{AppName, InstanceName, NetworkName, VolumeName};

/// Whose it is: `Owner`.
pub(in crate::runtime::docker) const LABEL_OWNER: &str = "skerry.io/managed-by";
/// `<app>/<service>/<cluster>/<ordinal>`.
pub(in crate::runtime::docker) const LABEL_INSTANCE: &str = "skerry.io/instance";
/// The app, on containers, networks and volumes.
pub(in crate::runtime::docker) const LABEL_APP: &str = "skerry.io/app";
/// The service.
pub(in crate::runtime::docker) const LABEL_SERVICE: &str = "skerry.io/service";
/// Revision that the container was made from.
pub(in crate::runtime::docker) const LABEL_REVISION: &str = "skerry.io/revision";
/// Fingerprint that the container was made from.
pub(in crate::runtime::docker) const LABEL_FINGERPRINT: &str = "skerry.io/fingerprint";
/// Seconds of grace when it is stopped: what `StopTimeout` says too, but lists of containers show only labels.
pub(in crate::runtime::docker) const LABEL_GRACE: &str = "skerry.io/stop-grace-seconds";
/// The networks that the container was put in, as Docker calls them, separated by commas.
pub(in crate::runtime::docker) const LABEL_NETWORKS: &str = "skerry.io/networks";
/// The volume, on volumes.
pub(in crate::runtime::docker) const LABEL_VOLUME: &str = "skerry.io/volume";
/// On volumes that are removed once their app has left the node, as it was said when they were made.
pub(in crate::runtime::docker) const LABEL_REMOVE_WITH_APP: &str = "skerry.io/remove-with-app";
/// The further network of an app, on networks that are not its own one.
pub(in crate::runtime::docker) const LABEL_NETWORK: &str = "skerry.io/network";

/// Digits of the hash that ends every name.
const NAME_HASH_DIGITS: usize = 10;

/// Whose containers, networks and volumes they are. Two agents on one machine have two owners, and see nothing of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime::docker) struct Owner(String);

impl Owner {
    pub(in crate::runtime::docker) fn new(id: &str) -> Self {
        Self(id.to_owned())
    }

    pub(in crate::runtime::docker) fn as_str(&self) -> &str {
        &self.0
    }

    /// `skerry-<app>-<service>-<ordinal>-<hash>`: names can hold `-`, so that only the hash (over owner and instance) tells them apart.
    pub(in crate::runtime::docker) fn container(&self, instance: &InstanceName) -> String {
        let InstanceName { app, service, ordinal, .. } = instance;
        self.name(&format!("{app}-{service}-{ordinal}"), &instance.to_string())
    }

    /// The container that is started beside that one, to take its place and its name.
    pub(in crate::runtime::docker) fn beside(&self, instance: &InstanceName) -> String {
        format!("{}-next", self.container(instance))
    }

    /// The app's own network, or a further one of it.
    pub(in crate::runtime::docker) fn network(&self, app: &AppName, further: Option<&NetworkName>) -> String {
        match further {
            None => self.name(app.as_str(), &format!("network/{app}")),
            Some(network) => self.name(&format!("{app}-{network}"), &format!("network/{app}/{network}")),
        }
    }

    /// A volume of an app.
    pub(in crate::runtime::docker) fn volume(&self, app: &AppName, volume: &VolumeName) -> String {
        self.name(&format!("{app}-{volume}"), &format!("volume/{app}/{volume}"))
    }

    /// The label that all of this owner's things carry, as filters want it.
    pub(in crate::runtime::docker) fn filter(&self) -> String {
        format!("{LABEL_OWNER}={}", self.0)
    }

    /// Labels of what belongs to an app.
    pub(in crate::runtime::docker) fn labels(&self, app: &AppName) -> HashMap<String, String> {
        labels([(LABEL_OWNER, self.0.clone()), (LABEL_APP, app.to_string())])
    }

    fn name(&self, readable: &str, unique: &str) -> String {
        let hash = blake3::hash(format!("{}\0{unique}", self.0).as_bytes()).to_hex();
        format!("skerry-{readable}-{}", &hash[..NAME_HASH_DIGITS])
    }
}

/// Labels of these keys and values.
pub(super) fn labels<const N: usize>(pairs: [(&str, String); N]) -> HashMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
