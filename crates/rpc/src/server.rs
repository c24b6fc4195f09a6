//! The gRPC server: handlers on one listener with health, reflection, limits and an end that comes.

use std::convert::Infallible;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::limit::LimitLayer;
use crate::peer::{Access, PeerLayer};

/// Longest that a unary call may take, and a stream to begin.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls at once on one connection; beyond it HTTP/2 makes the client wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// HTTP/2 windows: bound what a stream and a connection may buffer.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// After the handlers were told to end, how long open calls may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

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
        Ok(Self { routes, health, names: Vec::new(), access })
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

    /// For handlers that tell their own health beyond "the process serves".
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `shutdown`, then: health says NOT_SERVING, nothing new is accepted, open calls get five seconds. Handlers end their
    /// streams by the same token; one that does not is cut off.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        for name in self.names.iter().copied().chain([""]) {
            self.health.set_service_status(name, ServingStatus::Serving).await;
        }
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let draining = {
            let (health, names, shutdown) = (self.health.clone(), self.names.clone(), shutdown.clone());
            async move {
                shutdown.cancelled().await;
                for name in names.into_iter().chain([""]) {
                    health.set_service_status(name, ServingStatus::NotServing).await;
                }
            }
        };
        let server = tonic::transport::Server::builder()
            .layer(LimitLayer)
            .layer(PeerLayer { access: self.access })
            .timeout(CALL_TIMEOUT)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(incoming, draining);
        tokio::select! {
            result = server => result?,
            () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN_DEADLINE).await } => {
                tracing::warn!("open calls did not end in time and are cut off");
            }
        }
        Ok(())
    }
}
