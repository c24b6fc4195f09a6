//! The gpu service: what GPUs a fleet has, how they are, who uses them, and what was.
//!
//! | module | job |
//! |---|---|
//! | `service` | the API: checks what is asked, and hands it on |
//! | `inventory` | which GPUs there are, and what is booked on them: from the store, so that each replica answers for all |

mod config;
mod inventory;
mod service;

use std::sync::Arc;

use skerry_daemon::Shutdown;
use skerry_model::Fault;
use skerry_proto::gpu::v1::gpu_service_server::GpuServiceServer;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::Store;

pub use self::config::{Args, Config};

use self::service::Service;

/// A running gpu service.
pub struct GpuTelemetry {
    shared: Arc<Shared>,
}

/// What all calls share.
pub(crate) struct Shared {
    /// Which replica this is: `members/<id>`.
    pub(crate) id: Arc<str>,
    pub(crate) store: Store,
    pub(crate) shutdown: Shutdown,
}

impl GpuTelemetry {
    /// One that is the member of that id, until `shutdown`.
    ///
    /// # Errors
    ///
    /// What is kept in the data directory cannot be read.
    pub async fn start(
        _config: Config,
        store: Store,
        member: &str,
        shutdown: &Shutdown,
    ) -> Result<Self, Fault> {
        let shared = Shared { id: member.into(), store, shutdown: shutdown.clone() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let users = GpuServiceServer::new(Service::new(Arc::clone(&self.shared)));
        server.add(users.max_encoding_message_size(MESSAGE_BYTES_MAX));
    }
}
