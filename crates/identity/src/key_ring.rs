//! Wrapping keys in a file: the [`KeyEncryption`] of those who have no KMS.
//!
//! One key a line, oldest first: `<id> <key>`, the key being 32 bytes in base32; empty lines and lines that begin with `#` are nothing. The
//! last wraps, all unwrap. An id is made from its key, so that a mistyped key is told and an id never means two keys. The file has mode 0600
//! and is not in the store: whoever steals only the store opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::Payload;
use zeroize::Zeroizing;

use crate::encode::{base32, from_base32, write_hex};
use crate::key::sha256;
use crate::private_file::{self, PrivateFileError};
use crate::seal::{DataKey, KeyEncryption, KeyEncryptionError, Wrapped, WrappingKeyId, decrypt, encrypt};
use crate::{RandomError, random};

/// Most keys in a ring.
pub const KEYS_MAX: usize = 64;

const NONCE_BYTES: usize = 24;

/// Several wrapping keys, the newest last.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<WrappingKey>,
}

struct WrappingKey {
    id: WrappingKeyId,
    key: DataKey,
}

/// A ring that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeyRing {
    /// It has no key.
    #[error("no key in it")]
    Empty,
    /// It has too many.
    #[error("more than {KEYS_MAX} keys in it")]
    TooMany,
    /// A line is none of ours.
    #[error("line {0} is not `<id> <key>`")]
    Line(usize),
    /// A key is not the one that its id says.
    #[error("line {0}: the key is mistyped: its id does not fit")]
    Mistyped(usize),
    /// A key stands in it twice.
    #[error("line {0}: the key is there already")]
    Twice(usize),
}

/// A ring that could not be loaded, made or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// Its file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// There is no file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// What the file holds.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidKeyRing,
    },
    /// No key could be made.
    #[error("making a wrapping key: {0}")]
    Random(#[from] RandomError),
}

impl KeyRing {
    /// A ring with one new key.
    pub fn generate() -> Result<Self, RandomError> {
        Ok(Self { keys: vec![WrappingKey::generate()?] })
    }

    /// Reads a ring.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyRing> {
        let mut keys: Vec<WrappingKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key) = line.split_once(' ').ok_or(InvalidKeyRing::Line(number))?;
            let key = WrappingKey::of(from_base32(key.trim()).ok_or(InvalidKeyRing::Line(number))?);
            if key.id.as_str() != id {
                return Err(InvalidKeyRing::Mistyped(number));
            }
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(InvalidKeyRing::Twice(number));
            }
            if keys.len() == KEYS_MAX {
                return Err(InvalidKeyRing::TooMany);
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(InvalidKeyRing::Empty) } else { Ok(Self { keys }) }
    }

    /// As text, secret and all.
    pub fn reveal(&self) -> Zeroizing<String> {
        // Room for all of it, as a text that grows leaves copies behind: an id has 16 characters, a key 52.
        let mut text = Zeroizing::new(String::with_capacity(64 + self.keys.len() * 80));
        text.push_str("# Skerry: wrapping keys, oldest first\n");
        for key in &self.keys {
            text.push_str(key.id.as_str());
            text.push(' ');
            text.push_str(&base32(key.key.expose()));
            text.push('\n');
        }
        text
    }

    /// Loads the ring in the file `path`.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        let bytes = private_file::read(path)?.ok_or_else(|| KeyRingError::Missing(path.to_owned()))?;
        let invalid = |source| KeyRingError::Invalid { path: path.to_owned(), source };
        let text = std::str::from_utf8(&bytes).map_err(|_| invalid(InvalidKeyRing::Line(1)))?;
        Self::parse(text).map_err(invalid)
    }

    /// Loads the ring in the file `path`, made there first if there is none.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyRingError> {
        match Self::load(path) {
            Err(KeyRingError::Missing(_)) => {
                private_file::create(path, Self::generate()?.reveal().as_bytes())?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    /// Adds a new key to the ring in the file `path`, which wraps from then on.
    pub fn rotate(path: &Path) -> Result<Self, KeyRingError> {
        let mut ring = Self::load(path)?;
        if ring.keys.len() == KEYS_MAX {
            return Err(KeyRingError::Invalid { path: path.to_owned(), source: InvalidKeyRing::TooMany });
        }
        ring.keys.push(WrappingKey::generate()?);
        private_file::replace(path, ring.reveal().as_bytes())?;
        Ok(ring)
    }

    /// The ids of its keys, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = &WrappingKeyId> {
        self.keys.iter().map(|key| &key.id)
    }

    fn last(&self) -> &WrappingKey {
        self.keys.last().expect("a ring has a key: parse and generate see to it")
    }
}

