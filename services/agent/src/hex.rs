//! Bytes as hexadecimal digits.

use std::fmt::Write as _;

/// Two lower case digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(hex(&[0, 1, 0x0f, 0xa0, 0xff]), "00010fa0ff");
        assert_eq!(hex(&[]), "");
        let hash = blake3::hash(b"skerry");
        assert_eq!(hex(hash.as_bytes()), hash.to_hex().as_str(), "as others write it");
    }
}
