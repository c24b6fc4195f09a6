//! The two ends of a handshake, each held against the trust bundle.
//!
//! **Clients, by a server** ([`ClientVerifier`]): the chain must lead to a trusted root, the name must parse in our trust domain, the purpose
//! must be a client's. Time is the one thing that does not fail the handshake: a chain passes if it was valid together at any time at all.
//! A node that was offline for a year comes back with an expired certificate, and if it could not even connect it could not renew. Whoever
//! serves the connection asks [`Trust::client`] and lets one that is out of time do nothing but renew, by a key that the node's record names.
//! Its times are those of the whole presented chain, so a leaf that was made later with the stolen key of an expired intermediate has
//! expired too.
//!
//! **Servers, by a client** ([`ServerVerifier`]): the chain must lead to a trusted root, the peer must be a service with a server's purpose,
//! and the one that is expected: by its name in the certificate, or by the host name or address that was dialled. Time is either exact, on
//! machines whose clock is kept right, or at any time from a floor on ([`crate::clock`] has the reasoning): agents.
//!
//! **A server, by a machine that has only a token** ([`ServerVerifier::pinned`]): as before, with the root of the server's chain that has the
//! token's pin as the only one trusted. Servers present their roots for that.
//!
//! What is signed with is fixed: ECDSA on P-256 with SHA-256, in certificates and in the handshake. TLS 1.2 is not spoken.
//! Revocation is not here: a key is struck out of its record, and who serves a session asks the record.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use skerry_model::{ProjectName, ServiceName};
use webpki::EndEntityCert;

use crate::bundle::{Root, Trust};
use crate::certificate::{CHAIN_CERTIFICATES_MAX, Nobody, PeerCertificate};
use crate::clock::{Clock, TimeFloor};
use crate::path::{self, ALGORITHMS, Side, When};
use crate::{Identity, KeyId, TrustBundle, TrustDomain};

/// The signatures of a handshake.
pub(crate) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: ALGORITHMS,
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, ALGORITHMS)],
};

/// Whether a server talks to those who prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Only with a certificate.
    Required,
    /// Also without one: where machines enrol. A certificate that is presented must pass all the same.
    Optional,
}

/// How a server looks at clients.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: Arc<Trust>,
    clients: Clients,
}

impl ClientVerifier {
    /// Trusts what `trust` has at each handshake.
    pub fn new(trust: Arc<Trust>, clients: Clients) -> Self {
        Self { trust, clients }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Required
    }

    /// None: a client has one certificate and needs no hint, and a list could not change with the bundle.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bundle = self.trust.current();
        let when = When::AnyTimeFrom(UNIX_EPOCH);
        claims(end_entity, bundle.domain(), Side::Client)?;
        path::verify(end_entity, intermediates, bundle.anchors(), Side::Client, when)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Which service a client means to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Any service whose certificate has the host name or the address that was dialled: where a person said which.
    Dialled,
    /// One of these, wherever it was reached: between services, whose addresses come and go.
    Services {
        /// The project that they are in.
        project: ProjectName,
        /// Their names.
        names: Vec<ServiceName>,
    },
}

/// What time it is for a client.
#[derive(Debug, Clone)]
pub enum Time {
    /// What this clock shows.
    Exact(Arc<dyn Clock>),
    /// Not before this floor.
    Floor(Arc<TimeFloor>),
}

/// How a client looks at servers.
#[derive(Debug)]
pub struct ServerVerifier {
    roots: Roots,
    expected: Expected,
    time: Time,
}

/// Which roots a client trusts.
#[derive(Debug)]
enum Roots {
    /// Those of the bundle.
    Bundle(Arc<Trust>),
    /// The one whose key has this fingerprint, which the server must present.
    Pinned(KeyId),
}

impl ServerVerifier {
    /// Trusts what `trust` has at each handshake.
    pub fn new(trust: Arc<Trust>, expected: Expected, time: Time) -> Self {
        Self { roots: Roots::Bundle(trust), expected, time }
    }

    /// Trusts the root whose key has the fingerprint `pin`, which the server must present; at any time, as a machine that enrols has heard
    /// no authenticated time yet.
    pub fn pinned(pin: KeyId, expected: Expected) -> Self {
        let time = Time::Floor(Arc::new(TimeFloor::default()));
        Self { roots: Roots::Pinned(pin), expected, time }
    }
}

