//! The app scheduler: apps, configs, secrets and their revisions; how changes come to clusters; which node runs what; how it stands.
//!
//! Every replica follows the store and answers; one of them leads and writes assignments. Placement itself is `skerry-placement`.

mod apps;
mod configs;
mod follow;
mod gc;
mod instances;
mod lead;
mod meters;
mod node;
mod pace;
mod placement;
mod revisions;
mod rollouts;
mod sealing;
mod secrets;
mod sight;
mod status;
mod world;
#[doc(hidden)]
pub mod writes;

use std::sync::Arc;

use skerry_daemon::{ServiceArgs, Shutdown};
use skerry_proto::scheduler::v1::app_service_server::AppServiceServer;
use skerry_proto::scheduler::v1::config_service_server::ConfigServiceServer;
use skerry_proto::scheduler::v1::placement_service_server::PlacementServiceServer;
use skerry_proto::scheduler::v1::rollout_service_server::RolloutServiceServer;
use skerry_proto::scheduler::v1::secret_service_server::SecretServiceServer;
use skerry_resources::Apply;
pub use skerry_resources::SecretKeys;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{Mirror, Store, WaitError};

use crate::apps::Apps;
use crate::configs::Configs;
use crate::follow::Shared;
use crate::placement::Placement;
use crate::rollouts::Rollouts;
use crate::secrets::Secrets;

/// Flags of the `skerry-scheduler` process.
pub type Args = ServiceArgs<7772>;

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The fleet could not be read.
    #[error("reading the fleet from the store: {0}")]
    Store(#[from] WaitError),
}

/// A running scheduler.
pub struct Scheduler {
    apply: Apply,
    apps: Apps,
    placement: Placement,
    rollouts: Rollouts,
    configs: Configs,
    secrets: Secrets,
}

impl Scheduler {
    /// Reads the fleet, then follows the store and campaigns, as the member of that id, until `shutdown`.
    /// `keys` open the values of secrets.
    pub async fn start(
        store: Store,
        member: &str,
        keys: SecretKeys,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(&store, keys.clone()));
        shared.mirror.ready().await?;
        shutdown.spawn(follow::follow(Arc::clone(&shared), shutdown.clone()));
        shutdown.spawn(lead::lead(Arc::clone(&shared), store.clone(), member.to_owned(), shutdown.clone()));
        Ok(Self {
            apply: Apply::new(store.clone(), keys.clone(), [shared.mirror.clone()]),
            apps: Apps::new(Arc::clone(&shared), store.clone(), shutdown.clone()),
            placement: Placement::new(Arc::clone(&shared), store.clone()),
            rollouts: Rollouts::new(Arc::clone(&shared), store.clone()),
            configs: Configs::new(Arc::clone(&shared), store.clone(), shutdown.clone()),
            secrets: Secrets::new(shared, store, keys, shutdown.clone()),
        })
    }

    /// What is applied together waits for these mirrors too before it is answered: those of services in the same process.
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: impl IntoIterator<Item = Mirror>) -> Self {
        self.apply.wait_for(mirrors);
        self
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let apps = AppServiceServer::new(self.apps.clone());
        let configs = ConfigServiceServer::new(self.configs.clone());
        let secrets = SecretServiceServer::new(self.secrets.clone());
        let placement = PlacementServiceServer::new(self.placement.clone());
        self.apply.register(server);
        server
            .add(
                placement
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(RolloutServiceServer::new(self.rollouts.clone()))
            .add(
                secrets
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                apps.max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                configs
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
    }
}
