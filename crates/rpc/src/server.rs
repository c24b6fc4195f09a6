//! The gRPC server: handlers on one listener with health, reflection, limits and an end that comes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::access::{AccessLayer, Authorizer, KnowsNobody};
use crate::door::Door;
use crate::limit::LimitLayer;
use crate::observe::ObserveLayer;
use crate::peer::{Access, PeerLayer};
use crate::tls::incoming;

/// Longest that a unary call may take, and a stream to begin.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls at once on one connection; beyond it HTTP/2 makes the client wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// HTTP/2 windows: bound what a stream and a connection may buffer.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same where streams are channels that must not hold each other up: a connection takes what all its streams may send ahead.
const CHANNEL_WINDOW_BYTES: u32 = 128 * 1024;
const CHANNELS_WINDOW_BYTES: u32 = CHANNEL_WINDOW_BYTES * STREAMS_PER_CONNECTION_MAX;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Largest HTTP/2 frame that is taken: the smallest bound that the protocol knows.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client has reset before the server came to look at them; beyond it the connection ends. Those that were begun count at
/// the door.
const RESETS_PENDING_MAX: usize = 20;
/// Streams of a connection that the server had to reset for a fault of the client's; beyond it the connection ends.
const ERRORS_PER_CONNECTION_MAX: usize = 256;
/// A silent connection is asked for a sign of life, and ends where none comes. The answer is also when the door looks whether it is idle.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// After the handlers were told to end, how long open calls may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// The name under which health says only that the process lives.
pub const LIVENESS: &str = "liveness";

/// Why a listener stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("serving gRPC failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors do not decode: a defect of the build.
    #[error("reflection cannot be served: {0}")]
    Reflection(String),
}

/// Collects the handlers of one listener, then serves them.
pub struct Server {
    routes: RoutesBuilder,
    health: HealthReporter,
    names: Vec<&'static str>,
    access: Access,
    authorizer: Arc<dyn Authorizer>,
    ready: Option<watch::Receiver<bool>>,
    carries_channels: bool,
}

impl Server {
    /// A server with health and reflection and nothing else yet.
    pub fn new(access: Access) -> Result<Self, ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(skerry_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
        let mut routes = RoutesBuilder::default();
        routes.add_service(health_service);
        routes.add_service(reflection().build_v1().map_err(broken)?);
        routes.add_service(reflection().build_v1alpha().map_err(broken)?);
        let authorizer = Arc::new(KnowsNobody::new());
        Ok(Self {
            routes,
            health,
            names: Vec::new(),
            access,
            authorizer,
            ready: None,
            carries_channels: false,
        })
    }

    /// Adds a handler (a generated `...Server`, with its own message limits).
    pub fn add<S>(&mut self, service: S) -> &mut Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Streams of one connection do not hold each other up, however slowly one of them is read.
    pub fn carry_channels(&mut self) -> &mut Self {
        self.carries_channels = true;
        self
    }

    /// Whom to ask who the users are and what they may do. A server that is not told takes no user's certificate.
    pub fn authorize(&mut self, authorizer: Arc<dyn Authorizer>) -> &mut Self {
        self.authorizer = authorizer;
        self
    }

    /// Health says SERVING only while `ready` is true. A server that is told nothing is ready from its start to its end.
    pub fn ready_when(&mut self, ready: watch::Receiver<bool>) -> &mut Self {
        self.ready = Some(ready);
        self
    }

    /// For handlers that tell their own health beyond "the process serves".
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `shutdown`. Health tells, under the empty name and that of each handler, whether calls can be answered; under
    /// [`LIVENESS`] only that the process lives: who cannot answer for want of its store gets no better by a restart. At the end: health says NOT_SERVING, nothing new is accepted, open calls get five seconds. Handlers end their
    /// streams by the same token; one that does not is cut off.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { routes, health, mut names, access, authorizer, ready, carries_channels } = self;
        let (stream_window, connection_window) = if carries_channels {
            (CHANNEL_WINDOW_BYTES, CHANNELS_WINDOW_BYTES)
        } else {
            (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES)
        };
        names.push("");
        health.set_service_status(LIVENESS, ServingStatus::Serving).await;
        let telling = tell_health(health, names, ready, shutdown.clone());
        let incoming = incoming(listener, access.tls(), Door::of_process());
        let server = tonic::transport::Server::builder()
            .layer(ObserveLayer)
            .layer(LimitLayer)
            .layer(PeerLayer::new(&access))
            .layer(AccessLayer::new(&access, authorizer))
            .timeout(CALL_TIMEOUT)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
            .http2_max_local_error_reset_streams(Some(ERRORS_PER_CONNECTION_MAX))
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, telling);
        tokio::select! {
            result = server => result?,
            () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN_DEADLINE).await } => {
                tracing::warn!("open calls did not end in time and are cut off");
            }
        }
        Ok(())
    }
}

/// Tells health by `ready` until `shutdown`; from then on nobody is ready any more.
async fn tell_health(
    health: HealthReporter,
    names: Vec<&'static str>,
    mut ready: Option<watch::Receiver<bool>>,
    shutdown: CancellationToken,
) {
    loop {
        let is_ready =
            !shutdown.is_cancelled() && ready.as_mut().is_none_or(|ready| *ready.borrow_and_update());
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names.iter().copied() {
            health.set_service_status(name, status).await;
        }
        if shutdown.is_cancelled() {
            return;
        }
        let changed = async {
            let told = match &mut ready {
                Some(ready) => ready.changed().await.is_ok(),
                None => false,
            };
            if !told {
                // Nobody says any more how it is: it stays as it was.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = changed => {}
        }
    }
}
