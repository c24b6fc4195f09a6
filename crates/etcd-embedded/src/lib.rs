//! An etcd v3 server in the process, on one file: the store of `skerry up` and of `skerry etcd`.
//!
//! # What is served
//!
//! The gRPC services KV, Watch, Lease, Maintenance and Cluster, so that etcd's clients and `etcdctl` work:
//!
//! - ranges (keys, prefixes, from a key on; limit, count, keys only, past revisions, sorting, filters by revision),
//!   put, delete, and transactions with all comparisons, nested ones included;
//! - watches from past, present and future revisions, many on one stream, with previous values, filters,
//!   progress and fragments; a watch below the compacted revision is cancelled with that revision;
//! - leases; compaction, with removal of the rows; status, member list, defragment, snapshot.
//!
//! Answers, error codes and error texts are etcd's: a conformance suite in `integration/` runs against both, and
//! a property test feeds both the same random operations and compares every answer.
//!
//! # What is not
//!
//! No cluster (one member, always the leader), hence no hashes, alarms or downgrades; no users and roles (the
//! Auth service answers `UNIMPLEMENTED`); no Lock and Election services, which clients build from transactions
//! and leases just as well; no HTTP gateway. Give `etcdctl` 3.4 its endpoint without `http://`: with it, `endpoint
//! status`, `defrag` and `snapshot` send an `:authority` that is none, and HTTP/2 refuses that. A snapshot is a data file of this store, not one of etcd's: put in
//! the place of `store.redb` (without its last 32 bytes, the checksum), it is the store as it was.
//!
//! # Promise
//!
//! A write is answered, and shown to readers and watchers, after the transaction that holds it has been synced
//! to the disk. After a crash or a power loss the store is as it was after some write, at or after the last one
//! answered. A write that was refused with `UNAVAILABLE` may or may not have happened, as in etcd. Reads are
//! linearizable: they look at the newest state that is durable, and do not wait for the disk. When the disk
//! fails, writes are refused and reads go on; the data file is opened again until that works.
//!
//! # Bounds
//!
//! All keys and values, with the history that is kept, are held in memory: this makes reads, comparisons and
//! watches independent of the disk, which edge machines have slow ones of, and keeps the core free of I/O.
//! [`Config::quota_bytes`] bounds it (512 MiB unless set; an empty store takes next to nothing): above it, writes
//! that add something are refused with etcd's `database space exceeded`; a transaction that removes more than it puts is taken. Old history is forgotten by itself
//! ([`AutoCompaction`]). Requests are at most 1.5 MiB and 128 operations, as in etcd.
//!
//! # Inside
//!
//! [`mvcc`] is the store as a state machine without I/O, clock or randomness, which a simulator can drive; a
//! writer thread applies commands in batches, one synced transaction for each batch; the services translate.

mod config;
mod disk;
mod housekeeping;
pub mod mvcc;
mod server;
mod shared;
#[doc(hidden)]
pub mod wire;
mod writer;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::service_fn;
use tracing::{error, warn};

pub use config::{AutoCompaction, Config, OpenError, ServeError};

use mvcc::{Answer, Command};
use shared::{Engine, Shared};
use writer::{QUEUE_COMMANDS, Work, Writer};

/// How long a listener's open calls may take to end once it is told to stop. Streams end at once.
const DRAIN: Duration = Duration::from_secs(3);
/// After this long without a sign of life a peer is asked for one, and after as long again it is given up.
const PEER_SILENCE: Duration = Duration::from_secs(30);
/// Calls at once on one connection from outside; beyond it HTTP/2 makes the client wait. Each watch is one of many on a stream.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client has reset before they were looked at, and those that had to be reset for its faults; beyond
/// it the connection ends.
const RESETS_PENDING_MAX: usize = 20;
const ERRORS_PER_CONNECTION_MAX: usize = 256;
/// Bytes that wait between a client and the server within the process, each way.
const IN_PROCESS_BYTES: usize = 256 << 10;
/// Connections within the process that wait to be accepted.
const IN_PROCESS_CONNECTIONS: usize = 4;

