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
use std::sync::Arc;

use skerry_identity::clock::SystemClock;
use skerry_identity::tls::{Credentials, client_config, server_config};
use skerry_identity::verify::{ClientVerifier, Clients, Expected, ServerVerifier, Time};
use skerry_identity::{Identity, Principal, Trust};
use tokio_rustls::{TlsAcceptor, TlsConnector};

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
}

impl ServerTls {
    /// Presents `credentials`, and lets in whom `trust` names at the time of the handshake.
    pub fn new(credentials: Arc<Credentials>, trust: Arc<Trust>, clients: Clients) -> Self {
        let verifier = ClientVerifier::new(Arc::clone(&trust), clients);
        let config = server_config(credentials, Arc::new(verifier));
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), trust }
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
}

impl ClientTls {
    /// Presents `credentials`, and talks to servers that `trust` names and that are the `expected` ones.
    pub fn new(credentials: Arc<Credentials>, trust: Arc<Trust>, expected: Expected, time: Time) -> Self {
        let config = client_config(credentials, Arc::new(ServerVerifier::new(trust, expected, time)));
        Self { connector: TlsConnector::from(Arc::new(config)) }
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
