//! Content hashes: BLAKE3 of stored bytes, never of bytes encoded anew (protobuf is not canonical).

use std::fmt;

/// BLAKE3 of some bytes: 32 bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a content hash: 64 lower-case hexadecimal digits are wanted")]
pub struct InvalidHash;

impl ContentHash {
    /// Hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Parses 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidHash> {
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let hash = blake3::Hash::from_hex(text).map_err(|_| InvalidHash)?;
        if lower { Ok(Self(*hash.as_bytes())) } else { Err(InvalidHash) }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_round_trips_through_text() {
        let hash = ContentHash::of(b"skerry");
        assert_eq!(ContentHash::parse(&hash.to_string()), Ok(hash));
        assert_eq!(ContentHash::parse(&hash.to_string().to_uppercase()), Err(InvalidHash));
        assert_eq!(ContentHash::parse("00"), Err(InvalidHash));
    }
}
