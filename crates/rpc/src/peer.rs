//! Who calls: the one place where a peer's identity comes from.
//!
//! With TLS it is what the caller's certificate says, read once for its connection; without, a caller is trusted because of where it calls
//! from: this machine, or anywhere when the listener was opened with `--insecure`. Handlers ask [`Peer::of`] and nothing else. Behind a proxy
//! that is trusted it may be what the proxy says ([`crate::forwarded`]).
//!
//! What each may do is for [`crate::access`], the layer behind.
//!
//! A certificate that has expired passes the handshake, so that a node which was away can come back and renew; here each call is held
//! against the clock, and of those that are out of time only a node's is let through, to its agent's stream, where it can do nothing but
//! renew. Who proves nothing at all passes only where the listener takes such, and then as nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::HeaderMap;
use skerry_identity::certificate::Nobody;
use skerry_identity::{Identity, PeerCertificate, Standing};
use skerry_model::{Code, Fault};
use tower::{Layer, Service};

use crate::access::tell;
use crate::error::status_of;
use crate::forwarded::forwarded;
use crate::tls::{Caller, ServerTls};

/// Where a node goes whose certificate is out of time.
const SYNC: &str = "/skerry.gateway.v1.SyncService/Sync";

/// Whom a listener lets in.
#[derive(Debug, Clone)]
pub enum Access {
    /// Callers on this machine only.
    Loopback,
    /// Anybody, unauthenticated: `--insecure`.
    Insecure,
    /// Who proves by a certificate to be somebody.
    Certificate(ServerTls),
}

impl Access {
    /// Checks that a listener at `address` may be opened with this access.
    pub fn check_listener(&self, address: SocketAddr) -> Result<(), Fault> {
        match self {
            Self::Insecure | Self::Certificate(_) => return Ok(()),
            Self::Loopback if address.ip().is_loopback() => return Ok(()),
            Self::Loopback => {}
        }
        Err(Fault::new(
            Code::FailedPrecondition,
            "INSECURE_LISTENER",
            format!(
                "--listen {address} is reachable from other machines and nothing would check who calls: listen on 127.0.0.1, or add --insecure if the network is trusted"
            ),
        ))
    }

    /// The TLS of the listener.
    pub(crate) fn tls(&self) -> Option<ServerTls> {
        match self {
            Self::Certificate(tls) => Some(tls.clone()),
            Self::Loopback | Self::Insecure => None,
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where from; absent where it has gone already.
    pub address: Option<SocketAddr>,
    /// What it proved to be, by which key and until when. `None` on a listener without TLS, and of who has no certificate yet: a machine
    /// that enrols, which may call nothing else.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Peer {
    /// What it proved to be. `None` on a listener without TLS.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|certificate| &certificate.identity)
    }

    /// The peer of a request, as the server established it.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Fault> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Fault::new(Code::Unauthenticated, "PEER_UNKNOWN", "the caller is not known to this listener")
        })
    }
}

/// Establishes the peer of each request, or refuses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerLayer(Gate);

/// The service that [`PeerLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct PeerService<S> {
    inner: S,
    gate: Gate,
}

/// What of [`Access`] each request is held against.
#[derive(Debug, Clone, Copy)]
enum Gate {
    Loopback,
    Insecure,
    Certificate,
}

impl PeerLayer {
    pub(crate) fn new(access: &Access) -> Self {
        Self(match access {
            Access::Loopback => Gate::Loopback,
            Access::Insecure => Gate::Insecure,
            Access::Certificate(_) => Gate::Certificate,
        })
    }
}

impl Gate {
    /// The peer, if it may call `path`. A request beside which nothing is said of its connection is nobody's.
    fn admit(
        self,
        caller: Option<&Caller>,
        (path, headers): (&str, &HeaderMap),
        now: SystemTime,
    ) -> Result<Peer, Fault> {
        let address = caller.and_then(|caller| caller.address);
        // Also where nobody is asked who they are: what is not believed is not passed over.
        if let Some(certificate) = forwarded(caller, headers, now)? {
            return Ok(Peer { address, certificate: Some(certificate) });
        }
        match self {
            Self::Insecure => Ok(Peer { address, certificate: None }),
            Self::Loopback if address.is_some_and(|address| address.ip().to_canonical().is_loopback()) => {
                Ok(Peer { address, certificate: None })
            }
            Self::Loopback => Err(Fault::new(
                Code::PermissionDenied,
                "NOT_LOCAL",
                "this listener serves callers on its own machine only",
            )),
            Self::Certificate => Ok(Peer { address, certificate: identified(caller, path, now)? }),
        }
    }
}

fn identified(
    caller: Option<&Caller>,
    path: &str,
    now: SystemTime,
) -> Result<Option<Arc<PeerCertificate>>, Fault> {
    let refused = |reason, why: String| Fault::new(Code::Unauthenticated, reason, why);
    let certificate = match caller.and_then(|caller| caller.certificate.as_ref()) {
        Some(Ok(certificate)) => certificate,
        // The handshake let it in, so the listener takes such.
        Some(Err(Nobody::Missing)) => return Ok(None),
        Some(Err(nobody)) => {
            return Err(refused("PEER_UNKNOWN", format!("the caller has not proved who it is: {nobody}")));
        }
        None => return Err(refused("PEER_UNKNOWN", "the caller has not proved who it is".to_owned())),
    };
    let who = &certificate.identity;
    match certificate.standing(now) {
        Standing::Valid => Ok(Some(Arc::clone(certificate))),
        Standing::Expired | Standing::NotYetValid if path == SYNC && who.node().is_some() => {
            Ok(Some(Arc::clone(certificate)))
        }
        Standing::Expired => Err(refused(
            "CERTIFICATE_EXPIRED",
            format!(
                "the certificate of {who} has expired: it must be renewed, unless this server's clock is wrong"
            ),
        )),
        Standing::NotYetValid => Err(refused(
            "CERTIFICATE_NOT_YET_VALID",
            format!(
                "the certificate of {who} is not valid yet: a clock is wrong, here or where it was issued"
            ),
        )),
    }
}

impl<S> Layer<S> for PeerLayer {
    type Service = PeerService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        PeerService { inner, gate: self.0 }
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
        match self.gate.admit(
            request.extensions().get::<Caller>(),
            (request.uri().path(), request.headers()),
            SystemTime::now(),
        ) {
            Ok(peer) => {
                request.extensions_mut().insert(peer);
                futures_util::future::Either::Left(self.inner.call(request))
            }
            Err(fault) => {
                let address = request.extensions().get::<Caller>().and_then(|caller| caller.address);
                tell(request.uri().path(), None, address, &fault);
                let refusal = status_of(&fault).into_http();
                futures_util::future::Either::Right(std::future::ready(Ok(refusal)))
            }
        }
    }
}
