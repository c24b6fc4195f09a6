//! Reading a peer's certificate, or refusing it.
//!
//! This says what a certificate claims, and refuses every form that our authority never issues: another number of URI names than one, a
//! name of nobody or of another trust domain, a key that is not on P-256, a missing purpose, an extension twice. That the claim is true, a
//! chain of signatures to a root, is for [`crate::verify`] to check; both must pass, and a TLS connection made with [`crate::tls`] has both.
//!
//! Times are told, not judged: [`Client`] says that one is out of time, and the caller decides what that leaves. They are those of the whole
//! chain that was presented (the latest beginning, the earliest end), so that a leaf does not outlive the intermediate that issued it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, ServerName};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};

use crate::encode::write_hex;
use crate::{Identity, KeyId, PublicKey, TrustDomain};

/// Longest certificate that is read, in bytes. Ours have about 600.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// Most certificates in a chain that is read: leaf, intermediate, and while one root follows another a link and both roots; and one to spare.
pub const CHAIN_CERTIFICATES_MAX: usize = 6;

const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// A certificate's number: at most 20 bytes, unique under its issuer. Written in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The number, big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// On which side of a connection a certificate may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// As a client only: nodes and users.
    Client,
    /// As a server only.
    Server,
    /// Both: services, which call each other.
    Both,
}

impl Usage {
    /// Whether it may be a client's.
    pub fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Both)
    }

    /// Whether it may be a server's.
    pub fn is_server(self) -> bool {
        matches!(self, Self::Server | Self::Both)
    }
}

/// Where a time falls in a certificate's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Before it began. A peer may do no more than if it had expired: one of the two clocks is wrong.
    NotYetValid,
    /// Within.
    Valid,
    /// After its end. A known node may renew, and nothing else.
    Expired,
}

/// What a peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who it is.
    pub identity: Identity,
    /// By which key. A record of the peer names it; another key is another peer, whatever the name.
    pub key_id: KeyId,
    /// The certificate's number.
    pub serial: Serial,
    /// On which side it may stand.
    pub usage: Usage,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid, that second included.
    pub not_after: SystemTime,
}

/// A client that proved its name and its key. Handshakes pass at any time ([`crate::verify`] says why), so what it may do depends on this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// It may do what its identity may do, if its record still has its key.
    Valid(PeerCertificate),
    /// Its certificate has expired, or has not begun. A node whose record has its key may renew; nobody may do anything else.
    OutOfTime(PeerCertificate),
}

impl Client {
    /// The certificate, whatever its time.
    pub fn certificate(&self) -> &PeerCertificate {
        match self {
            Self::Valid(certificate) | Self::OutOfTime(certificate) => certificate,
        }
    }
}

