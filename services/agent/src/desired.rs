//! The desired state of this node, joined: from resources (instances, revisions, configs) to instance specs that a runtime can run.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_model::app::ServiceSpec;
use skerry_model::{ConfigName, ContentHash, InstanceName};

/// The content of a config.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigContent {
    /// Hash of its encoded spec.
    pub hash: ContentHash,
    /// Contents by file name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One instance as it shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Which instance.
    pub name: InstanceName,
    /// Revision of its app.
    pub revision: ContentHash,
    /// What is run.
    pub service: Arc<ServiceSpec>,
    /// The configs that it mounts.
    pub configs: BTreeMap<ConfigName, Arc<ConfigContent>>,
    /// Hash over all of it that a running copy depends on: same fingerprint, same copy, nothing to restart. A change of another service
    /// of the app, of health checks, dependencies or restart policy does not alter it.
    pub fingerprint: String,
}
