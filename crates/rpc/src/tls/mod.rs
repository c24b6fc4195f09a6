//! TLS on both sides of a connection: who presents what and trusts whom. What a handshake proves is `skerry-identity`'s; this is the transport
//! around it.
//!
//! | module | job |
//! |---|---|
//! | `accept` | the server's side: handshakes beside each other, each under a deadline |
//! | `dial` | the client's side, plain or TLS |
//! | `failure` | why a client's handshake failed, as a sentence |
//! | `files` | certificate, key and authority from files, read again when they change |

mod accept;
mod dial;
mod failure;
mod files;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use skerry_identity::clock::SystemClock;
use skerry_identity::tls::{Credentials, client_config, server_config};
use skerry_identity::verify::{ClientVerifier, Clients, Expected, ServerVerifier, Time};
use skerry_identity::{Identity, KeyId, Principal, Trust};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::forwarded::Network;
pub use accept::bounded;
pub(crate) use accept::{Caller, incoming};
pub use dial::SPEAKS_TLS;
pub(crate) use dial::{DialError, dial};
pub use failure::TlsFailure;
pub use files::{TlsFile, TlsFiles, TlsFilesError, TlsPaths};

/// The server's side: what it presents, and whom it trusts.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    /// Where trusted proxies are, which end TLS themselves.
    proxies: Arc<[Network]>,
}

impl ServerTls {
    /// Presents `credentials`, and lets in whom `trust` names at the time of the handshake.
    pub fn new(credentials: Arc<Credentials>, trust: Arc<Trust>, clients: Clients) -> Self {
        let verifier = ClientVerifier::new(Arc::clone(&trust), clients);
        let config = server_config(credentials, Arc::new(verifier));
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), trust, proxies: Arc::default() }
    }

    /// The same, and who calls from these addresses may do without TLS: they are proxies, which say in a header who their caller is.
    #[must_use]
    pub fn behind(self, proxies: impl Into<Arc<[Network]>>) -> Self {
        Self { proxies: proxies.into(), ..self }
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("domain", self.trust.current().domain()).finish_non_exhaustive()
    }
}

/// The client's side: what it presents, whom it trusts, and whom it means to reach.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    presented: Option<Presented>,
}

/// What a server presented when it was let through, leaf first; empty before that. Of the first connection only.
#[derive(Debug, Clone, Default)]
pub struct Presented(Arc<OnceLock<Vec<CertificateDer<'static>>>>);

impl Presented {
    /// The chain.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }

    fn note(&self, chain: Option<&[CertificateDer<'_>]>) {
        let chain = chain.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned());
        let _ = self.0.set(chain.collect());
    }
}

impl ClientTls {
    /// Presents `credentials`, and talks to servers that `trust` names and that are the `expected` ones.
    pub fn new(credentials: Arc<Credentials>, trust: Arc<Trust>, expected: Expected, time: Time) -> Self {
        Self::of(credentials, ServerVerifier::new(trust, expected, time))
    }

    /// Presents nothing, and talks to servers that present the root with this `pin` and lead to it: who enrols.
    pub fn pinned(pin: KeyId, expected: Expected) -> Self {
        Self::of(Credentials::none(), ServerVerifier::pinned(pin, expected))
    }

    fn of(credentials: Arc<Credentials>, servers: ServerVerifier) -> Self {
        let config = client_config(credentials, Arc::new(servers));
        Self { connector: TlsConnector::from(Arc::new(config)), presented: None }
    }

    /// The same for one connection, and what its server will have presented.
    pub fn once(&self) -> (Self, Presented) {
        let presented = Presented::default();
        (Self { connector: self.connector.clone(), presented: Some(presented.clone()) }, presented)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// The time of machines whose clock somebody keeps right.
pub(crate) fn exact_time() -> Time {
    Time::Exact(Arc::new(SystemClock))
}

/// Exactly this service; nothing for what is no service.
pub(crate) fn exactly(identity: &Identity) -> Option<Expected> {
    match &identity.principal {
        Principal::Service(name) => {
            Some(Expected::Services { project: identity.project.clone(), names: vec![name.clone()] })
        }
        Principal::Node(_) | Principal::User(_) => None,
    }
}
