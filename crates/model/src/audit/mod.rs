//! The hash chains of the audit log: what is hashed, and whether a chain is whole. Pure: who reads records from wherever holds them against
//! this, and needs to trust nobody for it.

mod verify;

use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

pub use verify::{ChainCheck, Checked, Finding, Restored, Wrong, compare};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// What the first record of a chain follows.
pub const BEGINNING: AuditHash = AuditHash([0; HASH_BYTES]);
/// So that no hash of something else is ever taken for one of a record.
const DOMAIN: &[u8] = b"skerry audit record v1\0";

/// Hash of a record: SHA-256 over a tag, the hash of the record before, and the stored bytes of the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuditHash([u8; HASH_BYTES]);

impl AuditHash {
    /// The hash of the record with `entry` that follows the one with the hash `previous`.
    pub fn of(previous: &Self, entry: &[u8]) -> Self {
        let digest =
            Sha256::new().chain_update(DOMAIN).chain_update(previous.0).chain_update(entry).finalize();
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&digest);
        Self(hash)
    }

    /// Takes a hash as it is stored; nothing where it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

#[cfg(test)]
mod tests;
