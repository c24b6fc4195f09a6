//! Sealing at rest: what the store holds of a secret.
//!
//! Envelope encryption. Each value is encrypted under a data key of its own, made for it and used once; the data key is wrapped by a
//! [`KeyEncryption`], which is a file of keys ([`crate::key_ring`]) or can be a KMS: it sees data keys, never values. Since no data key
//! is used twice, no nonce ever is; it is 24 random bytes all the same (XChaCha20-Poly1305), so that even a data key that came twice would
//! do no harm.
//!
//! ```text
//! 1 | id length (1) | id of the wrapping key | wrapped length (2, big-endian) | wrapped data key | nonce (24) | ciphertext | tag (16)
//! ```
//! Everything before the nonce, and `aad`, are authenticated with the value. The store's key goes into `aad`, so that a value which somebody
//! moves to another name in the store does not open there.
//!
//! Rotation: add a wrapping key; what is sealed from then on is under it; what [`needs_reseal`] is opened and sealed again; then the old key
//! can go.

use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::{RandomError, SecretBytes, random};

/// Longest value that is sealed, in bytes: what a store's value may hold, and to spare.
pub const PLAINTEXT_BYTES_MAX: usize = 1024 * 1024;

/// Longest wrapped data key, in bytes; a KMS has some hundred.
pub const WRAPPED_BYTES_MAX: usize = 4096;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// A key that encrypts one value.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// The key with these bytes, as it was unwrapped.
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be wrapped.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(redacted)")
    }
}

/// Which wrapping key: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WrappingKeyId(Box<str>);

impl WrappingKeyId {
    /// Parses 1 to 255 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let fine = !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
        fine.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WrappingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A data key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// What wrapped it.
    pub by: WrappingKeyId,
    /// At most [`WRAPPED_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

/// Wraps data keys: a file of keys, or a KMS. A call may block; it is made once for each value that is sealed or opened.
pub trait KeyEncryption: fmt::Debug + Send + Sync {
    /// The key that wraps from now on.
    fn newest(&self) -> WrappingKeyId;

    /// Wraps `key` with the newest key.
    fn wrap(&self, key: &DataKey) -> Result<Wrapped, KeyEncryptionError>;

    /// Unwraps what this, or an earlier newest key, wrapped.
    fn unwrap(&self, wrapped: &Wrapped) -> Result<DataKey, KeyEncryptionError>;
}

/// A data key that could not be wrapped or unwrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyEncryptionError {
    /// The key that wrapped it is not here.
    #[error("the wrapping key {0} is not known here")]
    UnknownKey(WrappingKeyId),
    /// It is not what the key wrapped.
    #[error("the wrapping key {0} did not wrap this")]
    Refused(WrappingKeyId),
    /// There was no randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The KMS failed.
    #[error("the key management service: {0}")]
    Service(String),
}

