//! A file of wrapping keys that is read again when something is sealed under a key that is not known: somebody rotated it while the process
//! ran.
//!
//! What one process sealed under the new key opens in every other that has the file, without a restart. A process that has not met the new
//! key goes on sealing under the one before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::key_ring::{KeyRing, KeyRingError};
use crate::seal::{DataKey, KeyEncryption, KeyEncryptionError, Wrapped, WrappingKeyId};

/// The keys in a file.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    ring: Mutex<Arc<KeyRing>>,
}

impl KeyFile {
    /// Those in the file at `path`, which is there.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        Ok(Self::of(path, KeyRing::load(path)?))
    }

    /// Those in the file at `path`, made with one key if there is none.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyRingError> {
        Ok(Self::of(path, KeyRing::load_or_make(path)?))
    }

    fn of(path: &Path, ring: KeyRing) -> Self {
        Self { path: path.to_owned(), ring: Mutex::new(Arc::new(ring)) }
    }

    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeyEncryption for KeyFile {
    fn newest(&self) -> WrappingKeyId {
        self.ring().newest()
    }

    fn wrap(&self, key: &DataKey) -> Result<Wrapped, KeyEncryptionError> {
        self.ring().wrap(key)
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<DataKey, KeyEncryptionError> {
        let unknown = match self.ring().unwrap(wrapped) {
            Err(unknown @ KeyEncryptionError::UnknownKey(_)) => unknown,
            done => return done,
        };
        // A file that does not read now leaves the keys of before: the missing one is what is told.
        let Ok(fresh) = KeyRing::load(&self.path) else { return Err(unknown) };
        let fresh = Arc::new(fresh);
        let opened = fresh.unwrap(wrapped)?;
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretBytes;
    use crate::seal::{OpenError, open, seal};

    #[test]
    fn a_key_that_came_into_the_file_later_opens_and_an_unknown_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let early = KeyFile::load_or_make(&path).unwrap();
        KeyRing::rotate(&path).unwrap();
        let later = KeyFile::load(&path).unwrap();
        let value = SecretBytes::new(b"correct horse".to_vec());
        let sealed = seal(&later, &value, b"place").unwrap();
        assert_eq!(open(&early, &sealed, b"place").unwrap().expose(), value.expose());
        assert_eq!(early.newest(), later.newest());
        let other = seal(&KeyRing::generate().unwrap(), &value, b"place").unwrap();
        let unknown = |keys| open(keys, &other, b"place").unwrap_err();
        assert!(matches!(unknown(&early), OpenError::Key(KeyEncryptionError::UnknownKey(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(unknown(&early), OpenError::Key(KeyEncryptionError::UnknownKey(_))));
    }
}
