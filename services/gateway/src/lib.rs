//! The gateway: one stream per agent, desired state down, reports up.
//!
//! Each stream is one actor around a `skerry_sync::GatewaySession`, which decides; here are the streams, the clock and the store. The
//! gateway follows the keys of assignments, sessions and nodes (no values), and reads values for its own sessions only. Machines that enrol
//! and nodes that renew are passed on to the registry.

mod actor;
mod admission;
mod claims;
mod clock;
mod close;
mod commit;
mod config;
mod contents;
mod enrolment;
mod issuing;
mod keys;
mod live;
mod offer;
mod open;
mod presence;
mod rate;
mod samples;
mod service;
mod trust;

use std::sync::Arc;

use skerry_api::Links;
use skerry_daemon::Shutdown;
use skerry_proto::gateway::v1::enrollment_service_server::EnrollmentServiceServer;
use skerry_proto::gateway::v1::offer_service_server::OfferServiceServer;
use skerry_proto::gateway::v1::sync_service_server::SyncServiceServer;
use skerry_proto::store::v1 as stored;
use skerry_rpc::Server;
use skerry_store::keys::GatewayId;
use skerry_store::{Lease, Mirror, MirrorConfig, Store, WaitError};
use skerry_sync::limits;
use tokio::sync::{mpsc, watch};

pub use self::config::{Args, Config};
pub use self::issuing::Issuing;

use self::admission::Admission;
use self::claims::Claims;
use self::clock::Clock;
use self::contents::Contents;
use self::enrolment::Enrolment;
use self::live::Live;
use self::offer::Offers;
use self::presence::Presence;
use self::rate::Rate;
use self::samples::Samples;
use self::service::Sync;
use self::trust::Trusted;

/// Room for what gRPC puts around a frame's largest content.
const FRAME_BYTES_MAX: usize = limits::FRAME_BYTES_MAX + 64 * 1024;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is in the store could not be followed.
    #[error("following the store: {0}")]
    Store(#[from] WaitError),
    /// The process ends already.
    #[error("the gateway was stopped before it had started")]
    Stopped,
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) id: Arc<str>,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) mirror: Mirror,
    pub(crate) contents: Contents,
    pub(crate) admission: Admission,
    pub(crate) claims: Claims,
    pub(crate) live: Live,
    pub(crate) rate: Rate,
    pub(crate) samples: Samples,
    pub(crate) trusted: Trusted,
    pub(crate) closing: mpsc::Sender<close::Closed>,
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
}

impl Gateway {
    /// Makes the gateway known and follows the store until `shutdown`.
    pub async fn start(config: Config, store: Store, shutdown: &Shutdown) -> Result<Self, StartError> {
        let id = uuid::Uuid::new_v4().to_string();
        let gateway_id = GatewayId::parse(&id).expect("a uuid is an id");
        let mirror = Mirror::start(
            &store,
            MirrorConfig::new()
                .keys_only::<stored::AssignmentRecord>()
                .keys_only::<stored::SessionRecord>()
                .keys_only::<stored::NodeRecord>()
                .family::<stored::AuthorityRecord>(),
        );
        mirror.ready().await?;

        // Before the first session: one of a gateway that nobody knows counts as disconnected.
        let (written, mut is_written) = watch::channel(false);
        let presence = Presence {
            lease: Lease::keep(&store, config.lease_ttl),
            store: store.clone(),
            id: gateway_id,
            address: config.address.clone(),
            written,
        };
        shutdown.spawn(presence.run(shutdown.clone()));
        is_written.wait_for(|written| *written).await.map_err(|_| StartError::Stopped)?;

        let (closing, closed) = mpsc::channel(close::QUEUE_MAX);
        shutdown.spawn(close::run(store.clone(), closed, shutdown.clone()));
        let samples = Samples::new(Links::new(config.tls.clone()));
        let shared = Arc::new(Shared {
            id: id.into(),
            admission: Admission::new(config.sessions_per_second),
            claims: Claims::default(),
            config,
            contents: Contents::new(store.clone()),
            live: Live::default(),
            rate: Rate::default(),
            samples,
            trusted: Trusted::default(),
            closing,
            clock: Clock::new(),
            shutdown: shutdown.clone(),
            mirror,
            store,
        });
        shutdown.spawn(live::follow(Arc::clone(&shared)));
        shutdown.spawn(samples::follow(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// The gateway's id: random for each start.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Sessions that are open or opening.
    pub fn sessions(&self) -> usize {
        self.shared.live.len()
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let service = SyncServiceServer::new(Sync::new(Arc::clone(&self.shared)));
        let enrolment = EnrollmentServiceServer::new(Enrolment::new(Arc::clone(&self.shared)));
        let offers = OfferServiceServer::new(Offers::new(Arc::clone(&self.shared)));
        server
            .add(offers.max_decoding_message_size(offer::REQUEST_BYTES_MAX))
            .add(
                service.max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX),
            )
            .add(enrolment.max_decoding_message_size(enrolment::REQUEST_BYTES_MAX));
    }
}
