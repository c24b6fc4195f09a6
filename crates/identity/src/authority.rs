//! Issuing certificates: a root that is kept away, an intermediate that issues, and what each may say.
//!
//! | certificate | may issue | says |
//! |---|---|---|
//! | [`Root`] | two levels below it | `spiffe://<domain>` |
//! | link: a new root's key, signed by the old root | one level | the same |
//! | [`Intermediate`] | peers only (path length 0) | nothing |
//! | a peer's | nothing | exactly one identity; for services also DNS names and addresses |
//!
//! Who may do what is written into each certificate (basic constraints, key usage, extended key usage, both key identifiers). Names are not
//! constrained: rustls-webpki rejects every URI name below a constraint on URIs, so such a constraint would shut everybody out; that a name
//! is of the root's trust domain is checked by each reader instead ([`crate::certificate`]), and by the intermediate here.
//!
//! An authority's subject is made from its key (`CN=Skerry root 0123456789abcdef`), so that two of them never have the same name and a path
//! is found at once. A peer's subject is empty: a name in a second place could be mistaken for the one that counts.
//!
//! Serial numbers are 128 random bits. A certificate never reaches beyond its issuer's own life at either end; it is cut, and
//! [`Issued`] says to what. Time is the caller's, and so is how long before now a life begins, for clocks that are behind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, DnsName};

use crate::bundle::{self, BUNDLE_BYTES_MAX, BundleError, certificates_to_pem};
use crate::certificate::{CHAIN_CERTIFICATES_MAX, Nobody, Read, Serial, Usage};
use crate::key::{PublicKey, SigningKey};
use crate::{Identity, KeyId, Principal, RandomError, TrustDomain, random};

/// Most DNS names and addresses in one certificate: they all travel in each handshake.
pub const NAMES_MAX: usize = 32;

/// How many levels of authorities may stand below a root: a link, and an intermediate.
const BELOW_ROOT: u8 = 2;

/// The last second that a certificate can name (RFC 5280, section 4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// From when on a certificate shall be valid, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The first second.
    pub not_before: SystemTime,
    /// How long after it the last one is.
    pub lifetime: Duration,
}

/// A certificate that was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name belongs to another installation.
    #[error("issuing a certificate for {identity}: this authority is of the trust domain {domain}")]
    OtherDomain {
        /// For whom.
        identity: Box<Identity>,
        /// The authority's own.
        domain: TrustDomain,
    },
    /// Nodes and users serve nobody.
    #[error("issuing a certificate for {0}: only services may be servers and have DNS names and addresses")]
    NotAService(Box<Identity>),
    /// It would have more names than are allowed.
    #[error("issuing a certificate with {0} names, where {NAMES_MAX} are allowed")]
    Names(usize),
    /// It would never be valid under its issuer.
    #[error("issuing a certificate: its life lies outside of its issuer's, or of what can be written")]
    Life,
    /// No serial number could be made.
    #[error("issuing a certificate: {0}")]
    Random(#[from] RandomError),
    /// The key would not sign, or it could not be encoded.
    #[error("issuing a certificate: {0}")]
    Encoding(#[from] rcgen::Error),
    /// What was made is not what was meant.
    #[error("issuing a certificate: {0}")]
    Unreadable(#[from] Nobody),
}

/// An authority that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Longer than any of ours.
    #[error(
        "loading an authority: more than {CHAIN_CERTIFICATES_MAX} certificates, or {BUNDLE_BYTES_MAX} bytes"
    )]
    TooLong,
    /// Not certificates in PEM.
    #[error("loading an authority: not certificates in PEM")]
    Pem,
    /// One of the certificates is none of ours.
    #[error("loading an authority: {0}")]
    Certificate(#[from] Nobody),
    /// The root is none.
    #[error("loading an authority: {0}")]
    Root(#[from] BundleError),
    /// The certificate is for another key.
    #[error("loading an authority: its certificate is for the key {certificate}, where its key is {key}")]
    OtherKey {
        /// The key in the certificate.
        certificate: KeyId,
        /// The key at hand.
        key: KeyId,
    },
    /// The certificate was not made here.
    #[error("loading an authority: {0}")]
    Foreign(&'static str),
}

/// A key and the certificate by which it issues.
#[derive(Debug)]
struct Authority {
    key: Arc<dyn SigningKey>,
    kind: Kind,
    domain: TrustDomain,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// What an authority is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Root,
    Intermediate,
}

impl Kind {
    fn subject(self, key: &PublicKey) -> String {
        let kind = match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        };
        let id = key.id().to_string();
        format!("Skerry {kind} {}", &id[..16])
    }
}

/// The root: what everybody trusts. It signs intermediates, and links to the root that follows it.
#[derive(Debug)]
pub struct Root {
    authority: Authority,
    root: bundle::Root,
}

impl Root {
    /// A new root of `domain` with `key`.
    pub fn create(domain: &TrustDomain, key: Arc<dyn SigningKey>, life: Life) -> Result<Self, IssueError> {
        let (not_before, not_after) = span(life, None)?;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Root, key.public_key(), BELOW_ROOT);
        params.subject_alt_names = vec![SanType::URI(ia5(&domain.uri())?)];
        let certificate = CertificateDer::from(params.self_signed(&Signs(&*key))?);
        let root = bundle::Root::parse(&certificate).map_err(|error| match error {
            BundleError::Root(nobody) => IssueError::Unreadable(nobody),
            _ => IssueError::Unreadable(Nobody::Malformed("it is not the root that was meant")),
        })?;
        let authority = Authority { key, kind: Kind::Root, domain: domain.clone(), not_before, not_after };
        Ok(Self { authority, root })
    }

    /// The root whose certificate is `pem`, with its key.
    pub fn load(pem: &[u8], key: Arc<dyn SigningKey>) -> Result<Self, LoadError> {
        let certificates = read_pem(pem)?;
        let [certificate] = certificates.as_slice() else {
            return Err(LoadError::Foreign("a root is one certificate"));
        };
        let root = bundle::Root::parse(certificate)?;
        let authority = Authority::load(certificate, Kind::Root, root.domain(), key)?;
        Ok(Self { authority, root })
    }

    /// Its certificate as PEM. The key is the caller's to keep.
    pub fn to_pem(&self) -> String {
        certificates_to_pem([self.root.certificate()])
    }

    /// What a trust bundle holds of it.
    pub fn trusted(&self) -> &bundle::Root {
        &self.root
    }

    /// Its pin.
    pub fn pin(&self) -> KeyId {
        self.root.pin()
    }

    /// An intermediate with `key`, under this root.
    pub fn intermediate(&self, key: Arc<dyn SigningKey>, life: Life) -> Result<Intermediate, IssueError> {
        let (not_before, not_after) = span(life, Some(&self.authority))?;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Intermediate, key.public_key(), 0);
        let certificate = self.authority.sign(&params, key.public_key())?;
        let domain = self.authority.domain.clone();
        let authority = Authority { key, kind: Kind::Intermediate, domain, not_before, not_after };
        Ok(Intermediate { authority, certificate, above: vec![self.root.certificate().clone()] })
    }

    /// A link to `next`, the root that follows: its key, signed by this one. Who knows only this root can check what `next` issued.
    pub fn link(&self, next: &bundle::Root, life: Life) -> Result<CertificateDer<'static>, IssueError> {
        let (not_before, not_after) = span(life, Some(&self.authority))?;
        let public_key = Read::of(next.certificate())?.public_key;
        let mut params = params(not_before, not_after)?;
        authority_params(&mut params, Kind::Root, &public_key, BELOW_ROOT - 1);
        params.subject_alt_names = vec![SanType::URI(ia5(&next.domain().uri())?)];
        self.authority.sign(&params, &public_key)
    }
}

