//! The node registry: who is in the fleet, how they are, what happened.
//!
//! It follows the store and answers from memory. It writes what operators decide about nodes; what nodes report is written by their gateway.

mod access;
pub mod authority;
mod events;
mod follow;
mod installation;
mod nodes;
mod view;

use std::sync::Arc;

use skerry_api::AccessMirror;
use skerry_daemon::{ServiceArgs, Shutdown};
use skerry_proto::registry::v1::event_service_server::EventServiceServer;
use skerry_proto::registry::v1::installation_service_server::InstallationServiceServer;
use skerry_proto::registry::v1::node_service_server::NodeServiceServer;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{Store, WaitError};

use crate::access::Access;
use crate::authority::Issuer;
use crate::events::Events;
use crate::follow::Shared;
use crate::installation::Installations;
use crate::nodes::Nodes;

/// Flags of the `skerry-registry` process.
pub type Args = ServiceArgs<7771>;

/// Why a registry did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The fleet could not be read.
    #[error("reading the fleet from the store: {0}")]
    Store(#[from] WaitError),
}

/// A running registry.
pub struct Registry {
    nodes: Nodes,
    events: Events,
    installation: Installations,
    access: Access,
}

impl Registry {
    /// Reads the fleet, then follows the store until `shutdown`. `access` is what its server judges callers by.
    pub async fn start(store: Store, access: &AccessMirror, shutdown: &Shutdown) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(&store));
        shared.mirror.ready().await?;
        shutdown.spawn(follow::follow(Arc::clone(&shared), shutdown.clone()));
        let events = Events::new(&store, shutdown.clone());
        let installation = Installations::new(Arc::clone(&shared), store.clone());
        let access = Access::start(&store, access, Issuer::new(&store, None), shutdown);
        Ok(Self { nodes: Nodes::new(shared, store, shutdown.clone()), events, installation, access })
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        self.access.register(server);
        let nodes = NodeServiceServer::new(self.nodes.clone());
        let events = EventServiceServer::new(self.events.clone());
        server
            .add(
                InstallationServiceServer::new(self.installation.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                nodes
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                events
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
    }
}
