//! Revisions and configs, read on demand: one copy serves all sessions, and one read serves all that ask at once. Secrets, which are sealed to one
//! node each, are read for it and not kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use skerry_model::{AppRef, ConfigRef, NodeRef, ProjectName, RevisionRef, SecretName, SecretVersion};
use skerry_proto::gateway::v1::{Resource, resource};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{ConfigRevisionRef, SealedSecretRef};
use skerry_store::{Key, ReadError, Store};
use skerry_sync::desired::{ResourceName, content_resource, secret_resource};
use tokio::sync::OnceCell;

/// Most bytes of contents that are kept for the next who asks.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

type Name = (ProjectName, String);

/// The cache. Contents never change, so nothing in it is ever stale.
#[derive(Debug)]
pub(crate) struct Contents {
    store: Store,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    cells: HashMap<Name, Arc<OnceCell<Resource>>>,
    /// What was read, oldest first.
    order: VecDeque<(Name, usize)>,
    bytes: usize,
}

/// What was found of what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) resources: Vec<Resource>,
    /// Names of those that the store does not have.
    pub(crate) missing: Vec<String>,
}

enum Failure {
    Missing,
    Read(ReadError),
}

impl Contents {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, cache: Mutex::default() }
    }

    /// Reads the contents of these resource names for a node.
    pub(crate) async fn load(&self, node: &NodeRef, names: Vec<String>) -> Result<Found, ReadError> {
        let mut found = Found::default();
        for name in names {
            let one = match ResourceName::parse(&name) {
                Some(ResourceName::Secret { secret, version }) => self.secret(node, &secret, &version).await,
                _ => self.one((node.project.clone(), name.clone())).await,
            };
            match one {
                Ok(resource) => found.resources.push(resource),
                Err(Failure::Missing) => found.missing.push(name),
                Err(Failure::Read(error)) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn secret(
        &self,
        node: &NodeRef,
        secret: &SecretName,
        version: &SecretVersion,
    ) -> Result<Resource, Failure> {
        let name = SealedSecretRef { node: node.clone(), secret: secret.clone(), version: *version };
        let found = self.store.get(&Key::<stored::SealedSecretRecord>::of(&name)).await;
        let record = found.map_err(Failure::Read)?.ok_or(Failure::Missing)?;
        Ok(secret_resource(secret, version, record.value))
    }

    async fn one(&self, name: Name) -> Result<Resource, Failure> {
        let cell = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cache.cells.entry(name.clone()).or_default())
        };
        if let Some(resource) = cell.get() {
            return Ok(resource.clone());
        }
        let mut was_read = false;
        let resource = cell
            .get_or_try_init(async || {
                was_read = true;
                self.read(&name.0, &name.1).await
            })
            .await
            .cloned();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match &resource {
            Ok(resource) if was_read => cache.keep(name, bytes(resource)),
            // Nobody else is in the middle of it: they would hold the cell too, and the map the third.
            Err(_) if !cell.initialized() && Arc::strong_count(&cell) <= 2 => {
                cache.cells.remove(&name);
            }
            Ok(_) | Err(_) => {}
        }
        resource
    }

    async fn read(&self, project: &ProjectName, text: &str) -> Result<Resource, Failure> {
        let name = ResourceName::parse(text).ok_or(Failure::Missing)?;
        // What an agent must be able to do is passed on as it is stored: the specs themselves are not read here.
        let found = match &name {
            ResourceName::Instance(_)
            | ResourceName::Secret { .. }
            | ResourceName::Peers(_)
            | ResourceName::Image(_) => return Err(Failure::Missing),
            ResourceName::Revision { app, hash } => {
                let app = AppRef { project: project.clone(), app: app.clone() };
                let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app, hash: *hash });
                self.store
                    .get(&key)
                    .await
                    .map(|found| found.map(|record| (record.value.spec, record.value.requires)))
            }
            ResourceName::Config { config, hash } => {
                let config = ConfigRef { project: project.clone(), config: config.clone() };
                let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config, hash: *hash });
                self.store
                    .get(&key)
                    .await
                    .map(|found| found.map(|record| (record.value.spec, record.value.requires)))
            }
        };
        let (bytes, requires) = found.map_err(Failure::Read)?.ok_or(Failure::Missing)?;
        content_resource(&name, bytes, requires).ok_or(Failure::Missing)
    }
}

impl Cache {
    fn keep(&mut self, name: Name, bytes: usize) {
        self.order.push_back((name, bytes));
        self.bytes += bytes;
        while self.bytes > CACHE_BYTES_MAX && self.order.len() > 1 {
            let Some((oldest, bytes)) = self.order.pop_front() else { break };
            self.cells.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

fn bytes(resource: &Resource) -> usize {
    match &resource.body {
        Some(resource::Body::Revision(bytes) | resource::Body::Config(bytes)) => bytes.len(),
        Some(
            resource::Body::Instance(_)
            | resource::Body::Secret(_)
            | resource::Body::Peers(_)
            | resource::Body::Image(_),
        )
        | None => 0,
    }
}
