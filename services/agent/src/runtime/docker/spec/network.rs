//! The networks that a container is in: their names and its names in them. Pure.

use std::collections::HashMap;

use bollard::models::{EndpointSettings, NetworkingConfig};
use skerry_model::NetworkName;
use skerry_model::app::{Container, NetworkMode};

use super::names::Owner;
use crate::desired::InstanceSpec;

/// One network that a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime::docker) struct Attachment<'a> {
    /// None: the app's own.
    pub(in crate::runtime::docker) network: Option<&'a NetworkName>,
    /// What Docker calls it.
    pub(in crate::runtime::docker) docker_name: String,
    /// The container's names in it.
    aliases: Vec<String>,
}

impl Attachment<'_> {
    /// How the container is in it.
    pub(in crate::runtime::docker) fn endpoint(&self) -> EndpointSettings {
        EndpointSettings { aliases: Some(self.aliases.clone()), ..EndpointSettings::default() }
    }
}

/// All networks of an instance's container, the app's own first where it is in that; none where it is on the machine's network or on none.
pub(in crate::runtime::docker) fn attachments<'a>(
    instance: &'a InstanceSpec,
    container: &'a Container,
    owner: &Owner,
) -> Vec<Attachment<'a>> {
    if container.network.mode != NetworkMode::App {
        return Vec::new();
    }
    let attachment = |network: Option<&'a NetworkName>, more: &[String]| Attachment {
        network,
        docker_name: owner.network(&instance.name.app, network),
        // The service's name is an alias of each of its replicas, so that it resolves to all of them.
        aliases: std::iter::once(instance.service.name.to_string()).chain(more.iter().cloned()).collect(),
    };
    let further =
        container.network.further.iter().map(|(network, aliases)| attachment(Some(network), aliases));
    let own = (!container.network.only_further).then(|| attachment(None, &container.network.aliases));
    own.into_iter().chain(further).collect()
}

/// Docker's mode of the network, and the endpoint that a container is made with. Docker before 25 takes one: it is connected to the others
/// before it starts.
pub(super) fn main_network(
    mode: NetworkMode,
    attachments: &[Attachment<'_>],
) -> (String, Option<NetworkingConfig>) {
    match attachments.first() {
        Some(first) => {
            let endpoints = HashMap::from([(first.docker_name.clone(), first.endpoint())]);
            (first.docker_name.clone(), Some(NetworkingConfig { endpoints_config: Some(endpoints) }))
        }
        None if mode == NetworkMode::Host => ("host".to_owned(), None),
        None => ("none".to_owned(), None),
    }
}
