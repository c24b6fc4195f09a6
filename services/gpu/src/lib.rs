//! The gpu service: what GPUs a fleet has, how they are, who uses them, and what was.
//!
//! | module | job |
//! |---|---|
//! | `service` | the API: hands each call to the module whose matter it is |
//! | `inventory` | which GPUs there are, and what is booked on them: from the store, so that each replica answers for all |
//! | `select` | which of them a request means |
//! | `ingest` | what gateways send: sessions and frames of the nodes that this replica has |
//! | `fleet` | what is known of these nodes now, and what happened to them |
//! | `marks` | what of that is kept in a file: counts of errors, the last events and gaps |
//! | `recorder` | the thread that owns the history |
//! | `samples` | samples as they come in, of all replicas, for who follows them |
//! | `history` | what was, of all replicas |
//! | `meters` | what it counts of its own work |
//! | `metrics` | what is known now, for Prometheus and OpenTelemetry |
//! | `peers` | what one replica tells another |
//!
//! A node is one replica's at a time: its gateway says whose. What a replica had of it stays there, and is asked for there.

mod config;
mod convert;
mod fleet;
mod group;
mod history;
mod ingest;
mod inventory;
mod marks;
mod meters;
mod metrics;
mod peers;
mod recorder;
mod samples;
mod select;
mod service;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use skerry_api::Links;
use skerry_daemon::Shutdown;
use skerry_proto::gpu::v1::gpu_service_server::GpuServiceServer;
use skerry_proto::gpu::v1::ingest_service_server::IngestServiceServer;
use skerry_proto::gpu::v1::peer_service_server::PeerServiceServer;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{Store, WaitError};

pub use self::config::{Args, Config};

use self::fleet::Fleet;
use self::ingest::Ingest;
use self::inventory::Inventory;
use self::marks::MarksFile;
use self::peers::Peers;
use self::recorder::Recorder;
use self::service::Service;

/// Largest message from a gateway: one frame of a mebibyte at most, and what is around it.
const INGEST_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// A running gpu service.
pub struct GpuTelemetry {
    shared: Arc<Shared>,
}

/// What all calls share.
pub(crate) struct Shared {
    /// Which replica this is: `members/<id>`.
    pub(crate) id: Arc<str>,
    pub(crate) store: Store,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) fleet: Fleet,
    pub(crate) recorder: Recorder,
    /// To the other replicas.
    pub(crate) links: Links,
    pub(crate) shutdown: Shutdown,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("the data directory {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is kept beside the history is damaged.
    #[error("{path} cannot be read ({source}): mend it, or move it away and lose which events were counted", path = path.display())]
    Marks {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The history cannot be opened.
    #[error(transparent)]
    History(#[from] skerry_series::OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] WaitError),
}

impl GpuTelemetry {
    /// One that is the member of that id, until `shutdown`.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(
        config: Config,
        store: Store,
        member: &str,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let Config { data_dir, history, tls } = config;
        let history_dir = data_dir.join("history");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&history_dir);
        made.map_err(|source| StartError::Directory { path: data_dir.clone(), source })?;
        let file = MarksFile::new(&data_dir);
        let marks =
            file.read().map_err(|source| StartError::Marks { path: data_dir.join("nodes"), source })?;
        let recorder = Recorder::start(&history_dir, history, shutdown)?;
        let shared = Arc::new(Shared {
            id: member.into(),
            inventory: Inventory::start(&store, shutdown).await?,
            store,
            fleet: Fleet::with(marks),
            recorder,
            links: Links::new(tls),
            shutdown: shutdown.clone(),
        });
        shutdown.spawn(ingest::keep(Arc::clone(&shared), file));
        metrics::register(&shared);
        skerry_daemon::also_tell(metrics::source(&shared));
        Ok(Self { shared })
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let users = GpuServiceServer::new(Service::new(Arc::clone(&self.shared)));
        let gateways = IngestServiceServer::new(Ingest::new(Arc::clone(&self.shared)));
        let peers = PeerServiceServer::new(Peers::new(Arc::clone(&self.shared)));
        server
            .add(users.max_encoding_message_size(MESSAGE_BYTES_MAX))
            .add(gateways.max_decoding_message_size(INGEST_BYTES_MAX))
            .add(
                peers
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
    }
}
