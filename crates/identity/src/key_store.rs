//! Where the keys of this machine are: a node makes its own and they never leave it.
//!
//! [`KeyStore`] is a trait so that a TPM can implement it: the rest of Skerry asks for a key that signs and one that opens, and sees the
//! private half of neither. [`FileKeyStore`] keeps them in files of mode 0600.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::hpke::{HpkeKeyPair, OpeningKey};
use crate::key::{KeyError, KeyPair, SigningKey};
use crate::private_file::{self, PrivateFileError};

/// A machine's keys: each is made when it is first asked for, and the same ever after.
pub trait KeyStore: fmt::Debug + Send + Sync {
    /// The key that proves who the machine is.
    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyStoreError>;

    /// The key to which the machine's secrets are sealed.
    fn opening_key(&self) -> Result<Arc<dyn OpeningKey>, KeyStoreError>;
}

/// A key that could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// Its file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// What the file holds.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why it is no key.
        source: KeyError,
    },
    /// What another kind of store says.
    #[error("{0}")]
    Other(String),
}

/// Keys in files of one directory: `tls.key` and `hpke.key`, both PKCS#8 in PEM.
#[derive(Debug, Clone)]
pub struct FileKeyStore {
    directory: PathBuf,
}

impl FileKeyStore {
    /// The store in `directory`, which is made with mode 0700 when the first key is.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }
}

/// Loads the key in the file `path`, made there first if there is none. Of two processes that make it at once, one makes it.
pub fn load_or_make_key(path: &Path) -> Result<KeyPair, KeyStoreError> {
    load_or_make(path, KeyPair::from_pem, KeyPair::generate, |key| key.to_pem().as_bytes().to_vec())
}

fn load_or_make<K>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<K, KeyError>,
    make: impl FnOnce() -> Result<K, KeyError>,
    print: impl FnOnce(&K) -> Vec<u8>,
) -> Result<K, KeyStoreError> {
    let in_file = |source| KeyStoreError::Key { path: path.to_owned(), source };
    if let Some(bytes) = private_file::read(path)? {
        return parse(&bytes).map_err(in_file);
    }
    let key = make().map_err(in_file)?;
    if private_file::create(path, &zeroize::Zeroizing::new(print(&key)))? {
        return Ok(key);
    }
    let bytes = private_file::read(path)?
        .ok_or_else(|| KeyStoreError::Other(format!("{} appears and disappears", path.display())))?;
    parse(&bytes).map_err(in_file)
}

impl KeyStore for FileKeyStore {
    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyStoreError> {
        Ok(Arc::new(load_or_make_key(&self.directory.join("tls.key"))?))
    }

    fn opening_key(&self) -> Result<Arc<dyn OpeningKey>, KeyStoreError> {
        let key = load_or_make(
            &self.directory.join("hpke.key"),
            HpkeKeyPair::from_pem,
            || HpkeKeyPair::generate().map_err(KeyError::from),
            |key| key.to_pem().as_bytes().to_vec(),
        )?;
        Ok(Arc::new(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_same_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileKeyStore::new(dir.path().join("keys"));
        let id = store.signing_key().unwrap().public_key().id();
        let opening = store.opening_key().unwrap().public_key();
        let again = FileKeyStore::new(dir.path().join("keys"));
        assert_eq!(again.signing_key().unwrap().public_key().id(), id);
        assert_eq!(again.opening_key().unwrap().public_key(), opening);
    }

    #[test]
    fn of_many_that_make_a_key_at_once_all_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_make_key(&path).unwrap().public_key().id())).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_damaged_key_is_told_with_its_path_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        private_file::replace(&path, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .unwrap();
        let error = FileKeyStore::new(dir.path()).signing_key().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(private_file::read(&path).unwrap().unwrap().len(), 59);
    }
}
