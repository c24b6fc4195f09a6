//! Several certificates as one text: PEM, one after the other. What they are to each other is for who reads them.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::certificate::CHAIN_CERTIFICATES_MAX;
use crate::encode::to_pem;

/// Longest text that is read, in bytes.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// PEM label (RFC 7468, section 5).
const LABEL: &str = "CERTIFICATE";

/// A text that is no chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChain {
    /// More than any of ours.
    #[error("more than {most} certificates, or more than {CHAIN_BYTES_MAX} bytes of them")]
    TooLong {
        /// How many are read.
        most: usize,
    },
    /// Not PEM.
    #[error("not certificates in PEM")]
    Pem,
    /// None.
    #[error("no certificate in PEM")]
    Empty,
}

/// Certificates as PEM.
pub fn chain_to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates.into_iter().map(|certificate| to_pem(LABEL, certificate).to_string()).collect()
}

/// Reads a chain: 1 to [`CHAIN_CERTIFICATES_MAX`] certificates in PEM. Other documents between them are nothing.
pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidChain> {
    at_most(CHAIN_CERTIFICATES_MAX, pem)
}

/// Reads 1 to `most` certificates.
pub(crate) fn at_most(most: usize, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidChain> {
    if pem.len() > CHAIN_BYTES_MAX {
        return Err(InvalidChain::TooLong { most });
    }
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == most {
            return Err(InvalidChain::TooLong { most });
        }
        certificates.push(certificate.map_err(|_| InvalidChain::Pem)?);
    }
    if certificates.is_empty() { Err(InvalidChain::Empty) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_has_a_certificate_and_not_too_many() {
        let one = chain_to_pem([&CertificateDer::from(vec![1, 2, 3])]);
        assert_eq!(chain_from_pem(one.as_bytes()).unwrap(), [CertificateDer::from(vec![1, 2, 3])]);
        assert_eq!(chain_from_pem(b"hello"), Err(InvalidChain::Empty));
        let most = CHAIN_CERTIFICATES_MAX;
        assert_eq!(chain_from_pem(one.repeat(most).as_bytes()).unwrap().len(), most);
        assert_eq!(chain_from_pem(one.repeat(most + 1).as_bytes()), Err(InvalidChain::TooLong { most }));
        let long = vec![b'-'; CHAIN_BYTES_MAX + 1];
        assert_eq!(chain_from_pem(&long), Err(InvalidChain::TooLong { most }));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in any::<String>(), body in any::<String>()) {
            let _ = chain_from_pem(text.as_bytes());
            let framed = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
            let _ = chain_from_pem(framed.as_bytes());
        }
    }
}
