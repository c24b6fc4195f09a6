//! What this agent can do, for the `requires` of resources: told in each hello, and held against what is on disk.

use std::collections::BTreeSet;

use skerry_model::feature;
use skerry_proto::gateway::v1::Resource;

/// The first are carried out by `runtime/docker/spec.rs`, those of processes by `runtime/process`, jobs by `jobs`, channels by `channel`.
const FEATURES: [&str; 24] = [
    feature::PORT_HOST_ADDRESS,
    feature::READ_ONLY_MOUNT,
    feature::CONTAINER_USER,
    feature::CONTAINER_LIMITS,
    feature::CONTAINER_PIDS,
    feature::READ_ONLY_ROOT,
    feature::CAP_DROP,
    feature::SECURITY_OPTS,
    feature::ULIMITS,
    feature::PRIVATE_IPC,
    feature::ONLY_NETWORKS,
    feature::ENV_FROM,
    feature::PROCESS_USER,
    feature::PROCESS_LIMITS,
    feature::PROCESS_LOG,
    feature::EXECUTABLE_CONFIGS,
    feature::ARTIFACTS,
    feature::SEALED_SECRETS,
    feature::JOBS,
    feature::CRON_JOBS,
    feature::PEERS,
    feature::PREFETCH,
    feature::GPU,
    feature::CHANNELS,
];

/// All of them.
pub(crate) fn all() -> BTreeSet<String> {
    FEATURES.iter().map(ToString::to_string).collect()
}

/// What `resource` requires and this agent lacks, if anything. What is on disk was taken by an agent that had it; this one may be older.
pub(crate) fn lacking(resource: &Resource) -> Option<String> {
    let lacking: Vec<&str> =
        resource.requires.iter().map(String::as_str).filter(|feature| !FEATURES.contains(feature)).collect();
    (!lacking.is_empty()).then(|| format!("this agent lacks what it requires: {}", lacking.join(", ")))
}
