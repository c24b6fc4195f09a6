//! The app scheduler: apps, configs and their revisions; which node runs what; how it stands.
//!
//! Every replica follows the store and answers; one of them leads and writes assignments. Placement itself is `skerry-placement`.

mod apps;
mod configs;
mod events;
mod follow;
mod gc;
mod instances;
mod lead;
mod meters;
mod node;
mod revisions;
mod status;
mod world;
#[doc(hidden)]
pub mod writes;

use std::sync::Arc;

use skerry_daemon::{ServiceArgs, Shutdown};
use skerry_proto::scheduler::v1::app_service_server::AppServiceServer;
use skerry_proto::scheduler::v1::config_service_server::ConfigServiceServer;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{Store, WaitError};

use crate::apps::Apps;
use crate::configs::Configs;
use crate::follow::Shared;

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
    apps: Apps,
    configs: Configs,
}

impl Scheduler {
    /// Reads the fleet, then follows the store and campaigns, as the member of that id, until `shutdown`.
    pub async fn start(store: Store, member: &str, shutdown: &Shutdown) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(&store));
        shared.mirror.ready().await?;
        shutdown.spawn(follow::follow(Arc::clone(&shared), shutdown.clone()));
        shutdown.spawn(lead::lead(Arc::clone(&shared), store.clone(), member.to_owned(), shutdown.clone()));
        Ok(Self {
            apps: Apps::new(Arc::clone(&shared), store.clone(), shutdown.clone()),
            configs: Configs::new(shared, store, shutdown.clone()),
        })
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let apps = AppServiceServer::new(self.apps.clone());
        let configs = ConfigServiceServer::new(self.configs.clone());
        server
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
