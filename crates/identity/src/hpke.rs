//! Secrets on their way to a node: sealed to its key, so that whoever carries them sees nothing.
//!
//! HPKE (RFC 9180), base mode: X25519 with HKDF-SHA256, HKDF-SHA256, ChaCha20-Poly1305. The last because edge machines may lack AES
//! instructions, where AES is slow or leaks by its timing. A sealed secret is `1 | encapsulated key (32 bytes) | ciphertext and tag`.
//!
//! [`SealContext`] is HPKE's `info`: project, node, secret and version. What was sealed for one node, one secret or one version opens as no
//! other, so a gateway cannot hand a node an old value under a new version. Base mode says nothing of who sealed: that the stream is the
//! control plane's is what says so.
//!
//! A resource with a sealed secret lists [`REQUIRES`], so that an agent that cannot open it refuses it and says so.

use std::fmt;

use ::hpke::aead::ChaCha20Poly1305;
use ::hpke::kdf::HkdfSha256;
use ::hpke::kem::X25519HkdfSha256;
use ::hpke::{
    Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _, single_shot_open, single_shot_seal,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::encode::{from_hex, from_pem, to_pem, write_hex};
use crate::key::KeyError;
use crate::{RandomError, SecretBytes, random};

/// The feature that an agent needs to open what is sealed here.
pub const REQUIRES: &str = "sealed-secrets-1";

/// Longest secret that is sealed, in bytes: as long as a config may be.
pub const PLAINTEXT_BYTES_MAX: usize = 512 * 1024;

const VERSION: u8 = 1;
const ENCAPSULATED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// What sealing adds to a secret, in bytes.
pub const OVERHEAD_BYTES: usize = 1 + ENCAPSULATED_BYTES + TAG_BYTES;

/// PKCS#8 of an X25519 key (RFC 8410, section 7), up to its 32 bytes.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20];
const PRIVATE_KEY_LABEL: &str = "PRIVATE KEY";

type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;

/// The key to which secrets of a node are sealed: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HpkePublicKey([u8; 32]);

/// Bytes that are no HPKE key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an HPKE public key: 32 bytes of X25519 are wanted, or 64 digits of 0-9 and a-f")]
pub struct InvalidHpkeKey;

impl HpkePublicKey {
    /// Reads 32 bytes. That nothing can be sealed to them (a point of low order) is seen when something is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidHpkeKey> {
        bytes.try_into().map(Self).map_err(|_| InvalidHpkeKey)
    }

    /// Parses 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidHpkeKey> {
        from_hex(text).map(Self).ok_or(InvalidHpkeKey)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for HpkePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for HpkePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkePublicKey({self})")
    }
}

/// What is sealed, for whom: sealed and opened with the same, or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// The node's project.
    pub project: &'a str,
    /// The node's uid: its successor of the same name is another.
    pub node_uid: &'a str,
    /// The secret's name.
    pub secret: &'a str,
    /// The secret's version, as it travels.
    pub version: &'a str,
}

impl SealContext<'_> {
    /// Each part after its length, so that no two contexts have one encoding.
    fn info(&self) -> Vec<u8> {
        let mut info = b"skerry sealed secret 1".to_vec();
        for part in [self.project, self.node_uid, self.secret, self.version] {
            let length = u32::try_from(part.len()).expect("names are short");
            info.extend_from_slice(&length.to_be_bytes());
            info.extend_from_slice(part.as_bytes());
        }
        info
    }
}

/// A secret that could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpkeSealError {
    /// It is too long.
    #[error("a secret of {0} bytes is longer than the {PLAINTEXT_BYTES_MAX} that are sealed")]
    TooLong(usize),
    /// The node's key is none to which anything can be sealed.
    #[error("nothing can be sealed to the node's HPKE key")]
    Key,
}

/// A secret that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HpkeOpenError {
    /// It is too short or too long to be one.
    #[error("not a sealed secret: {0} bytes")]
    Length(usize),
    /// It was sealed in a way that is not known here.
    #[error("a secret that was sealed in the way {0}, where only {VERSION} is known")]
    Version(u8),
    /// It was sealed to another key or for another purpose, or was changed.
    #[error("the secret is not sealed to this key for this node, name and version, or it was changed")]
    Refused,
    /// The holder of the key failed.
    #[error("opening a secret: {0}")]
    Key(String),
}

/// Seals `plaintext` so that only the holder of `to` opens it, and only as `context` says.
pub fn seal_to(
    to: &HpkePublicKey,
    context: &SealContext<'_>,
    plaintext: &SecretBytes,
) -> Result<Vec<u8>, HpkeSealError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(HpkeSealError::TooLong(plaintext.len()));
    }
    let to = Public::from_bytes(&to.0).map_err(|_| HpkeSealError::Key)?;
    let (encapsulated, ciphertext) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &to,
        &context.info(),
        plaintext.expose(),
        &[],
    )
    .map_err(|_| HpkeSealError::Key)?;
    Ok([&[VERSION], encapsulated.to_bytes().as_slice(), &ciphertext].concat())
}

/// A key that opens what was sealed to it, wherever it is kept.
pub trait OpeningKey: fmt::Debug + Send + Sync {
    /// The key to seal to.
    fn public_key(&self) -> HpkePublicKey;

    /// Opens what [`seal_to`] sealed to this key for `context`.
    fn open(&self, context: &SealContext<'_>, sealed: &[u8]) -> Result<SecretBytes, HpkeOpenError>;
}

/// A private HPKE key in memory.
pub struct HpkeKeyPair {
    private: Private,
    public: HpkePublicKey,
}

impl HpkeKeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, RandomError> {
        let seed = random::bytes::<32>()?;
        Ok(Self::of(X25519HkdfSha256::derive_keypair(&*seed).0))
    }

