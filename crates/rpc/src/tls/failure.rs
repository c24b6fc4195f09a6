//! Why a client's TLS handshake failed, as a sentence that says what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// Why a server was reached, and is not talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// What answers speaks something else.
    #[error("it does not speak TLS: write http://, if the network is trusted")]
    NotTls,
    /// What answers said nothing that could be understood, or was too busy.
    #[error("it hung up during the TLS handshake: it may not speak TLS, or have too much to do")]
    HungUp,
    /// Its certificate leads to no root that is trusted.
    #[error(
        "its certificate is of an authority that is not trusted here: neither in the file of --tls-ca, nor named by a token or by --ca-pin"
    )]
    Authority,
    /// Its certificate is for other names.
    #[error("its certificate is not for the name or address by which it was reached: use one that is in it")]
    Name,
    /// Its certificate has ended, by the clock here.
    #[error("its certificate has expired: renew it, or set the clock of this machine")]
    Expired,
    /// Its certificate begins later, by the clock here.
    #[error("its certificate is not valid yet: set the clock of this machine")]
    NotYetValid,
    /// Its certificate is none of a service's, or of another service.
    #[error("its certificate is refused: {0}")]
    Unexpected(String),
    /// It talks to nobody who has no certificate.
    #[error("it talks only to who has a certificate: give one with --tls-cert and --tls-key")]
    NoCertificate,
    /// It does not know the authority of ours.
    #[error("it does not know the authority of our certificate: use one that its own --tls-ca names")]
    OurAuthority,
    /// It refuses ours for another reason, which only its log tells.
    #[error("it refuses our certificate ({0}): its log says more at debug level")]
    OurCertificate(String),
    /// Anything else.
    #[error("the TLS handshake failed: {0}")]
    Other(String),
}

impl TlsFailure {
    /// What `error` means, if TLS is what failed.
    pub(super) fn of(error: io::Error) -> Result<Self, io::Error> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(tls) => Ok(Self::of_tls(tls)),
            None => Err(error),
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::InvalidCertificate(why) => Self::of_certificate(why),
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Authority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            CertificateError::Other(other) => Self::Unexpected(other.0.to_string()),
            other => Self::Unexpected(other.to_string()),
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired => Self::NoCertificate,
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Self::OurAuthority,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Self::OurCertificate(format!("{alert:?}")),
            other => Self::Other(format!("it says {other:?}")),
        }
    }
}
