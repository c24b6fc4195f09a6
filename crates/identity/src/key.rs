//! Keys that prove who somebody is: ECDSA on P-256 with SHA-256, and nothing else.
//!
//! One algorithm, because a choice would be an attacker's to make; this one, because TPMs and KMSs have it. A public key therefore has one
//! encoding, of 91 bytes, and reading it is a comparison. Whether its point lies on the curve is seen by ring when a signature is checked,
//! which every way to a certificate does ([`crate::csr`]).
//!
//! [`SigningKey`] is what the rest asks of a key, so that a TPM or a KMS can hold it. Where keys are kept is [`crate::key_store`]'s.

use std::fmt;
use std::str::FromStr;

use ring::digest::SHA256;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use crate::RandomError;
pub use crate::encode::PemError;
use crate::encode::{from_hex, from_pem, to_pem, write_hex};

/// What comes before the point in the SubjectPublicKeyInfo of every P-256 key (RFC 5480, section 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// An uncompressed point: 4, x, y.
const POINT_BYTES: usize = 65;

/// PEM label of PKCS#8 (RFC 7468, section 10).
const PRIVATE_KEY_LABEL: &str = "PRIVATE KEY";

/// Which key: the SHA-256 of its SubjectPublicKeyInfo. Written as 64 hexadecimal digits.
///
/// What a node's record holds, what is struck out to revoke, and, for the key of a root, the pin inside of an enrolment token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

/// A text or bytes that are no key's fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key's fingerprint: 64 digits of 0-9 and a-f are wanted")]
pub struct InvalidKeyId;

impl KeyId {
    /// The fingerprint that these bytes are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyId> {
        from_hex(text).map(Self).ok_or(InvalidKeyId)
    }
}

impl TryFrom<&[u8]> for KeyId {
    type Error = InvalidKeyId;
    fn try_from(bytes: &[u8]) -> Result<Self, InvalidKeyId> {
        bytes.try_into().map(Self).map_err(|_| InvalidKeyId)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;
    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        Self::parse(text)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A public key on P-256.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    point: [u8; POINT_BYTES],
}

/// Bytes that are no public key of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an uncompressed public key on P-256")]
pub struct InvalidPublicKey;

/// A signature that the key did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not of this key")]
pub struct BadSignature;

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    pub fn from_spki(der: &[u8]) -> Result<Self, InvalidPublicKey> {
        Self::from_point(der.strip_prefix(&SPKI_PREFIX).ok_or(InvalidPublicKey)?)
    }

    /// Reads an uncompressed point.
    pub(crate) fn from_point(point: &[u8]) -> Result<Self, InvalidPublicKey> {
        let point: [u8; POINT_BYTES] = point.try_into().map_err(|_| InvalidPublicKey)?;
        if point[0] == 4 { Ok(Self { point }) } else { Err(InvalidPublicKey) }
    }

    /// As SubjectPublicKeyInfo in DER.
    pub fn to_spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.point].concat()
    }

    /// The uncompressed point.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// Its fingerprint.
    pub fn id(&self) -> KeyId {
        KeyId(sha256(&[&SPKI_PREFIX, &self.point]))
    }

    /// Checks that the key signed `message`: ECDSA with SHA-256, in DER.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// SHA-256 over `parts`, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The holder of a key would not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key would not sign: {0}")]
pub struct SignError(pub String);

/// A private key, wherever it is: in memory, in a TPM, in a KMS.
pub trait SigningKey: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (not hashed yet): ECDSA on P-256 with SHA-256, in DER.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A private key in memory.
pub struct KeyPair {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

/// A private key that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It could not be made.
    #[error("making a key: {0}")]
    Random(#[from] RandomError),
    /// It is not in PEM.
    #[error("reading a private key: {0}")]
    Pem(#[from] PemError),
    /// It is no PKCS#8 of a P-256 key with its public half.
    #[error("reading a private key: not a P-256 key in PKCS#8")]
    Rejected,
}

impl KeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| RandomError)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads PKCS#8 in DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
            .map_err(|_| KeyError::Rejected)?;
        let public = PublicKey::from_point(pair.public_key().as_ref()).map_err(|_| KeyError::Rejected)?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()), public })
    }

    /// Reads PKCS#8 in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        Self::from_pkcs8(&from_pem(PRIVATE_KEY_LABEL, pem)?)
    }

    /// As PKCS#8 in PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        to_pem(PRIVATE_KEY_LABEL, &self.pkcs8)
    }
}

impl SigningKey for KeyPair {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SignError(RandomError.to_string()))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public.id())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::digest;

    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = KeyPair::generate().unwrap();
        let again = KeyPair::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let signature = again.sign(b"message").unwrap();
        assert_eq!(key.public_key().verify(b"message", &signature), Ok(()));
        assert_eq!(key.public_key().verify(b"massage", &signature), Err(BadSignature));
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_public_key_and_survives_its_text() {
        let key = KeyPair::generate().unwrap();
        let spki = key.public_key().to_spki();
        assert_eq!(PublicKey::from_spki(&spki).unwrap(), *key.public_key());
        let id = key.public_key().id();
        assert_eq!(id.as_bytes().as_slice(), digest(&SHA256, &spki).as_ref());
        assert_eq!(KeyId::parse(&id.to_string()), Ok(id));
        assert_eq!(KeyId::parse(&id.to_string().to_uppercase()), Err(InvalidKeyId));
        assert_ne!(KeyPair::generate().unwrap().public_key().id(), id);
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("KeyPair({})", key.public_key().id()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_a_key_without_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(KeyPair::from_pkcs8(&bytes).is_err());
            prop_assert!(KeyPair::from_pem(&bytes).is_err());
            let _ = PublicKey::from_spki(&bytes);
            let _ = KeyId::try_from(bytes.as_slice());
        }

        #[test]
        fn a_changed_public_key_is_another_or_none(position in 0usize..91, bit in 0u8..8) {
            let key = KeyPair::generate().unwrap();
            let mut spki = key.public_key().to_spki();
            spki[position] ^= 1 << bit;
            if let Ok(other) = PublicKey::from_spki(&spki) {
                prop_assert_ne!(other.id(), key.public_key().id());
                let signature = key.sign(b"message").unwrap();
                prop_assert!(other.verify(b"message", &signature).is_err());
            }
        }
    }
}