    /// Reads PKCS#8 (RFC 8410) in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = from_pem(PRIVATE_KEY_LABEL, pem)?;
        let bytes = der.strip_prefix(&PKCS8_PREFIX).ok_or(KeyError::Rejected)?;
        Private::from_bytes(bytes).map(Self::of).map_err(|_| KeyError::Rejected)
    }

    /// As PKCS#8 in PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + 32));
        der.extend_from_slice(&PKCS8_PREFIX);
        let mut private = self.private.to_bytes();
        der.extend_from_slice(&private);
        private.as_mut_slice().zeroize();
        to_pem(PRIVATE_KEY_LABEL, &der)
    }

    fn of(private: Private) -> Self {
        let public = X25519HkdfSha256::sk_to_pk(&private).to_bytes();
        Self { private, public: HpkePublicKey(public.into()) }
    }
}

impl OpeningKey for HpkeKeyPair {
    fn public_key(&self) -> HpkePublicKey {
        self.public
    }

    fn open(&self, context: &SealContext<'_>, sealed: &[u8]) -> Result<SecretBytes, HpkeOpenError> {
        if sealed.len() < OVERHEAD_BYTES || sealed.len() > OVERHEAD_BYTES + PLAINTEXT_BYTES_MAX {
            return Err(HpkeOpenError::Length(sealed.len()));
        }
        let (&version, rest) = sealed.split_first().expect("longer than the overhead");
        if version != VERSION {
            return Err(HpkeOpenError::Version(version));
        }
        let (encapsulated, ciphertext) = rest.split_at(ENCAPSULATED_BYTES);
        let encapsulated = Encapsulated::from_bytes(encapsulated).map_err(|_| HpkeOpenError::Refused)?;
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            &context.info(),
            ciphertext,
            &[],
        )
        .map(SecretBytes::new)
        .map_err(|_| HpkeOpenError::Refused)
    }
}

impl fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkeKeyPair({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: SealContext<'static> =
        SealContext { project: "default", node_uid: "u1", secret: "db", version: "1.7" };

    #[test]
    fn only_the_node_s_key_opens_and_only_for_what_it_was_sealed() {
        let (node, other) = (HpkeKeyPair::generate().unwrap(), HpkeKeyPair::generate().unwrap());
        let secret = SecretBytes::new(b"hunter2".to_vec());
        let sealed = seal_to(&node.public_key(), &CONTEXT, &secret).unwrap();
        assert_eq!(sealed.len(), secret.len() + OVERHEAD_BYTES);
        assert_eq!(node.open(&CONTEXT, &sealed), Ok(secret));
        assert_eq!(other.open(&CONTEXT, &sealed), Err(HpkeOpenError::Refused));
        for wrong in [
            SealContext { project: "other", ..CONTEXT },
            SealContext { node_uid: "u2", ..CONTEXT },
            SealContext { secret: "db2", ..CONTEXT },
            SealContext { version: "1.8", ..CONTEXT },
            SealContext { secret: "d", version: "b1.7", ..CONTEXT },
        ] {
            assert_eq!(node.open(&wrong, &sealed), Err(HpkeOpenError::Refused), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_survives_its_file_and_is_not_printed() {
        let key = HpkeKeyPair::generate().unwrap();
        let again = HpkeKeyPair::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(HpkePublicKey::parse(&key.public_key().to_string()), Ok(key.public_key()));
        assert!(HpkePublicKey::from_bytes(&[1; 31]).is_err());
        let sealed = seal_to(&key.public_key(), &CONTEXT, &SecretBytes::new(vec![1])).unwrap();
        assert_eq!(again.open(&CONTEXT, &sealed).unwrap().expose(), [1]);
        assert_eq!(format!("{key:?}"), format!("HpkeKeyPair({})", key.public_key()));
    }

    #[test]
    fn nothing_is_sealed_to_a_point_of_low_order_and_no_secret_beyond_the_bound() {
        let nowhere = HpkePublicKey::from_bytes(&[0; 32]).unwrap();
        assert_eq!(seal_to(&nowhere, &CONTEXT, &SecretBytes::default()), Err(HpkeSealError::Key));
        let key = HpkeKeyPair::generate().unwrap().public_key();
        let long = SecretBytes::new(vec![0; PLAINTEXT_BYTES_MAX + 1]);
        assert_eq!(seal_to(&key, &CONTEXT, &long), Err(HpkeSealError::TooLong(PLAINTEXT_BYTES_MAX + 1)));
    }

    #[test]
    fn the_same_secret_is_sealed_differently_each_time() {
        let key = HpkeKeyPair::generate().unwrap().public_key();
        let secret = SecretBytes::new(vec![1]);
        assert_ne!(seal_to(&key, &CONTEXT, &secret).unwrap(), seal_to(&key, &CONTEXT, &secret).unwrap());
    }

    proptest! {
        #[test]
        fn a_changed_or_cut_secret_does_not_open(plain in any::<Vec<u8>>(), position in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = HpkeKeyPair::generate().unwrap();
            let mut sealed = seal_to(&key.public_key(), &CONTEXT, &SecretBytes::new(plain)).unwrap();
            let position = position.index(sealed.len());
            prop_assert!(key.open(&CONTEXT, &sealed[..position]).is_err());
            sealed[position] ^= 1 << bit;
            // The top bit of an X25519 coordinate is not part of it (RFC 7748, section 5), but the key schedule has all of them.
            prop_assert!(key.open(&CONTEXT, &sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in any::<Vec<u8>>()) {
            let key = HpkeKeyPair::generate().unwrap();
            prop_assert!(key.open(&CONTEXT, &bytes).is_err());
            prop_assert!(HpkeKeyPair::from_pem(&bytes).is_err());
        }
    }
}
