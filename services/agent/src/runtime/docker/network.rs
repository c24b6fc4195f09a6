//! One bridge network per app, and the further ones that it names: made on demand, remembered, removed when nobody is
//! left who wants them.
//!
//! Docker before 25 lets two networks have one name, and an abandoned request may still make one. So making is followed by looking: of
//! several, the oldest stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bollard::models::{Network, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use skerry_model::{AppName, NetworkName};
use tracing::{debug, warn};

use super::client::{Client, LOOK_DEADLINE, NETWORK_DEADLINE};
use super::error::{Failure, Kind};
use super::spec::{Attachment, LABEL_APP, LABEL_NETWORK, LABEL_OWNER, Owner};
use crate::lock::lock;
use crate::runtime::{RuntimeError, Wanted};

/// A network of an app: its own one, or a further one by its name.
pub(super) type NetworkId = (AppName, Option<NetworkName>);

/// The networks that are known to exist.
#[derive(Default)]
pub(super) struct Networks {
    /// Whether it exists. The inner lock is held while it is being made, so that the instances that need it wait for each other and for
    /// nobody else.
    known: Mutex<BTreeMap<NetworkId, Arc<tokio::sync::Mutex<bool>>>>,
}

impl Networks {
    /// Makes sure that a network exists.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        owner: &Owner,
        network: &NetworkId,
    ) -> Result<(), RuntimeError> {
        let slot = Arc::clone(self.slots().entry(network.clone()).or_default());
        let mut exists = slot.lock().await;
        if !*exists {
            make(client, owner, network).await?;
            *exists = true;
        }
        Ok(())
    }

    /// Docker said that one of the app's does not exist: looks again next time.
    pub(super) fn forget(&self, app: &AppName) {
        self.slots().retain(|(of, _), _| of != app);
    }

    /// Removes the networks that no wanted app has or names. One that is still in use stays until a later time.
    pub(super) async fn sweep(
        &self,
        client: &Client,
        owner: &Owner,
        wanted: &Wanted,
    ) -> Result<(), RuntimeError> {
        let doing = "listing networks";
        let listed = list(client, "label", owner.filter()).await;
        for network in listed.map_err(|failure| failure.while_doing(doing, "NetworkFailed"))? {
            let Some(app) = label(&network, LABEL_APP).and_then(|app| AppName::parse(app).ok()) else {
                continue;
            };
            let further = match label(&network, LABEL_NETWORK).map(NetworkName::parse) {
                None => None,
                Some(Ok(further)) => Some(further),
                Some(Err(_)) => continue,
            };
            let is_wanted = match &further {
                None => wanted.apps.contains(&app),
                Some(further) => wanted.networks.contains(&(app.clone(), further.clone())),
            };
            // Of one that carries our labels by other hands the name is another.
            let ours = label(&network, LABEL_OWNER) == Some(owner.as_str())
                && network.name.as_deref() == Some(&owner.network(&app, further.as_ref()));
            if !ours || is_wanted {
                continue;
            }
            self.slots().remove(&(app.clone(), further));
            match remove(client, &network).await {
                Ok(()) => debug!(%app, "network removed"),
                Err(Failure { kind: Kind::NetworkInUse, .. }) => {}
                Err(failure) => {
                    return Err(
                        failure.while_doing(&format!("removing the network of `{app}`"), "NetworkFailed")
                    );
                }
            }
        }
        Ok(())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<NetworkId, Arc<tokio::sync::Mutex<bool>>>> {
        lock(&self.known)
    }
}

async fn make(client: &Client, owner: &Owner, network: &NetworkId) -> Result<(), RuntimeError> {
    let name = owner.network(&network.0, network.1.as_ref());
    let failed = |failure: Failure| failure.while_doing(&format!("making network `{name}`"), "NetworkFailed");
    if !settle(client, owner, &name).await? {
        match create(client, owner, network, &name).await {
            Ok(()) | Err(Failure { kind: Kind::NetworkExists, .. }) => {}
            Err(failure) => return Err(failed(failure)),
        }
        if !settle(client, owner, &name).await? {
            let message = format!("network `{name}` was made and is gone again");
            return Err(RuntimeError { reason: "NetworkFailed", message, transient: true });
        }
    }
    Ok(())
}

async fn create(
    client: &Client,
    owner: &Owner,
    (app, further): &NetworkId,
    name: &str,
) -> Result<(), Failure> {
    let docker = client.docker().await?;
    let mut labels = owner.labels(app);
    labels.extend(further.iter().map(|further| (LABEL_NETWORK.to_owned(), further.to_string())));
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    };
    client.within(NETWORK_DEADLINE, docker.create_network(request)).await.map(|_| ())
}

/// Puts a container in a network. It is in it already: fine.
pub(super) async fn connect(
    client: &Client,
    container: &str,
    attachment: &Attachment<'_>,
) -> Result<(), Failure> {
    let docker = client.docker().await?;
    let request = NetworkConnectRequest {
        container: container.to_owned(),
        endpoint_config: Some(attachment.endpoint()),
    };
    match client.within(NETWORK_DEADLINE, docker.connect_network(&attachment.docker_name, request)).await {
        Err(Failure { kind: Kind::InNetwork, .. }) => Ok(()),
        other => other,
    }
}

/// Whether exactly one network has the name, and it is ours. Of several of ours the oldest is kept.
async fn settle(client: &Client, owner: &Owner, name: &str) -> Result<bool, RuntimeError> {
    let listed = list(client, "name", name.to_owned()).await;
    let mut found = listed
        .map_err(|failure| failure.while_doing(&format!("looking for network `{name}`"), "NetworkFailed"))?;
    // The filter matches parts of names.
    found.retain(|network| network.name.as_deref() == Some(name));
    if found.iter().any(|network| label(network, LABEL_OWNER) != Some(owner.as_str())) {
        return Err(RuntimeError {
            reason: "NameTaken",
            message: format!("a network `{name}` exists that is not this agent's: remove or rename it"),
            transient: false,
        });
    }
    found.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    for surplus in found.iter().skip(1) {
        // In use or gone: Docker will say that the name is ambiguous, or it is fine.
        if let Err(failure) = remove(client, surplus).await {
            warn!(name, error = failure.message, "a second network of this name stays");
        }
    }
    Ok(!found.is_empty())
}

async fn list(client: &Client, key: &str, value: String) -> Result<Vec<Network>, Failure> {
    let docker = client.docker().await?;
    let filters = HashMap::from([(key.to_owned(), vec![value])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    client.within(LOOK_DEADLINE, docker.list_networks(Some(options))).await
}

async fn remove(client: &Client, network: &Network) -> Result<(), Failure> {
    let docker = client.docker().await?;
    let id = network.id.as_deref().unwrap_or_default();
    match client.within(NETWORK_DEADLINE, docker.remove_network(id)).await {
        Err(Failure { kind: Kind::NoNetwork | Kind::NotFound, .. }) => Ok(()),
        other => other,
    }
}

fn label<'a>(network: &'a Network, key: &str) -> Option<&'a str> {
    network.labels.as_ref()?.get(key).map(String::as_str)
}
