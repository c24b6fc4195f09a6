//! TLS configurations: version 1.3, HTTP/2, the verifiers of [`crate::verify`], and credentials that can be renewed while they are in use.
//!
//! **Reload.** Both ends take their certificate from [`Credentials`] at each handshake. A renewed one is put there and counts from the next
//! handshake on; connections that are open were proved when they were opened and stay as they are.
//!
//! **No resumption.** A server gives no session tickets and a client keeps none. A resumed session would take its client's identity from the
//! ticket, without a look at its certificate: past the end of a root's trust, past a renewal, past the verifier altogether. That saves one
//! signature and two verifications, some 0.3 ms, on connections that are kept for days. Early data (0-RTT), which could be replayed, needs
//! tickets and so is impossible too.
//!
//! **One provider**, ring's primitives with a choice of ours: what is not listed here is not linked on our account.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, kx_group, sign};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};

use crate::certificate::{CHAIN_CERTIFICATES_MAX, Nobody, Read};
use crate::key::{KeyId, SigningKey};
use crate::random;
use crate::verify::SIGNATURES;

/// The protocol that is spoken within: HTTP/2 (RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";

/// A chain and its key, replaceable at run time. Empty until a machine has enrolled.
pub struct Credentials {
    current: ArcSwapOption<CertifiedKey>,
}

/// Credentials that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The first certificate, or another of the chain, cannot be read.
    #[error("reading a certificate chain: {0}")]
    Chain(#[from] Nobody),
    /// The first certificate is for another key.
    #[error("the certificate is for the key {certificate}, where the key is {key}")]
    OtherKey {
        /// The key in the certificate.
        certificate: KeyId,
        /// The key at hand.
        key: KeyId,
    },
}

impl Credentials {
    /// Nobody yet: a client that presents nothing, a server that cannot be reached.
    pub fn none() -> Arc<Self> {
        Arc::new(Self { current: ArcSwapOption::empty() })
    }

    /// `chain`, leaf first, for `key`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Arc<Self>, CredentialsError> {
        let credentials = Self::none();
        credentials.replace(chain, key)?;
        Ok(credentials)
    }

    /// Whatever `chain` is: what an attacker presents.
    #[cfg(all(test, feature = "authority"))]
    pub(crate) fn unchecked(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Arc<Self> {
        let credentials = Self::none();
        credentials.current.store(Some(Arc::new(CertifiedKey::new(chain, Arc::new(TlsKey(key))))));
        credentials
    }

    /// Presents `chain` from the next handshake on. On an error, what was presented before stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<(), CredentialsError> {
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Nobody::TooLong.into());
        }
        let leaf = Read::of(chain.first().ok_or(Nobody::Missing)?)?;
        let (certificate, ours) = (leaf.public_key.id(), key.public_key().id());
        if certificate != ours {
            return Err(CredentialsError::OtherKey { certificate, key: ours });
        }
        self.current.store(Some(Arc::new(CertifiedKey::new(chain, Arc::new(TlsKey(key))))));
        Ok(())
    }

    /// The chain that is presented now, leaf first; none before enrolment.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().as_ref().map(|current| current.cert.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("present", &self.current.load().is_some()).finish()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        sigschemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| self.current.load_full())?
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

/// A [`SigningKey`] as rustls wants it.
#[derive(Debug, Clone)]
struct TlsKey(Arc<dyn SigningKey>);

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        ours.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public_key().to_spki().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message).map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// A server that presents `credentials` and looks at clients as `clients` does ([`crate::verify::ClientVerifier`]).
pub fn server_config(credentials: Arc<Credentials>, clients: Arc<dyn ClientCertVerifier>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(credentials);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Either of these would do; both, so that no later default of rustls brings tickets back.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// A client that presents `credentials` and looks at servers as `servers` does ([`crate::verify::ServerVerifier`], or
/// [`crate::verify::ServerVerifier::pinned`] where it enrols).
pub fn client_config(credentials: Arc<Credentials>, servers: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(credentials);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Ring,
        key_provider: &Ring,
    })
}

/// What a provider needs beside algorithms.
#[derive(Debug)]
struct Ring;

impl SecureRandom for Ring {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        random::fill(buffer).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for Ring {
    fn load_private_key(
        &self,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn rustls::sign::SigningKey>, Error> {
        sign::any_ecdsa_type(&key)
    }
}