/// An open store. Clones are cheap and are the same store; [`close`](Self::close) closes it for all of them.
#[derive(Clone)]
pub struct EmbeddedEtcd {
    engine: Engine,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EmbeddedEtcd {
    /// Opens the store in the directory, or makes one there.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let data_dir = config.data_dir.clone();
        let opening = tokio::task::spawn_blocking(move || Shared::open(config));
        let (shared, disk) = opening.await.map_err(|error| OpenError::Directory {
            path: data_dir.clone(),
            source: std::io::Error::other(error),
        })??;
        let (queue, requests) = mpsc::channel(QUEUE_COMMANDS);
        let writer = Writer::new(Arc::clone(&shared), disk);
        // A thread of its own and not one of the runtime's: it blocks for as long as the store lives.
        let writer = std::thread::Builder::new()
            .name("etcd-writer".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|source| OpenError::Directory { path: data_dir, source })?;
        shared.tasks.spawn(housekeeping::run(Arc::clone(&shared), queue.downgrade()));
        Ok(Self { engine: Engine { shared, queue }, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// All services, to be served on any listener. Their streams end when the store is closed.
    pub fn routes(&self) -> Routes {
        server::routes(self.engine.clone(), self.engine.shared.stop.clone())
    }

    /// Serves on a listener until `shutdown`, or until the store is closed. Streams on this listener end at once
    /// then, other calls have three seconds. The store stays open. How many connections there may be is not
    /// bounded here: [`serve_incoming`](Self::serve_incoming) serves what another has let in.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        if let Ok(address) = listener.local_addr() {
            self.add_address(address);
        }
        self.serve_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown).await
    }

    /// Names an address under which the store is served, for those who list its members.
    pub fn add_address(&self, address: SocketAddr) {
        self.engine.shared.add_address(format!("http://{address}"));
    }

    /// Serves connections as [`serve`](Self::serve) does.
    pub async fn serve_incoming<I, C>(
        self,
        incoming: I,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError>
    where
        I: Stream<Item = std::io::Result<C>>,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stop = self.engine.shared.stop.child_token();
        let routes = server::routes(self.engine.clone(), stop.clone());
        let serving = builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
            .http2_max_local_error_reset_streams(Some(ERRORS_PER_CONNECTION_MAX))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return Ok(served?),
            () = shutdown.cancelled() => stop.cancel(),
            () = stop.cancelled() => {}
        }
        // Whoever is not done by then is cut off: the connections close as `serving` is dropped.
        match tokio::time::timeout(DRAIN, serving).await {
            Ok(served) => Ok(served?),
            Err(_elapsed) => Ok(()),
        }
    }

    /// A channel to the store that needs no port and no file: bytes in memory, through the same services.
    pub async fn serve_in_process(&self) -> Result<Channel, ServeError> {
        let (dial, accepted) = mpsc::channel::<DuplexStream>(IN_PROCESS_CONNECTIONS);
        let incoming = ReceiverStream::new(accepted).map(Ok::<_, Infallible>);
        let stop = self.engine.shared.stop.clone();
        let serving = builder()
            .add_routes(self.routes())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        self.engine.shared.tasks.spawn(async move {
            tokio::pin!(serving);
            let served = tokio::select! {
                served = &mut serving => Ok(served),
                () = stop.cancelled() => tokio::time::timeout(DRAIN, serving).await,
            };
            if let Ok(Err(error)) = served {
                error!(%error, "serving the store in this process");
            }
        });
        let connector = service_fn(move |_: Uri| {
            let dial = dial.clone();
            async move {
                let (near, far) = tokio::io::duplex(IN_PROCESS_BYTES);
                dial.send(far)
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = Endpoint::from_static("http://etcd.in-process");
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    /// An etcd client on [`serve_in_process`](Self::serve_in_process).
    pub async fn connect(&self) -> Result<etcd_client::Client, ServeError> {
        let channel = etcd_client::Channel::Tonic(self.serve_in_process().await?);
        Ok(etcd_client::Client::from_channel(channel, None).await?)
    }

    /// Ends every lease, with the keys that hang on it. For an owner that serves nobody outside its process and has just opened the store: whoever held
    /// one is gone and need not be waited for. What the disk refuses is told in the log, and ends in its own time.
    pub async fn revoke_leases(&self) {
        let Ok(Answer::LeaseList { ids, .. }) = self.engine.command(Command::LeaseList).await else { return };
        for id in ids {
            if let Err(refusal) = self.engine.command(Command::LeaseRevoke { id }).await {
                warn!(id, %refusal, "a lease of before was not revoked");
            }
        }
    }

    /// Ends all streams and services, lets the writer finish what is queued, and closes the data file. When this
    /// returns, another process can open the directory.
    pub async fn close(self) {
        let Self { engine, writer } = self;
        let shared = Arc::clone(&engine.shared);
        shared.stop.cancel();
        shared.tasks.close();
        // Tasks that are still there after that hold no lock on anything that closing needs.
        let _ = tokio::time::timeout(DRAIN + DRAIN, shared.tasks.wait()).await;
        // An error says that the writer has stopped already.
        let _ = engine.work(Work::Stop).await;
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                error!("the writer of the store ended in a panic");
            }
        }
        shared.unlock();
    }
}

impl std::fmt::Debug for EmbeddedEtcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedEtcd")
            .field("data_dir", &self.engine.shared.config.data_dir)
            .finish_non_exhaustive()
    }
}

fn builder() -> Server {
    Server::builder().http2_keepalive_interval(Some(PEER_SILENCE)).http2_keepalive_timeout(Some(PEER_SILENCE))
}
