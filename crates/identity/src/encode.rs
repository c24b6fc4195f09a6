//! Bytes as text and back: hexadecimal, base32, PEM. One value has one text, so that texts can be compared.

use std::fmt;

use base32ct::{Base32Unpadded, Encoding as _};
use x509_cert::der::pem;
use zeroize::{Zeroize as _, Zeroizing};

/// A text in PEM that is not what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It is no PEM at all, or more than one document.
    #[error("not one PEM document")]
    Malformed,
    /// It is of another kind.
    #[error("PEM of a {found}, where a {wanted} is wanted")]
    Label {
        /// What was asked for.
        wanted: &'static str,
        /// What the label says, cut to 40 characters.
        found: String,
    },
}

/// Writes `bytes` in lower-case hexadecimal.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The `N` bytes that a text of 2 N lower-case hexadecimal digits stands for.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// `bytes` in lower-case base32 without padding, in constant time.
pub(crate) fn base32(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(Base32Unpadded::encode_string(bytes))
}

/// The `N` bytes whose base32 is exactly `text`.
pub(crate) fn from_base32<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let mut decoded = Base32Unpadded::decode_vec(text).ok()?;
    let array = <[u8; N]>::try_from(decoded.as_slice()).ok().map(Zeroizing::new);
    decoded.zeroize();
    // The last character may have bits to spare: only one way to write them is ours.
    array.filter(|bytes| base32(&**bytes).as_str() == text)
}

/// `der` as one PEM document.
pub(crate) fn to_pem(label: &'static str, der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(pem::encode_string(label, pem::LineEnding::LF, der).expect("a label of ours, and no I/O"))
}

/// The contents of one PEM document with `label`, and nothing beside it.
pub(crate) fn from_pem(label: &'static str, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let (found, der) = pem::decode_vec(text).map_err(|_| PemError::Malformed)?;
    let der = Zeroizing::new(der);
    if found == label {
        Ok(der)
    } else {
        Err(PemError::Label { wanted: label, found: found.chars().take(40).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Hex<'a>(&'a [u8]);

    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_hex(self.0, f)
        }
    }

    proptest! {
        #[test]
        fn each_text_form_gives_back_what_went_in(bytes in any::<[u8; 33]>()) {
            prop_assert_eq!(from_hex::<33>(&Hex(&bytes).to_string()), Some(bytes));
            prop_assert_eq!(from_base32::<33>(&base32(&bytes)).map(|b| *b), Some(bytes));
            let pem = to_pem("THING", &bytes);
            let decoded = from_pem("THING", pem.as_bytes()).unwrap();
            prop_assert_eq!(decoded.as_slice(), bytes.as_slice());
            prop_assert!(from_pem("OTHER", pem.as_bytes()).is_err());
        }

        #[test]
        fn a_value_has_one_text(text in "[a-z2-7]{7}") {
            if let Some(bytes) = from_base32::<4>(&text) {
                prop_assert_eq!(&*base32(&*bytes), &text);
            }
        }

        #[test]
        fn any_text_is_decoded_without_panic(text in any::<String>()) {
            let _ = from_hex::<4>(&text);
            let _ = from_base32::<4>(&text);
            let _ = from_pem("THING", text.as_bytes());
        }
    }
}
