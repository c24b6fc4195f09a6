//! The roots that are trusted: one, or while one follows another, several.
//!
//! A root says which trust domain it stands for: it carries `spiffe://<domain>` as its name. So a bundle is the whole of what a peer must
//! know, and the pin of one root, its key's fingerprint, is enough to recognise it. A root is trusted for as long as it is in the bundle;
//! what its own certificate says of times is for other programs.
//!
//! Rolling over: add the new root to everybody's bundle; issue under it, with a link (the new root's key signed by the old one) in the
//! servers' chains for those who were away; when nobody is left on the old one, remove it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::certificate::{Client, Nobody, PeerCertificate, Read, Standing};
use crate::chain::{self, InvalidChain, chain_to_pem};
use crate::key::sha256;
use crate::{KeyId, TrustDomain};

/// Most roots in a bundle.
pub const ROOTS_MAX: usize = 8;

/// A root certificate: self-signed, of an authority, for one trust domain.
#[derive(Clone)]
pub struct Root {
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    pin: KeyId,
    domain: TrustDomain,
    not_before: SystemTime,
}

/// Several roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// A bundle that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not certificates in PEM, or too many.
    #[error("reading a trust bundle: {0}")]
    Pem(#[from] InvalidChain),
    /// More than are kept.
    #[error("a trust bundle with more than {ROOTS_MAX} roots")]
    TooMany,
    /// Nothing is trusted.
    #[error("a trust bundle without a root")]
    Empty,
    /// One root is no certificate of ours.
    #[error("reading a root: {0}")]
    Root(#[from] Nobody),
    /// One root is no root.
    #[error("not a root: {0}")]
    NotARoot(&'static str),
    /// Two roots stand for different installations.
    #[error("a trust bundle with roots of {0} and of {1}")]
    Domains(TrustDomain, TrustDomain),
    /// One root stands in it twice.
    #[error("a trust bundle with the root {0} twice")]
    Twice(KeyId),
}

impl Root {
    /// Reads a root certificate in DER, and checks that it signed itself.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, BundleError> {
        let read = Read::of(certificate)?;
        if !read.authority {
            return Err(BundleError::NotARoot("it may not issue certificates"));
        }
        if !read.self_issued || !read.is_signed_by(&read.public_key) {
            return Err(BundleError::NotARoot("it is not signed by itself"));
        }
        let [uri] = read.uris.as_slice() else {
            return Err(BundleError::NotARoot("it names no trust domain, or several"));
        };
        let domain = TrustDomain::parse_uri(uri)
            .map_err(|_| BundleError::NotARoot("its name is not spiffe://<trust domain>"))?;
        let anchor = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|_| BundleError::NotARoot("nothing can be checked against it"))?
            .to_owned();
        let (pin, not_before) = (read.public_key.id(), read.not_before);
        Ok(Self { certificate: certificate.clone().into_owned(), anchor, pin, domain, not_before })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its key's fingerprint: what an enrolment token holds.
    pub fn pin(&self) -> KeyId {
        self.pin
    }

    /// For which installation it stands.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// When its life began: which of several is the newest.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }
}

impl Eq for Root {}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("domain", &self.domain).field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl TrustBundle {
    /// A bundle of 1 to [`ROOTS_MAX`] roots of one trust domain.
    pub fn new(roots: Vec<Root>) -> Result<Self, BundleError> {
        let first = roots.first().ok_or(BundleError::Empty)?;
        if roots.len() > ROOTS_MAX {
            return Err(BundleError::TooMany);
        }
        for (index, root) in roots.iter().enumerate() {
            if root.domain != first.domain {
                return Err(BundleError::Domains(first.domain.clone(), root.domain.clone()));
            }
            if roots[..index].iter().any(|earlier| earlier.pin == root.pin) {
                return Err(BundleError::Twice(root.pin));
            }
        }
        let anchors = roots.iter().map(|root| root.anchor.clone()).collect();
        Ok(Self { roots, anchors })
    }

    /// Reads certificates in DER.
    pub fn from_der<D: AsRef<[u8]>>(certificates: &[D]) -> Result<Self, BundleError> {
        if certificates.len() > ROOTS_MAX {
            return Err(BundleError::TooMany);
        }
        let roots = certificates.iter().map(|der| Root::parse(&CertificateDer::from(der.as_ref())));
        Self::new(roots.collect::<Result<_, _>>()?)
    }

    /// Tells one bundle from another, in whatever order its roots stand: the SHA-256 over their DER in ascending order of these bytes, each
    /// after its length (4 bytes, big-endian).
    pub fn digest(&self) -> [u8; 32] {
        let mut roots: Vec<&[u8]> = self.roots.iter().map(|root| root.certificate.as_ref()).collect();
        roots.sort_unstable();
        let length = |root: &[u8]| u32::try_from(root.len()).expect("a certificate is short").to_be_bytes();
        let lengths: Vec<[u8; 4]> = roots.iter().map(|root| length(root)).collect();
        let parts = lengths.iter().zip(&roots).flat_map(|(length, root)| [length.as_slice(), root]);
        sha256(&parts.collect::<Vec<_>>())
    }

    /// Reads certificates in PEM, one after the other.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let certificates = chain::at_most(ROOTS_MAX, pem)?;
        let roots = certificates.iter().map(Root::parse).collect::<Result<_, _>>()?;
        Self::new(roots)
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        chain_to_pem(self.roots.iter().map(Root::certificate))
    }

    /// The installation whose peers are trusted.
    pub fn domain(&self) -> &TrustDomain {
        &self.roots[0].domain
    }

    /// The roots, oldest first.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root with this pin.
    pub fn root(&self, pin: KeyId) -> Option<&Root> {
        self.roots.iter().find(|root| root.pin == pin)
    }

    /// The bundle with `root` too.
    pub fn with(&self, root: Root) -> Result<Self, BundleError> {
        Self::new(self.roots.iter().cloned().chain([root]).collect())
    }

    /// The bundle without the root that has this pin; the last one stays.
    pub fn without(&self, pin: KeyId) -> Result<Self, BundleError> {
        Self::new(self.roots.iter().filter(|root| root.pin != pin).cloned().collect())
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// The bundle that is trusted now, replaceable at run time: handshakes that begin afterwards are held against the new one.
#[derive(Debug)]
pub struct Trust {
    bundle: ArcSwap<TrustBundle>,
}

impl Trust {
    /// Trust in `bundle`.
    pub fn new(bundle: TrustBundle) -> Arc<Self> {
        Arc::new(Self { bundle: ArcSwap::from_pointee(bundle) })
    }

    /// What is trusted now.
    pub fn current(&self) -> Arc<TrustBundle> {
        self.bundle.load_full()
    }

    /// Trusts `bundle` from now on. Connections that are open stay open: closing them is for who opened them.
    pub fn replace(&self, bundle: TrustBundle) {
        self.bundle.store(Arc::new(bundle));
    }

    /// Who a server's client is, now, by the chain of a handshake that [`crate::verify::ClientVerifier`] let through.
    pub fn client(&self, presented: &[CertificateDer<'_>], now: SystemTime) -> Result<Client, Nobody> {
        let peer = PeerCertificate::of_chain(presented, self.current().domain())?;
        Ok(match peer.standing(now) {
            Standing::Valid => Client::Valid(peer),
            Standing::NotYetValid | Standing::Expired => Client::OutOfTime(peer),
        })
    }

    /// Who a client's server is, by the chain of a handshake that [`crate::verify::ServerVerifier`] let through.
    pub fn server(&self, presented: &[CertificateDer<'_>]) -> Result<PeerCertificate, Nobody> {
        PeerCertificate::of_chain(presented, self.current().domain())
    }
}
