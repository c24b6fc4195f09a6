//! What is written into certificates: lives, numbers, subjects, the rights of authorities.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, SerialNumber};

use super::keys::{Authority, Kind};
use super::{IssueError, Life};
use crate::key::PublicKey;
use crate::random;

/// The last second that a certificate can name (RFC 5280, section 4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// The two ends of a life, cut to the issuer's.
pub(super) fn span(life: Life, issuer: Option<&Authority>) -> Result<(SystemTime, SystemTime), IssueError> {
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
pub(super) fn params(not_before: SystemTime, not_after: SystemTime) -> Result<CertificateParams, IssueError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(seconds(not_before)?);
    params.not_after = epoch + Duration::from_secs(seconds(not_after)?);
    params.serial_number = Some(SerialNumber::from_slice(&*random::bytes::<16>()?));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(super) fn authority_params(params: &mut CertificateParams, kind: Kind, key: &PublicKey, below: u8) {
    params.distinguished_name = subject(kind, key);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

pub(super) fn subject(kind: Kind, key: &PublicKey) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, kind.subject(key));
    name
}

pub(super) fn ia5(text: &str) -> Result<Ia5String, IssueError> {
    Ok(Ia5String::try_from(text)?)
}
