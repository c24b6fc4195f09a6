//! Asking for a certificate: PKCS#10 (RFC 2986), of which only the public key counts.
//!
//! A request proves that who asks holds the key: it is signed with it. Everything else that it asks for, a subject, names, a life, the right
//! to issue, is not even looked at: what a certificate says is decided by whoever issues it.

use rustls_pki_types::CertificateSigningRequestDer;
use x509_cert::attr::Attributes;
use x509_cert::der::asn1::{BitString, ObjectIdentifier};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::encode::{from_pem, to_pem};
use crate::key::{PemError, PublicKey, SignError, SigningKey};

/// Longest request that is read, in bytes, in PEM or in DER. Ours have about 200.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// PEM label (RFC 7468, section 7).
const LABEL: &str = "CERTIFICATE REQUEST";

/// A request whose sender holds the private half of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    public_key: PublicKey,
}

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is longer than any honest one.
    #[error("the certificate request has {0} bytes, more than the {REQUEST_BYTES_MAX} that are read")]
    TooLong(usize),
    /// It is in a bad PEM.
    #[error("reading a certificate request: {0}")]
    Pem(#[from] PemError),
    /// It is no PKCS#10 in DER.
    #[error("not a certificate request (PKCS#10)")]
    Malformed,
    /// Its key is of another kind.
    #[error("the certificate request is not for a key on P-256")]
    Key,
    /// It is signed in another way.
    #[error("the certificate request is not signed by ECDSA with SHA-256")]
    Algorithm,
    /// It is not signed with the key that it names.
    #[error("the certificate request is not signed with its own key")]
    Signature,
}

impl Request {
    /// Reads a request in DER or PEM of at most [`REQUEST_BYTES_MAX`] bytes, and checks its signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong(bytes.len()));
        }
        if bytes.starts_with(b"-----BEGIN") {
            Self::parse_der(&from_pem(LABEL, bytes)?)
        } else {
            Self::parse_der(bytes)
        }
    }

    fn parse_der(der: &[u8]) -> Result<Self, RequestError> {
        let request = CertReq::from_der(der).map_err(|_| RequestError::Malformed)?;
        if request.algorithm.oid != ECDSA_WITH_SHA256 || request.algorithm.parameters.is_some() {
            return Err(RequestError::Algorithm);
        }
        let spki = request.info.public_key.to_der().map_err(|_| RequestError::Malformed)?;
        let public_key = PublicKey::from_spki(&spki).map_err(|_| RequestError::Key)?;
        let signed = request.info.to_der().map_err(|_| RequestError::Malformed)?;
        let signature = request.signature.as_bytes().ok_or(RequestError::Malformed)?;
        public_key.verify(&signed, signature).map_err(|_| RequestError::Signature)?;
        Ok(Self { public_key })
    }

    /// The key that the sender holds.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Makes a request for `key`, which asks for nothing.
    pub fn make(key: &dyn SigningKey) -> Result<CertificateSigningRequestDer<'static>, SignError> {
        let public_key = SubjectPublicKeyInfoOwned::from_der(&key.public_key().to_spki())
            .expect("a public key is a SubjectPublicKeyInfo");
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::default(),
            public_key,
            attributes: Attributes::default(),
        };
        let signature = key.sign(&info.to_der().expect("encoding what was just made"))?;
        let request = CertReq {
            info,
            algorithm: AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA256, parameters: None },
            signature: BitString::from_bytes(&signature).expect("a signature is short"),
        };
        Ok(request.to_der().expect("encoding what was just made").into())
    }
}

/// A request as PEM.
pub fn request_to_pem(der: &CertificateSigningRequestDer<'_>) -> String {
    to_pem(LABEL, der).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::KeyPair;

    #[test]
    fn a_request_yields_the_key_that_signed_it() {
        let key = KeyPair::generate().unwrap();
        let der = Request::make(&key).unwrap();
        assert_eq!(Request::parse(&der).unwrap().public_key(), key.public_key());
        assert_eq!(Request::parse(request_to_pem(&der).as_bytes()).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_request_of_more_than_the_bound_is_refused_unread() {
        assert_eq!(
            Request::parse(&[b'-'; REQUEST_BYTES_MAX + 1]),
            Err(RequestError::TooLong(REQUEST_BYTES_MAX + 1))
        );
    }

    #[test]
    fn a_request_for_a_key_that_one_does_not_hold_is_refused() {
        #[derive(Debug)]
        struct Liar(KeyPair, KeyPair);
        impl SigningKey for Liar {
            fn public_key(&self) -> &PublicKey {
                self.0.public_key()
            }
            fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
                self.1.sign(message)
            }
        }
        let liar = Liar(KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        assert_eq!(Request::parse(&Request::make(&liar).unwrap()), Err(RequestError::Signature));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(Request::parse(&bytes).is_err());
        }

        #[test]
        fn a_changed_request_never_yields_another_key(position in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let key = KeyPair::generate().unwrap();
            let mut der = Request::make(&key).unwrap().to_vec();
            prop_assert!(Request::parse(&der[..cut.index(der.len())]).is_err());
            let position = position.index(der.len());
            der[position] ^= 1 << bit;
            prop_assert!(Request::parse(&der).is_err());
        }
    }
}
