//! Records as they are stored: the bytes, the revisions, the decoded value. What is compared or hashed is always the bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::keys::{InvalidKey, Key, Record};

/// Orders all states of the store, over restores too: first the term, then etcd's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoreVersion {
    /// Raised when the store turns out to be an older one.
    pub term: u64,
    /// A revision of etcd, within the term.
    pub revision: i64,
}

impl fmt::Display for StoreVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.revision)
    }
}

/// One key and its value as etcd has them, not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key.
    pub key: Arc<str>,
    /// The value. Empty where only keys are kept.
    pub bytes: Bytes,
    /// The revision at which the key came to be.
    pub create_revision: i64,
    /// The revision at which the value was written.
    pub mod_revision: i64,
}

impl Entry {
    /// The entry as the record that its key says it is.
    pub fn decode<R: Record>(&self) -> Result<Versioned<R>, DecodeError> {
        let key = Key::parse(Arc::clone(&self.key))?;
        let value = R::decode(self.bytes.clone())
            .map_err(|source| DecodeError::Value { key: Arc::clone(&self.key), source })?;
        Ok(Versioned {
            key,
            value,
            bytes: self.bytes.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
        })
    }
}

/// A record, what was stored, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<R: Record> {
    /// Where it is stored.
    pub key: Key<R>,
    /// The record.
    pub value: R,
    /// The stored bytes: what hashes are of.
    pub bytes: Bytes,
    /// The revision at which the key came to be.
    pub create_revision: i64,
    /// The revision at which the value was written.
    pub mod_revision: i64,
}

/// What is stored is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The key has another form.
    #[error("reading a stored key: {0}")]
    Key(#[from] InvalidKey),
    /// The value does not decode.
    #[error("decoding the value of `{key}`: {source}")]
    Value {
        /// Of which key.
        key: Arc<str>,
        /// Why not.
        source: prost::DecodeError,
    },
}

/// A value that is larger than its family allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of `{key}` has {bytes} bytes: at most {bytes_max} are allowed")]
pub struct TooLarge {
    /// Of which key.
    pub key: Arc<str>,
    /// How large it is.
    pub bytes: usize,
    /// How large it may be.
    pub bytes_max: usize,
}

/// Encodes `record` for `key`, within its family's bound.
pub(crate) fn encode<R: Record>(key: &Key<R>, record: &R) -> Result<Bytes, TooLarge> {
    check(key, record.encode_to_vec().into())
}

/// `bytes`, if the family of `key` allows that many.
pub(crate) fn check<R: Record>(key: &Key<R>, bytes: Bytes) -> Result<Bytes, TooLarge> {
    let bytes_max = R::FAMILY.value_bytes_max();
    if bytes.len() > bytes_max {
        return Err(TooLarge { key: key.to_shared(), bytes: bytes.len(), bytes_max });
    }
    Ok(bytes)
}