impl ServerVerifier {
    fn verify(
        &self,
        (leaf, presented): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        (anchors, domain): (&[TrustAnchor<'_>], &TrustDomain),
        dialled: &ServerName<'_>,
    ) -> Result<(), CertificateError> {
        let when = match &self.time {
            Time::Exact(clock) => When::At(clock.now()),
            Time::Floor(floor) => When::AnyTimeFrom(floor.get()),
        };
        let peer = claims(leaf, domain, Side::Server)?;
        path::verify(leaf, presented, anchors, Side::Server, when)?;
        let identity = &peer.identity;
        let (project, service) = identity.service().ok_or_else(|| unexpected(identity, &self.expected))?;
        match &self.expected {
            Expected::Dialled => EndEntityCert::try_from(leaf)
                .and_then(|leaf| leaf.verify_is_valid_for_subject_name(dialled))
                .map_err(|_| CertificateError::NotValidForName),
            Expected::Services { project: wanted, names } if project == wanted && names.contains(service) => {
                Ok(())
            }
            Expected::Services { .. } => Err(unexpected(identity, &self.expected)),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.roots {
            Roots::Bundle(trust) => {
                let bundle = trust.current();
                self.verify((end_entity, intermediates), (bundle.anchors(), bundle.domain()), server_name)?;
            }
            Roots::Pinned(pin) => {
                let root = pinned_root(intermediates, *pin).ok_or(CertificateError::UnknownIssuer)?;
                let anchors = std::slice::from_ref(root.anchor());
                self.verify((end_entity, intermediates), (anchors, root.domain()), server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Whether a chain that a server presented, leaf first, would be let through by who trusts `bundle`, at some time not before `floor`. Asked
/// before another bundle takes the place of the one that let it through.
pub fn check_server_chain(
    presented: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    floor: SystemTime,
) -> Result<(), CertificateError> {
    check_chain(presented, bundle, floor, Side::Server).map(|_| ())
}

/// Whether a chain for a client, leaf first, would be let through by a server that trusts `bundle`, whatever its time; and what it says.
pub fn check_client_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
) -> Result<PeerCertificate, CertificateError> {
    check_chain(chain, bundle, UNIX_EPOCH, Side::Client)
}

fn check_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    floor: SystemTime,
    side: Side,
) -> Result<PeerCertificate, CertificateError> {
    let (leaf, above) = chain.split_first().ok_or_else(|| path::refused(Nobody::Missing))?;
    claims(leaf, bundle.domain(), side)?;
    path::verify(leaf, above, bundle.anchors(), side, When::AnyTimeFrom(floor))?;
    PeerCertificate::of_chain(chain, bundle.domain()).map_err(path::refused)
}

/// The root with `pin` in a chain that a server presented. It signed itself, so its name too is the root's own word.
pub fn pinned_root(presented: &[CertificateDer<'_>], pin: KeyId) -> Option<Root> {
    let presented = presented.iter().take(CHAIN_CERTIFICATES_MAX);
    presented.filter_map(|certificate| Root::parse(certificate).ok()).find(|root| root.pin() == pin)
}

/// What the leaf says, if it says it for this side.
fn claims(
    leaf: &CertificateDer<'_>,
    domain: &TrustDomain,
    side: Side,
) -> Result<PeerCertificate, CertificateError> {
    let peer = PeerCertificate::parse(leaf, domain).map_err(path::refused)?;
    side.check(peer.usage).map_err(path::refused)?;
    Ok(peer)
}

/// A peer that is somebody, but not whom the client meant to reach.
#[derive(Debug, thiserror::Error)]
#[error("the server is {found}, where {wanted} is expected")]
struct Unexpected {
    found: Identity,
    wanted: String,
}

fn unexpected(found: &Identity, expected: &Expected) -> CertificateError {
    let wanted = match expected {
        Expected::Dialled => "a service".to_owned(),
        Expected::Services { project, names } => {
            let names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
            format!("the service {} of project {project}", names.join(" or "))
        }
    };
    path::told(Unexpected { found: found.clone(), wanted })
}

fn tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}