/// Why a certificate is nobody's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// There is none.
    #[error("no certificate")]
    Missing,
    /// It, or its chain, is longer than any of ours.
    #[error(
        "a certificate of more than {CERTIFICATE_BYTES_MAX} bytes, or more than {CHAIN_CERTIFICATES_MAX} of them"
    )]
    TooLong,
    /// It is no X.509 in DER.
    #[error("not an X.509 certificate: {0}")]
    Malformed(&'static str),
    /// It has no URI name, or more than one.
    #[error("a certificate with {0} URI names, where exactly one says who somebody is")]
    NameCount(usize),
    /// It has a name of a kind that we never issue.
    #[error("a certificate with a name that is neither a URI, a DNS name nor an address")]
    NameKind,
    /// Its name is nobody's.
    #[error("a certificate whose name is {0}")]
    Name(#[from] crate::InvalidIdentity),
    /// Its name belongs to another installation.
    #[error("a certificate of the trust domain {found}, where {wanted} is trusted")]
    Domain {
        /// Ours.
        wanted: TrustDomain,
        /// Theirs.
        found: TrustDomain,
    },
    /// Its key is of another kind.
    #[error("a certificate for a key that is not on P-256")]
    Key,
    /// It may issue others.
    #[error("a certificate of an authority, not of a peer")]
    Authority,
    /// It is not for signing, or neither for clients nor for servers.
    #[error("a certificate that says neither that it is a client's nor that it is a server's")]
    Usage,
    /// It stands on the wrong side.
    #[error("a certificate that is not for a {0}")]
    Side(&'static str),
}

impl PeerCertificate {
    /// What `leaf` alone says, if it is of `domain`.
    pub fn parse(leaf: &[u8], domain: &TrustDomain) -> Result<Self, Nobody> {
        let read = Read::of(leaf)?;
        if read.authority {
            return Err(Nobody::Authority);
        }
        let [uri] = read.uris.as_slice() else { return Err(Nobody::NameCount(read.uris.len())) };
        let identity = Identity::parse(uri)?;
        if identity.trust_domain != *domain {
            return Err(Nobody::Domain { wanted: domain.clone(), found: identity.trust_domain });
        }
        if !read.signs_messages {
            return Err(Nobody::Usage);
        }
        let usage = read.usage.ok_or(Nobody::Usage)?;
        Ok(Self {
            identity,
            key_id: read.public_key.id(),
            serial: read.serial,
            usage,
            not_before: read.not_before,
            not_after: read.not_after,
        })
    }

    /// What a chain says as it was presented, leaf first: the leaf's claims, and the times in which every certificate of it is valid.
    ///
    /// That may be more certificates than the path to the root needs; then the times are narrower than they could be, never wider.
    pub fn of_chain(chain: &[CertificateDer<'_>], domain: &TrustDomain) -> Result<Self, Nobody> {
        let (leaf, above) = chain.split_first().ok_or(Nobody::Missing)?;
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Nobody::TooLong);
        }
        let mut peer = Self::parse(leaf, domain)?;
        for certificate in above {
            let read = Read::of(certificate)?;
            // A root is trusted for as long as it is in the bundle, whatever its own certificate says; so a presented one narrows nothing.
            if !read.self_issued {
                peer.not_before = peer.not_before.max(read.not_before);
                peer.not_after = peer.not_after.min(read.not_after);
            }
        }
        Ok(peer)
    }

    /// What a trusted proxy says of a service whose certificate it has checked and does not show: the name alone. Its key is told as nobody's,
    /// so that nothing which is bound to a key counts as proved; and it is valid for the call at `now`, not longer.
    pub fn forwarded(identity: Identity, now: SystemTime) -> Self {
        Self {
            identity,
            key_id: KeyId::from_bytes([0; 32]),
            serial: Serial(Box::default()),
            usage: Usage::Client,
            not_before: now,
            not_after: now,
        }
    }

    /// Whether `leaf` is for a server that is reached by `name`.
    pub fn is_for(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        let leaf = webpki::EndEntityCert::try_from(leaf);
        leaf.is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
    }

    /// Where `now` falls in its life.
    pub fn standing(&self, now: SystemTime) -> Standing {
        if now > self.not_after {
            Standing::Expired
        } else if now < self.not_before {
            Standing::NotYetValid
        } else {
            Standing::Valid
        }
    }

    /// When to renew: two thirds of its life are over. To be held against a server's time, as an agent's own may be wrong.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }
}

/// What any certificate of ours says, an authority's or a peer's.
pub(crate) struct Read {
    pub(crate) public_key: PublicKey,
    pub(crate) serial: Serial,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) uris: Vec<String>,
    /// RFC 4514, for comparing with what we write.
    #[cfg(feature = "authority")]
    pub(crate) subject: String,
    /// May issue certificates.
    pub(crate) authority: bool,
    /// Subject and issuer are the same, as of a root.
    pub(crate) self_issued: bool,
    signs_messages: bool,
    usage: Option<Usage>,
    /// What the issuer signed, and how.
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Read {
    pub(crate) fn of(der: &[u8]) -> Result<Self, Nobody> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(Nobody::TooLong);
        }
        let certificate = Certificate::from_der(der).map_err(|_| Nobody::Malformed("not in DER"))?;
        let tbs = certificate.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(|_| Nobody::Malformed("its public key"))?;
        let not_before = time(tbs.validity().not_before.to_unix_duration())?;
        let not_after = time(tbs.validity().not_after.to_unix_duration())?;
        if not_before > not_after {
            return Err(Nobody::Malformed("it ends before it begins"));
        }
        let mut read = Self {
            public_key: PublicKey::from_spki(&spki).map_err(|_| Nobody::Key)?,
            serial: serial(tbs.serial_number().as_bytes())?,
            not_before,
            not_after,
            uris: Vec::new(),
            #[cfg(feature = "authority")]
            subject: tbs.subject().to_string(),
            authority: false,
            self_issued: tbs.subject() == tbs.issuer(),
            signs_messages: true,
            usage: None,
            signed: tbs.to_der().map_err(|_| Nobody::Malformed("its contents"))?,
            signature: certificate.signature().as_bytes().ok_or(Nobody::Malformed("its signature"))?.to_vec(),
        };
        let extensions = tbs.extensions().map_or(&[][..], Vec::as_slice);
        for (index, extension) in extensions.iter().enumerate() {
            if extensions[..index].iter().any(|earlier| earlier.extn_id == extension.extn_id) {
                return Err(Nobody::Malformed("an extension stands in it twice"));
            }
            read.extension(extension)?;
        }
        Ok(read)
    }

    fn extension(&mut self, extension: &Extension) -> Result<(), Nobody> {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            SUBJECT_ALT_NAME => {
                let names: SubjectAltName = decode(value, "its names")?;
                for name in names.0 {
                    match name {
                        GeneralName::UniformResourceIdentifier(uri) => {
                            self.uris.push(uri.as_str().to_owned());
                        }
                        GeneralName::DnsName(_) | GeneralName::IpAddress(_) => {}
                        _ => return Err(Nobody::NameKind),
                    }
                }
            }
            BASIC_CONSTRAINTS => {
                let constraints: BasicConstraints = decode(value, "its basic constraints")?;
                self.authority = constraints.ca;
            }
            KEY_USAGE => {
                let usage: KeyUsage = decode(value, "its key usage")?;
                self.signs_messages = usage.0.contains(KeyUsages::DigitalSignature);
            }
            EXTENDED_KEY_USAGE => {
                let usage: ExtendedKeyUsage = decode(value, "its purposes")?;
                self.usage = match (usage.0.contains(&CLIENT_AUTH), usage.0.contains(&SERVER_AUTH)) {
                    (true, true) => Some(Usage::Both),
                    (true, false) => Some(Usage::Client),
                    (false, true) => Some(Usage::Server),
                    (false, false) => None,
                };
            }
            _ if extension.critical => return Err(Nobody::Malformed("a critical extension is not known")),
            _ => {}
        }
        Ok(())
    }

    /// Whether `key` signed it.
    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.signed, &self.signature).is_ok()
    }
}

fn decode<'a, T: Decode<'a>>(value: &'a [u8], what: &'static str) -> Result<T, Nobody> {
    T::from_der(value).map_err(|_| Nobody::Malformed(what))
}

fn time(since_epoch: Duration) -> Result<SystemTime, Nobody> {
    UNIX_EPOCH.checked_add(since_epoch).ok_or(Nobody::Malformed("its times"))
}

fn serial(bytes: &[u8]) -> Result<Serial, Nobody> {
    let significant = bytes.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &bytes[first..]);
    if significant.is_empty() || significant.len() > 20 {
        return Err(Nobody::Malformed("its serial number"));
    }
    Ok(Serial(significant.into()))
}