/// The authority that issues to peers. Its own chain ends with its root, so that servers can present that to machines that enrol.
#[derive(Debug)]
pub struct Intermediate {
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
        certificates_to_pem(&self.chain)
    }
}

impl Intermediate {
    /// The intermediate whose chain is `pem` (as [`Intermediate::to_pem`] wrote it), with its key.
    pub fn load(pem: &[u8], key: Arc<dyn SigningKey>) -> Result<Self, LoadError> {
        let mut certificates = read_pem(pem)?.into_iter();
        let certificate = certificates.next().ok_or(LoadError::Pem)?;
        let above: Vec<_> = certificates.collect();
        let root = above.last().ok_or(LoadError::Foreign("its root is missing from its chain"))?;
        let domain = bundle::Root::parse(root)?.domain().clone();
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
        certificates_to_pem([&self.certificate].into_iter().chain(&self.above))
    }

    /// The same intermediate with `link` in its servers' chains, and `old`, the root that made the link: for as long as there are peers that
    /// know only `old`.
    pub fn with_link(mut self, link: CertificateDer<'static>, old: &bundle::Root) -> Result<Self, LoadError> {
        self.above.insert(0, link);
        // The own root stays last: it says which domain this is.
        self.above.insert(1, old.certificate().clone());
        if self.above.len() + 2 > CHAIN_CERTIFICATES_MAX {
            return Err(LoadError::TooLong);
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

impl Authority {
    fn load(
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

    fn sign(
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

/// The two ends of a life, cut to the issuer's.
fn span(life: Life, issuer: Option<&Authority>) -> Result<(SystemTime, SystemTime), IssueError> {
    let mut not_before = whole_seconds(life.not_before)?;
    let mut not_after = whole_seconds(life.not_before.checked_add(life.lifetime).ok_or(IssueError::Life)?)?;
    if let Some(issuer) = issuer {
        not_before = not_before.max(issuer.not_before);
        not_after = not_after.min(issuer.not_after);
    }
    if not_before < not_after { Ok((not_before, not_after)) } else { Err(IssueError::Life) }
}

fn whole_seconds(time: SystemTime) -> Result<SystemTime, IssueError> {
    Ok(UNIX_EPOCH + Duration::from_secs(seconds(time)?))
}

/// Seconds since 1970 that a certificate can name.
fn seconds(time: SystemTime) -> Result<u64, IssueError> {
    let seconds = time.duration_since(UNIX_EPOCH).map_err(|_| IssueError::Life)?.as_secs();
    if seconds <= LAST_SECOND { Ok(seconds) } else { Err(IssueError::Life) }
}

/// What all certificates have in common: a random number, a life, no subject.
fn params(not_before: SystemTime, not_after: SystemTime) -> Result<CertificateParams, IssueError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(seconds(not_before)?);
    params.not_after = epoch + Duration::from_secs(seconds(not_after)?);
    params.serial_number = Some(SerialNumber::from_slice(&*random::bytes::<16>()?));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_params(params: &mut CertificateParams, kind: Kind, key: &PublicKey, below: u8) {
    params.distinguished_name = subject(kind, key);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

fn subject(kind: Kind, key: &PublicKey) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, kind.subject(key));
    name
}

fn ia5(text: &str) -> Result<Ia5String, IssueError> {
    Ok(Ia5String::try_from(text)?)
}

fn read_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    if pem.len() > BUNDLE_BYTES_MAX {
        return Err(LoadError::TooLong);
    }
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == CHAIN_CERTIFICATES_MAX {
            return Err(LoadError::TooLong);
        }
        certificates.push(certificate.map_err(|_| LoadError::Pem)?);
    }
    Ok(certificates)
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
