//! A key with the certificate by which it issues, and keys of ours as rcgen wants them.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, Issuer, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::CertificateDer;

use super::params::subject;
use super::{IssueError, LoadError};
use crate::TrustDomain;
use crate::certificate::Read;
use crate::key::{PublicKey, SigningKey};

/// A key and the certificate by which it issues.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) key: Arc<dyn SigningKey>,
    pub(super) kind: Kind,
    pub(super) domain: TrustDomain,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// What an authority is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Root,
    Intermediate,
}

impl Kind {
    pub(super) fn subject(self, key: &PublicKey) -> String {
        let kind = match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        };
        let id = key.id().to_string();
        format!("Skerry {kind} {}", &id[..16])
    }
}

impl Authority {
    pub(super) fn load(
        certificate: &CertificateDer<'_>,
        kind: Kind,
        domain: &TrustDomain,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, LoadError> {
        let read = Read::of(certificate)?;
        let (in_certificate, ours) = (read.public_key.id(), key.public_key().id());
        if in_certificate != ours {
            return Err(LoadError::OtherKey { certificate: in_certificate, key: ours });
        }
        if !read.authority {
            return Err(LoadError::Foreign("its certificate may not issue others"));
        }
        // What it issues names it as issuer by the subject that is made anew from its key.
        if read.subject != format!("CN={}", kind.subject(key.public_key())) {
            return Err(LoadError::Foreign("its subject is not one that is written here"));
        }
        let (not_before, not_after) = (read.not_before, read.not_after);
        Ok(Self { key, kind, domain: domain.clone(), not_before, not_after })
    }

    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        public_key: &PublicKey,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut own = CertificateParams::default();
        own.distinguished_name = subject(self.kind, self.key.public_key());
        let issuer = Issuer::new(own, Signs(&*self.key));
        Ok(params.signed_by(&Holds(public_key), &issuer)?.into())
    }
}

/// A key of ours as rcgen wants it: one that signs.
pub(crate) struct Signs<'a>(pub(crate) &'a dyn SigningKey);

impl PublicKeyData for Signs<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Signs<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A key of ours as rcgen wants it: one that is signed.
struct Holds<'a>(&'a PublicKey);

impl PublicKeyData for Holds<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
