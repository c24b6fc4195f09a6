//! The intermediate: the authority that issues to peers, day by day.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, DnsName};

use super::keys::{Authority, Kind};
use super::params::{ia5, params, span};
use super::{IssueError, Life, LoadError};
use crate::bundle::Root;
use crate::certificate::{CHAIN_CERTIFICATES_MAX, Read, Serial, Usage};
use crate::chain::{InvalidChain, chain_from_pem, chain_to_pem};
use crate::key::{PublicKey, SigningKey};
use crate::{Identity, Principal, TrustDomain};

/// Most DNS names and addresses in one certificate: they all travel in each handshake.
pub const NAMES_MAX: usize = 32;

/// The authority that issues to peers. Its own chain ends with its root, so that servers can present that to machines that enrol.
#[derive(Debug)]
pub struct IntermediateAuthority {
    authority: Authority,
    certificate: CertificateDer<'static>,
    /// Links, if any, and then roots.
    above: Vec<CertificateDer<'static>>,
}

/// What a certificate shall say.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// For which key.
    pub public_key: &'a PublicKey,
    /// For whom.
    pub identity: &'a Identity,
    /// On which side of a connection.
    pub usage: Usage,
    /// DNS names that a service is reached by.
    pub dns_names: &'a [DnsName<'a>],
    /// Addresses that a service is reached by.
    pub addresses: &'a [IpAddr],
    /// When.
    pub life: Life,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Leaf first. A client's ends with the intermediate, a server's with the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's number.
    pub serial: Serial,
    /// From when on it is valid: not before its issuer.
    pub not_before: SystemTime,
    /// Until when: not after its issuer.
    pub not_after: SystemTime,
}

impl Issued {
    /// The chain as PEM.
    pub fn to_pem(&self) -> String {
        chain_to_pem(&self.chain)
    }
}

impl IntermediateAuthority {
    pub(super) fn new(
        authority: Authority,
        certificate: CertificateDer<'static>,
        above: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { authority, certificate, above }
    }

    /// The intermediate whose chain is `pem` (as [`IntermediateAuthority::to_pem`] wrote it), with its key.
    pub fn load(pem: &[u8], key: Arc<dyn SigningKey>) -> Result<Self, LoadError> {
        let mut certificates = chain_from_pem(pem)?.into_iter();
        let certificate = certificates.next().expect("a chain has a certificate");
        let above: Vec<_> = certificates.collect();
        let root = above.last().ok_or(LoadError::Foreign("its root is missing from its chain"))?;
        let domain = Root::parse(root)?.domain().clone();
        let signed = Read::of(&certificate)?;
        let mut issuers = Vec::new();
        for issuer in &above {
            issuers.push(Read::of(issuer)?);
        }
        if !issuers.iter().any(|issuer| signed.is_signed_by(&issuer.public_key)) {
            return Err(LoadError::Foreign("it is signed by none of the certificates above it"));
        }
        let authority = Authority::load(&certificate, Kind::Intermediate, &domain, key)?;
        Ok(Self { authority, certificate, above })
    }

    /// Its chain as PEM: itself, links, roots. The key is the caller's to keep.
    pub fn to_pem(&self) -> String {
        chain_to_pem([&self.certificate].into_iter().chain(&self.above))
    }

    /// The same intermediate with `link` in its servers' chains, and `old`, the root that made the link: for as long as there are peers that
    /// know only `old`.
    pub fn with_link(mut self, link: CertificateDer<'static>, old: &Root) -> Result<Self, LoadError> {
        let read = Read::of(&link)?;
        let own = Read::of(self.above.last().expect("an intermediate has its root"))?;
        if read.public_key != own.public_key {
            return Err(LoadError::Foreign("the link is to another root than its own"));
        }
        if !read.is_signed_by(&Read::of(old.certificate())?.public_key) {
            return Err(LoadError::Foreign("the link is not signed by the root that comes with it"));
        }
        self.above.insert(0, link);
        // The own root stays last: it says which domain this is.
        self.above.insert(1, old.certificate().clone());
        if self.above.len() + 2 > CHAIN_CERTIFICATES_MAX {
            return Err(InvalidChain::TooLong { most: CHAIN_CERTIFICATES_MAX }.into());
        }
        Ok(self)
    }

    /// A certificate that this authority would never issue: what it would, after `edit`.
    #[cfg(test)]
    pub(crate) fn forge(
        &self,
        order: &Order<'_>,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let end = order.life.not_before + order.life.lifetime;
        let mut params = leaf_params(order, order.life.not_before, end).unwrap();
        edit(&mut params);
        self.authority.sign(&params, order.public_key).unwrap()
    }

    /// For which installation it issues.
    pub fn domain(&self) -> &TrustDomain {
        &self.authority.domain
    }

    /// The beginning of its own life.
    pub fn not_before(&self) -> SystemTime {
        self.authority.not_before
    }

    /// The end of its own life: no certificate from it is valid longer.
    pub fn not_after(&self) -> SystemTime {
        self.authority.not_after
    }

    /// Issues a certificate.
    pub fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        let names = order.dns_names.len() + order.addresses.len();
        if order.identity.trust_domain != self.authority.domain {
            let identity = Box::new(order.identity.clone());
            return Err(IssueError::OtherDomain { identity, domain: self.authority.domain.clone() });
        }
        let is_service = matches!(order.identity.principal, Principal::Service(_));
        if !is_service && (order.usage.is_server() || names > 0) {
            return Err(IssueError::NotAService(Box::new(order.identity.clone())));
        }
        if names > NAMES_MAX {
            return Err(IssueError::Names(names));
        }
        let (not_before, not_after) = span(order.life, Some(&self.authority))?;
        let params = leaf_params(order, not_before, not_after)?;
        let leaf = self.authority.sign(&params, order.public_key)?;
        let serial = Read::of(&leaf)?.serial;
        let mut chain = vec![leaf, self.certificate.clone()];
        if order.usage.is_server() {
            chain.extend(self.above.iter().cloned());
        }
        Ok(Issued { chain, serial, not_before, not_after })
    }
}

/// What a peer's certificate says.
fn leaf_params(
    order: &Order<'_>,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, IssueError> {
    let mut params = params(not_before, not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if order.usage.is_client() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if order.usage.is_server() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.subject_alt_names.push(SanType::URI(ia5(&order.identity.to_string())?));
    for name in order.dns_names {
        params.subject_alt_names.push(SanType::DnsName(ia5(name.as_ref())?));
    }
    params.subject_alt_names.extend(order.addresses.iter().copied().map(SanType::IpAddress));
    Ok(params)
}