impl WrappingKey {
    fn generate() -> Result<Self, RandomError> {
        Ok(Self::of(random::bytes()?))
    }

    fn of(key: Zeroizing<[u8; 32]>) -> Self {
        struct Hex<'a>(&'a [u8]);
        impl fmt::Display for Hex<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(self.0, f)
            }
        }
        let hash = sha256(&[b"skerry wrapping key 1 id", &*key]);
        let id = WrappingKeyId::parse(&Hex(&hash[..8]).to_string()).expect("hexadecimal");
        Self { id, key: DataKey::from_bytes(key) }
    }

    /// The id is authenticated too: what one key wrapped is not taken for another's.
    fn aad(&self) -> Vec<u8> {
        [b"skerry wrapped key 1 ".as_slice(), self.id.as_str().as_bytes()].concat()
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappingKey({}, redacted)", self.id)
    }
}

impl KeyEncryption for KeyRing {
    fn newest(&self) -> WrappingKeyId {
        self.last().id.clone()
    }

    fn wrap(&self, key: &DataKey) -> Result<Wrapped, KeyEncryptionError> {
        let newest = self.last();
        let nonce = random::bytes::<NONCE_BYTES>()?;
        let wrapped = encrypt(&newest.key, &nonce, Payload { msg: key.expose(), aad: &newest.aad() });
        Ok(Wrapped { by: newest.id.clone(), bytes: [nonce.as_slice(), &wrapped].concat() })
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<DataKey, KeyEncryptionError> {
        let by = &wrapped.by;
        let key = self.keys.iter().find(|key| key.id == *by);
        let key = key.ok_or_else(|| KeyEncryptionError::UnknownKey(by.clone()))?;
        let refused = || KeyEncryptionError::Refused(by.clone());
        let (nonce, ciphertext) = wrapped.bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(refused)?;
        let payload = Payload { msg: ciphertext, aad: &key.aad() };
        let bytes = decrypt(&key.key, nonce, payload).ok_or_else(refused)?;
        let bytes = <[u8; 32]>::try_from(bytes.expose()).map_err(|_| refused())?;
        Ok(DataKey::from_bytes(Zeroizing::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SecretBytes;
    use crate::seal::{OpenError, needs_reseal, open, seal};

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_value_opens_under_its_own_name_only() {
        let ring = KeyRing::generate().unwrap();
        let sealed = seal(&ring, &secret("hunter2"), b"secrets/default/db").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(open(&ring, &sealed, b"secrets/default/db"), Ok(secret("hunter2")));
        assert_eq!(open(&ring, &sealed, b"secrets/default/other"), Err(OpenError::Refused));
        let stranger = KeyRing::generate().unwrap();
        assert!(matches!(
            open(&stranger, &sealed, b"secrets/default/db"),
            Err(OpenError::Key(KeyEncryptionError::UnknownKey(_)))
        ));
    }

    #[test]
    fn a_value_vouches_for_its_wrapped_key_where_a_kms_does_not() {
        /// Wraps with a byte that means nothing.
        #[derive(Debug)]
        struct Lax(KeyRing);
        impl KeyEncryption for Lax {
            fn newest(&self) -> WrappingKeyId {
                self.0.newest()
            }
            fn wrap(&self, key: &DataKey) -> Result<Wrapped, KeyEncryptionError> {
                let mut wrapped = self.0.wrap(key)?;
                wrapped.bytes.push(0);
                Ok(wrapped)
            }
            fn unwrap(&self, wrapped: &Wrapped) -> Result<DataKey, KeyEncryptionError> {
                let mut wrapped = wrapped.clone();
                wrapped.bytes.pop();
                self.0.unwrap(&wrapped)
            }
        }
        let lax = Lax(KeyRing::generate().unwrap());
        let mut sealed = seal(&lax, &secret("hunter2"), b"name").unwrap();
        assert_eq!(open(&lax, &sealed, b"name"), Ok(secret("hunter2")));
        // Version, length and id (16 characters), length (2), nonce, wrapped key, tag, and then that byte.
        let meaningless = 1 + 1 + 16 + 2 + NONCE_BYTES + 32 + 16;
        assert_eq!(sealed[meaningless], 0);
        sealed[meaningless] = 1;
        assert_eq!(open(&lax, &sealed, b"name"), Err(OpenError::Refused));
    }

    #[test]
    fn after_a_rotation_the_new_key_seals_all_open_and_what_is_old_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.keys");
        let old = KeyRing::load_or_make(&path).unwrap();
        let sealed = seal(&old, &secret("hunter2"), b"name").unwrap();
        assert_eq!(needs_reseal(&old, &sealed), Ok(false));
        let new = KeyRing::rotate(&path).unwrap();
        assert_eq!(needs_reseal(&new, &sealed), Ok(true));
        let value = open(&KeyRing::load(&path).unwrap(), &sealed, b"name").unwrap();
        let again = seal(&new, &value, b"name").unwrap();
        assert_eq!(needs_reseal(&new, &again), Ok(false));
        assert!(open(&old, &again, b"name").is_err());
    }

    #[test]
    fn a_ring_is_made_once_and_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.keys");
        assert!(matches!(KeyRing::load(&path), Err(KeyRingError::Missing(_))));
        let made = KeyRing::load_or_make(&path).unwrap();
        let again = KeyRing::load_or_make(&path).unwrap();
        assert!(made.ids().eq(again.ids()));
        assert_eq!(*KeyRing::parse(&made.reveal()).unwrap().reveal(), *made.reveal());
        assert!(!format!("{made:?}").contains(&*base32(made.last().key.expose())));
    }

    #[test]
    fn what_is_wrong_with_a_ring_is_told_with_its_line() {
        let text = KeyRing::generate().unwrap().reveal();
        let line = text.lines().nth(1).unwrap();
        let (id, key) = line.split_once(' ').unwrap();
        let other = KeyRing::generate().unwrap();
        let other = other.reveal().lines().nth(1).unwrap().split_once(' ').unwrap().1.to_owned();
        assert_eq!(KeyRing::parse("# nothing\n\n").unwrap_err(), InvalidKeyRing::Empty);
        assert_eq!(KeyRing::parse(&format!("\n{id}\n")).unwrap_err(), InvalidKeyRing::Line(2));
        assert_eq!(KeyRing::parse(&format!("{id} {}", &key[1..])).unwrap_err(), InvalidKeyRing::Line(1));
        assert_eq!(KeyRing::parse(&format!("{id} {other}")).unwrap_err(), InvalidKeyRing::Mistyped(1));
        assert_eq!(KeyRing::parse(&format!("{line}\n{line}")).unwrap_err(), InvalidKeyRing::Twice(2));
    }

    proptest! {
        #[test]
        fn a_changed_or_cut_value_does_not_open(plain in any::<Vec<u8>>(), position in any::<prop::sample::Index>(), bit in 0u8..8) {
            let ring = KeyRing::generate().unwrap();
            let mut sealed = seal(&ring, &SecretBytes::new(plain), b"name").unwrap();
            let position = position.index(sealed.len());
            prop_assert!(open(&ring, &sealed[..position], b"name").is_err());
            sealed[position] ^= 1 << bit;
            prop_assert!(open(&ring, &sealed, b"name").is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            let ring = KeyRing::generate().unwrap();
            prop_assert!(open(&ring, &bytes, b"").is_err());
            let versioned = [&[1][..], &bytes].concat();
            prop_assert!(open(&ring, &versioned, b"").is_err());
            let _ = needs_reseal(&ring, &versioned);
            prop_assert!(KeyRing::parse(&text).is_err());
        }
    }
}
