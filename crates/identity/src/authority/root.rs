//! The root: the key that is kept away, and signs only intermediates and the link to its successor.

use std::sync::Arc;

use rcgen::SanType;
use rustls_pki_types::CertificateDer;

use super::intermediate::IntermediateAuthority;
use super::keys::{Authority, Kind, Signs};
use super::params::{authority_params, ia5, params, span};
use super::{IssueError, Life, LoadError};
use crate::bundle::{BundleError, Root};
use crate::certificate::{Nobody, Read};
use crate::chain::{chain_from_pem, chain_to_pem};
use crate::key::SigningKey;
use crate::{KeyId, TrustDomain};

/// How many levels of authorities may stand below a root: a link, and an intermediate.
const BELOW_ROOT: u8 = 2;

/// The root: what everybody trusts. It signs intermediates, and links to the root that follows it.
#[derive(Debug)]
pub struct RootAuthority {
    authority: Authority,
    root: Root,
}

impl RootAuthority {
    /// A new root of `domain` with `key`.
    pub fn create(domain: &TrustDomain, key: Arc<dyn SigningKey>, life: Life) -> Result<Self, IssueError> {
        let (not_before, not_after) = span(life, None)?;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Root, key.public_key(), BELOW_ROOT);
        params.subject_alt_names = vec![SanType::URI(ia5(&domain.uri())?)];
        let certificate = CertificateDer::from(params.self_signed(&Signs(&*key))?);
        let root = Root::parse(&certificate).map_err(|error| match error {
            BundleError::Root(nobody) => IssueError::Unreadable(nobody),
            _ => IssueError::Unreadable(Nobody::Malformed("it is not the root that was meant")),
        })?;
        let authority = Authority { key, kind: Kind::Root, domain: domain.clone(), not_before, not_after };
        Ok(Self { authority, root })
    }

    /// The root whose certificate is `pem`, with its key.
    pub fn load(pem: &[u8], key: Arc<dyn SigningKey>) -> Result<Self, LoadError> {
        let certificates = chain_from_pem(pem)?;
        let [certificate] = certificates.as_slice() else {
            return Err(LoadError::Foreign("a root is one certificate"));
        };
        let root = Root::parse(certificate)?;
        let authority = Authority::load(certificate, Kind::Root, root.domain(), key)?;
        Ok(Self { authority, root })
    }

    /// Its certificate as PEM. The key is the caller's to keep.
    pub fn to_pem(&self) -> String {
        chain_to_pem([self.root.certificate()])
    }

    /// What a trust bundle holds of it.
    pub fn trusted(&self) -> &Root {
        &self.root
    }

    /// Its pin.
    pub fn pin(&self) -> KeyId {
        self.root.pin()
    }

    /// An intermediate with `key`, under this root.
    pub fn intermediate(
        &self,
        key: Arc<dyn SigningKey>,
        life: Life,
    ) -> Result<IntermediateAuthority, IssueError> {
        let (not_before, not_after) = span(life, Some(&self.authority))?;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Intermediate, key.public_key(), 0);
        let certificate = self.authority.sign(&params, key.public_key())?;
        let domain = self.authority.domain.clone();
        let authority = Authority { key, kind: Kind::Intermediate, domain, not_before, not_after };
        let above = vec![self.root.certificate().clone()];
        Ok(IntermediateAuthority::new(authority, certificate, above))
    }

    /// A link to `next`, the root that follows: its key, signed by this one. Who knows only this root can check what `next` issued.
    pub fn link(&self, next: &Root, life: Life) -> Result<CertificateDer<'static>, IssueError> {
        if next.domain() != self.root.domain() {
            let (own, next) = (self.root.domain().clone(), next.domain().clone());
            return Err(IssueError::LinkDomain { own, next });
        }
        let (not_before, not_after) = span(life, Some(&self.authority))?;
        let public_key = Read::of(next.certificate())?.public_key;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Root, &public_key, BELOW_ROOT - 1);
        params.subject_alt_names = vec![SanType::URI(ia5(&next.domain().uri())?)];
        self.authority.sign(&params, &public_key)
    }
}
