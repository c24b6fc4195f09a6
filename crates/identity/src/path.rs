//! Checking a chain of signatures, at a time or at any time from a floor on.
//!
//! webpki checks a chain at one time. "Valid together at some time not before the floor" comes down to it: the certificates of a path are
//! all valid from the latest of their beginnings to the earliest of their ends. If that span reaches past the floor at all, it contains the
//! later of its beginning and the floor, and its beginning is the beginning of one of the certificates. So each presented certificate's
//! beginning, or the floor if that is later, are all the times that need to be tried. That finds every path, and a presented certificate that
//! is on none cannot spoil one that is: it adds a time to try and takes none away. The leaf's own beginning comes first, since honest leaves
//! begin last; and only a failure for its time is tried again, so that a stranger's chain costs one look.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{CHAIN_CERTIFICATES_MAX, Nobody, Read, Usage};

/// What our authorities sign with, and so all that is ever verified.
pub(crate) static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[webpki::ring::ECDSA_P256_SHA256];

/// When a chain must be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At this time.
    At(SystemTime),
    /// At some time not before this one.
    AnyTimeFrom(SystemTime),
}

/// Which side the leaf stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    /// Whether a certificate for `usage` may stand here.
    pub(crate) fn check(self, usage: Usage) -> Result<(), Nobody> {
        match self {
            Self::Client if usage.is_client() => Ok(()),
            Self::Server if usage.is_server() => Ok(()),
            Self::Client => Err(Nobody::Side("client")),
            Self::Server => Err(Nobody::Side("server")),
        }
    }

    fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

/// Checks that a path leads from `leaf` through `presented` to one of `anchors`.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    presented: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    side: Side,
    when: When,
) -> Result<(), CertificateError> {
    if presented.len() >= CHAIN_CERTIFICATES_MAX {
        return Err(refused(Nobody::TooLong));
    }
    let end_entity = EndEntityCert::try_from(leaf).map_err(of_webpki)?;
    let mut result = Err(CertificateError::UnknownIssuer);
    for time in times(leaf, presented, when)? {
        let time = UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default());
        result = end_entity
            .verify_for_usage(ALGORITHMS, anchors, presented, time, side.key_usage(), None, None)
            .map(|_| ())
            .map_err(of_webpki);
        // Of several failed paths webpki tells the one that failed for its time before all others.
        if !matches!(
            result,
            Err(CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. })
        ) {
            break;
        }
    }
    result
}

/// The times to try, at most one for each certificate: the leaf's beginning, then the others', none of them before the floor.
fn times(
    leaf: &CertificateDer<'_>,
    presented: &[CertificateDer<'_>],
    when: When,
) -> Result<Vec<SystemTime>, CertificateError> {
    let floor = match when {
        When::At(time) => return Ok(vec![time]),
        When::AnyTimeFrom(floor) => floor,
    };
    let mut times = Vec::with_capacity(CHAIN_CERTIFICATES_MAX);
    for certificate in [leaf].into_iter().chain(presented) {
        let time = Read::of(certificate).map_err(refused)?.not_before.max(floor);
        if !times.contains(&time) {
            times.push(time);
        }
    }
    Ok(times)
}

/// A refusal of ours in rustls's words.
pub(crate) fn refused(nobody: Nobody) -> CertificateError {
    match nobody {
        Nobody::Malformed(_) | Nobody::TooLong => CertificateError::BadEncoding,
        other => told(other),
    }
}

/// An error that rustls does not know. It prints those by their `Debug`, so that says what `Display` does.
pub(crate) fn told<E: Error + Send + Sync + 'static>(error: E) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(Told(error))))
}

#[derive(thiserror::Error)]
#[error(transparent)]
struct Told<E: Error + 'static>(E);

impl<E: Error + 'static> fmt::Debug for Told<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

fn of_webpki(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        other => told(other),
    }
}