/// A value that could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is too long.
    #[error("sealing a value of {0} bytes, where {PLAINTEXT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Its data key could not be wrapped.
    #[error("sealing a value: {0}")]
    Key(#[from] KeyEncryptionError),
    /// There was no randomness.
    #[error("sealing a value: {0}")]
    Random(#[from] RandomError),
}

/// A value that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is no sealed value.
    #[error("opening a value: it is not sealed, or cut")]
    Malformed,
    /// It was sealed in a way that is not known here.
    #[error("opening a value: sealed in the way {0}, where only {VERSION} is known")]
    Version(u8),
    /// Its data key could not be unwrapped.
    #[error("opening a value: {0}")]
    Key(#[from] KeyEncryptionError),
    /// It was changed, or stands under another name than it was sealed for.
    #[error("opening a value: it was changed, or was sealed for another name")]
    Refused,
}

/// Seals `plaintext` under a new data key, for the name that is `aad`.
pub fn seal(keys: &dyn KeyEncryption, plaintext: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(SealError::TooLong(plaintext.len()));
    }
    let key = DataKey(random::bytes()?);
    let wrapped = keys.wrap(&key)?;
    let mut sealed = header(&wrapped)
        .ok_or_else(|| KeyEncryptionError::Service("it wraps longer than is stored".to_owned()))?;
    let nonce = random::bytes::<NONCE_BYTES>()?;
    let payload = Payload { msg: plaintext.expose(), aad: &authenticated(&sealed, aad) };
    let ciphertext = encrypt(&key, &nonce, payload);
    sealed.extend_from_slice(&*nonce);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// Opens what [`seal`] sealed for the same `aad`.
pub fn open(keys: &dyn KeyEncryption, sealed: &[u8], aad: &[u8]) -> Result<SecretBytes, OpenError> {
    let (wrapped, header, rest) = parse(sealed)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Malformed)?;
    if ciphertext.len() < TAG_BYTES || ciphertext.len() > PLAINTEXT_BYTES_MAX + TAG_BYTES {
        return Err(OpenError::Malformed);
    }
    let key = keys.unwrap(&wrapped)?;
    let payload = Payload { msg: ciphertext, aad: &authenticated(header, aad) };
    decrypt(&key, nonce, payload).ok_or(OpenError::Refused)
}

/// Whether `sealed` is under an older key than the newest.
pub fn needs_reseal(keys: &dyn KeyEncryption, sealed: &[u8]) -> Result<bool, OpenError> {
    let (wrapped, _, _) = parse(sealed)?;
    Ok(wrapped.by != keys.newest())
}

/// Everything before the nonce; `None` if the wrapped key is longer than the format allows.
fn header(wrapped: &Wrapped) -> Option<Vec<u8>> {
    let id = wrapped.by.as_str().as_bytes();
    let id_length = u8::try_from(id.len()).ok()?;
    let wrapped_length = u16::try_from(wrapped.bytes.len()).ok()?;
    if wrapped.bytes.len() > WRAPPED_BYTES_MAX {
        return None;
    }
    Some([&[VERSION, id_length], id, &wrapped_length.to_be_bytes(), &wrapped.bytes].concat())
}

/// The wrapped data key, all that stands before the nonce, and the rest.
fn parse(sealed: &[u8]) -> Result<(Wrapped, &[u8], &[u8]), OpenError> {
    let malformed = OpenError::Malformed;
    let (&version, rest) = sealed.split_first().ok_or(malformed)?;
    if version != VERSION {
        return Err(OpenError::Version(version));
    }
    let (&id_length, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
    let (id, rest) = rest.split_at_checked(id_length.into()).ok_or(OpenError::Malformed)?;
    let by = std::str::from_utf8(id).ok().and_then(WrappingKeyId::parse).ok_or(OpenError::Malformed)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(OpenError::Malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > WRAPPED_BYTES_MAX {
        return Err(OpenError::Malformed);
    }
    let (bytes, rest) = rest.split_at_checked(length).ok_or(OpenError::Malformed)?;
    let header = &sealed[..sealed.len() - rest.len()];
    Ok((Wrapped { by, bytes: bytes.to_vec() }, header, rest))
}

/// What is authenticated with the value: each part after its length, so that no two pairs have one encoding.
fn authenticated(header: &[u8], aad: &[u8]) -> Vec<u8> {
    let length = u64::try_from(header.len()).expect("a header is short");
    [b"skerry sealed value 1".as_slice(), &length.to_be_bytes(), header, aad].concat()
}

pub(crate) fn encrypt(key: &DataKey, nonce: &[u8; NONCE_BYTES], payload: Payload<'_, '_>) -> Vec<u8> {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    cipher.encrypt(&XNonce::from(*nonce), payload).expect("far below the 256 GiB of one nonce")
}

pub(crate) fn decrypt(
    key: &DataKey,
    nonce: &[u8; NONCE_BYTES],
    payload: Payload<'_, '_>,
) -> Option<SecretBytes> {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    cipher.decrypt(&XNonce::from(*nonce), payload).ok().map(SecretBytes::new)
}
