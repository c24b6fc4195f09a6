//! A key's fingerprint for people: short enough to be read out and compared, long enough to be no other key's.
//!
//! The first 80 bits of a [`KeyId`] in four groups of four: `k7ap-2bqd-x3fo-m5ze`. Who wanted a key of their own to be approved in the place
//! of another would have to make some 2^80 of them. What is recorded is always the whole [`KeyId`].

use std::fmt;
use std::str::FromStr;

use crate::KeyId;
use crate::encode::{base32, from_base32};

const BYTES: usize = 10;
const GROUP_CHARS: usize = 4;

/// The short form of a key's fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; BYTES]);

/// A text that is no short fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: four groups of four are wanted, of a-z and 2-7, as in k7ap-2bqd-x3fo-m5ze")]
pub struct InvalidFingerprint;

impl Fingerprint {
    /// The short form of `id`.
    pub fn of(id: &KeyId) -> Self {
        let (first, _) = id.as_bytes().split_first_chunk().expect("80 of 256 bits");
        Self(*first)
    }

    /// Parses it as a person types it: in either case, with or without the hyphens.
    pub fn parse(text: &str) -> Result<Self, InvalidFingerprint> {
        if text.len() > 2 * BYTES * 8 / 5 {
            return Err(InvalidFingerprint);
        }
        let text = text.trim().replace('-', "").to_ascii_lowercase();
        from_base32(&text).map(|bytes| Self(*bytes)).ok_or(InvalidFingerprint)
    }

    /// Whether it is `id`'s.
    pub fn matches(&self, id: &KeyId) -> bool {
        *self == Self::of(id)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        Self::parse(text)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, character) in base32(&self.0).chars().enumerate() {
            if index > 0 && index % GROUP_CHARS == 0 {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fingerprint_is_four_groups_of_four() {
        let fingerprint = Fingerprint::of(&KeyId::from_bytes([0xa5; 32])).to_string();
        assert_eq!(fingerprint, "uws2-ljnf-uws2-ljnf");
    }

    proptest! {
        #[test]
        fn a_fingerprint_is_recognised_as_people_type_it(bytes in any::<[u8; 32]>()) {
            let id = KeyId::from_bytes(bytes);
            let text = Fingerprint::of(&id).to_string();
            for typed in [text.clone(), text.to_uppercase(), text.replace('-', ""), format!(" {text} ")] {
                prop_assert!(Fingerprint::parse(&typed).unwrap().matches(&id));
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            let _ = Fingerprint::parse(&text);
        }
    }
}
