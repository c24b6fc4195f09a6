//! One bridge network per app: made on demand, remembered, removed when the app is gone.
//!
//! Docker before 25 lets two networks have one name, and an abandoned request may still make one. So making is followed by looking: of
//! several, the oldest stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use skerry_model::AppName;
use tracing::{debug, warn};

use super::client::{Client, LOOK_DEADLINE, NETWORK_DEADLINE};
use super::error::{Failure, Kind};
use super::spec::{LABEL_APP, LABEL_OWNER, Owner};
use crate::runtime::{RuntimeError, Wanted};

/// The networks that are known to exist.
#[derive(Default)]
pub(super) struct Networks {
    /// By app: whether it exists. The inner lock is held while it is being made, so that the instances of an app wait for each other and
    /// for nobody else.
    known: Mutex<BTreeMap<AppName, Arc<tokio::sync::Mutex<bool>>>>,
}

impl Networks {
    /// Makes sure that the app's network exists.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        owner: &Owner,
        app: &AppName,
    ) -> Result<(), RuntimeError> {
        let slot = Arc::clone(self.slots().entry(app.clone()).or_default());
        let mut exists = slot.lock().await;
        if !*exists {
            make(client, owner, app).await?;
            *exists = true;
        }
        Ok(())
    }

    /// Docker said that it does not exist: looks again next time.
    pub(super) fn forget(&self, app: &AppName) {
        self.slots().remove(app);
    }

    /// Removes the networks of apps that are not wanted. One that is still in use stays until a later time.
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
            if label(&network, LABEL_OWNER) != Some(owner.as_str()) || wanted.apps.contains(&app) {
                continue;
            }
            self.forget(&app);
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

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<AppName, Arc<tokio::sync::Mutex<bool>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn make(client: &Client, owner: &Owner, app: &AppName) -> Result<(), RuntimeError> {
    let name = owner.network(app);
    let failed = |failure: Failure| failure.while_doing(&format!("making network `{name}`"), "NetworkFailed");
    if !settle(client, owner, &name).await? {
        match create(client, owner, app, &name).await {
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

async fn create(client: &Client, owner: &Owner, app: &AppName, name: &str) -> Result<(), Failure> {
    let docker = client.docker().await?;
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(owner.labels(app)),
        ..NetworkCreateRequest::default()
    };
    client.within(NETWORK_DEADLINE, docker.create_network(request)).await.map(|_| ())
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
