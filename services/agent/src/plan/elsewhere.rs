//! What an instance comes after and this node has none of: other members of the cluster may have it, and the control plane says when that will do.

use skerry_model::app::Dependency;

use super::{Hold, Inputs};
use crate::desired::InstanceSpec;

/// Whether a service of which this node has none holds an instance up.
pub(super) fn check(inputs: Inputs<'_>, spec: &InstanceSpec, dependency: &Dependency) -> Result<(), Hold> {
    let service = &dependency.service;
    let unmet = match inputs.desired.peers.get(&spec.name.app) {
        Some(peers) => peers.unmet(service, dependency.condition),
        None => Some(format!("waits for {service}, of which this node has none")),
    };
    unmet.map_or(Ok(()), |message| Err(Hold::Dependency { message }))
}
