//! Who calls: the one place where a peer's identity comes from.
//!
//! Until certificates come, a caller is trusted because of where it calls from: this machine, or anywhere when the listener was opened
//! with `--insecure`. Handlers ask [`Peer::of`] and nothing else, so that identity can arrive without touching them.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use skerry_identity::Identity;
use skerry_model::{Code, Fault};
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tower::{Layer, Service};

use crate::error::status_of;

/// Whom a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Callers on this machine only.
    Loopback,
    /// Anybody, unauthenticated: `--insecure`.
    Insecure,
}

impl Access {
    /// Checks that a listener at `address` may be opened with this access.
    pub fn check_listener(self, address: SocketAddr) -> Result<(), Fault> {
        if self == Self::Insecure || address.ip().is_loopback() {
            return Ok(());
        }
        Err(Fault::new(
            Code::FailedPrecondition,
            "INSECURE_LISTENER",
            format!(
                "--listen {address} is reachable from other machines and nothing would check who calls: listen on 127.0.0.1, or add --insecure if the network is trusted"
            ),
        ))
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where from; absent inside the process or over a Unix socket.
    pub address: Option<SocketAddr>,
    /// What it proved to be. `None` for everybody until certificates come.
    pub identity: Option<Identity>,
}

impl Peer {
    /// The peer of a request, as the server established it.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Fault> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Fault::new(Code::Unauthenticated, "PEER_UNKNOWN", "the caller is not known to this listener")
        })
    }
}

/// Establishes the peer of each request, or refuses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerLayer {
    pub(crate) access: Access,
}

/// The service that [`PeerLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct PeerService<S> {
    inner: S,
    access: Access,
}

impl<S> Layer<S> for PeerLayer {
    type Service = PeerService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        PeerService { inner, access: self.access }
    }
}

impl<S, B, R> Service<http::Request<B>> for PeerService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures_util::future::Either<S::Future, std::future::Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let extensions = request.extensions();
        let tcp = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let local = extensions.get::<UdsConnectInfo>().is_some();
        let trusted = match self.access {
            Access::Insecure => true,
            Access::Loopback => local || tcp.is_some_and(|address| address.ip().to_canonical().is_loopback()),
        };
        if !trusted {
            let fault = Fault::new(
                Code::PermissionDenied,
                "NOT_LOCAL",
                "this listener serves callers on its own machine only",
            );
            return futures_util::future::Either::Right(std::future::ready(
                Ok(status_of(&fault).into_http()),
            ));
        }
        request.extensions_mut().insert(Peer { address: tcp, identity: None });
        futures_util::future::Either::Left(self.inner.call(request))
    }
}
