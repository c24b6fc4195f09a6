//! The key file: what opens the values of secrets, and seals them at rest. Only the scheduler has it.
//!
//! It is read again when something was sealed under a key that is not known yet: another replica's file was changed first.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prost::Message as _;
use skerry_identity::SecretBytes;
use skerry_identity::key_ring::{KeyRing, KeyRingError};
use skerry_identity::seal::{self, KeyEncryptionError, OpenError};
use skerry_model::{Code, Fault};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::SecretContent;
use skerry_store::Key;

/// What is answered where there is no key file.
const NO_KEY_FILE: &str = "this scheduler has no key file: start it with --key-file FILE";

/// The keys of this scheduler, if it was given a file. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SecretKeys(Option<Arc<File>>);

#[derive(Debug)]
struct File {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    ring: Arc<KeyRing>,
    /// When the file was changed last, as it was read.
    changed: Option<SystemTime>,
}

impl SecretKeys {
    /// No keys: secrets can be neither set nor given to nodes, and all else works.
    pub fn none() -> Self {
        Self(None)
    }

    /// Those in the file at `path`, which is there.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        let loaded = Loaded { changed: changed(path), ring: Arc::new(KeyRing::load(path)?) };
        Ok(Self(Some(Arc::new(File { path: path.to_owned(), loaded: Mutex::new(loaded) }))))
    }

    /// Those in the file at `path`, made with one key if there is none.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyRingError> {
        KeyRing::load_or_make(path)?;
        Self::load(path)
    }

    fn file(&self) -> Result<&File, Fault> {
        self.0.as_deref().ok_or_else(|| Fault::new(Code::FailedPrecondition, "NO_KEY_FILE", NO_KEY_FILE))
    }

    /// The keys as the file has them now. FAILED_PRECONDITION where there is no file, or it does not read.
    pub fn reload(&self) -> Result<Arc<KeyRing>, Fault> {
        let file = self.file()?;
        file.reload().map_err(|error| Fault::new(Code::FailedPrecondition, "KEY_FILE", error.to_string()))?;
        Ok(file.ring())
    }

    /// Seals the values of a secret for their place in the store.
    pub fn seal(
        &self,
        key: &Key<stored::SecretRevisionRecord>,
        content: &SecretContent,
    ) -> Result<Vec<u8>, Fault> {
        let ring = self.file()?.ring();
        seal(&ring, key, &SecretBytes::new(content.encode_to_vec()))
    }

    /// Opens what [`Self::seal`] sealed for that place. The error says what mends it.
    pub fn open(
        &self,
        key: &Key<stored::SecretRevisionRecord>,
        sealed: &[u8],
    ) -> Result<SecretBytes, String> {
        let file = self.0.as_deref().ok_or(NO_KEY_FILE)?;
        let opened = match seal::open(&*file.ring(), sealed, key.as_str().as_bytes()) {
            Err(OpenError::Key(KeyEncryptionError::UnknownKey(_))) if file.is_changed() => {
                file.reload().map_err(|error| error.to_string())?;
                seal::open(&*file.ring(), sealed, key.as_str().as_bytes())
            }
            opened => opened,
        };
        opened.map_err(|error| format!("{error} ({})", file.path.display()))
    }
}

impl File {
    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner).ring)
    }

    fn is_changed(&self) -> bool {
        changed(&self.path) != self.loaded.lock().unwrap_or_else(PoisonError::into_inner).changed
    }

    fn reload(&self) -> Result<(), KeyRingError> {
        let loaded = Loaded { changed: changed(&self.path), ring: Arc::new(KeyRing::load(&self.path)?) };
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The place in the store is sealed with the values: moved to another, they do not open.
pub fn seal(
    ring: &KeyRing,
    key: &Key<stored::SecretRevisionRecord>,
    content: &SecretBytes,
) -> Result<Vec<u8>, Fault> {
    seal::seal(ring, content, key.as_str().as_bytes()).map_err(|error| Fault::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skerry_model::{SecretRef, SecretVersion};
    use skerry_store::keys::SecretRevisionRef;

    use super::*;

    fn key(name: &str) -> Key<stored::SecretRevisionRecord> {
        let secret = SecretRef::parse(&format!("projects/p/secrets/{name}")).unwrap();
        Key::of(&SecretRevisionRef { secret, version: SecretVersion::from_bytes([7; 16]) })
    }

    fn contains(bytes: &[u8], what: &[u8]) -> bool {
        bytes.windows(what.len()).any(|window| window == what)
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_in_its_place_alone_and_shows_nothing(value in proptest::collection::vec(any::<u8>(), 8..200)) {
            let dir = tempfile::tempdir().unwrap();
            let keys = SecretKeys::load_or_make(&dir.path().join("key-ring")).unwrap();
            let content = SecretContent { data: [("k".to_owned(), value.clone().into())].into(), ..Default::default() };
            let sealed = keys.seal(&key("a"), &content).unwrap();
            prop_assert!(!contains(&sealed, &value));
            let opened = keys.open(&key("a"), &sealed).unwrap();
            prop_assert_eq!(SecretContent::decode(opened.expose()).unwrap(), content);
            prop_assert!(keys.open(&key("b"), &sealed).is_err());
        }
    }

    #[test]
    fn a_key_that_another_replica_has_already_is_found_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key-ring");
        let early = SecretKeys::load_or_make(&path).unwrap();
        KeyRing::rotate(&path).unwrap();
        let later = SecretKeys::load(&path).unwrap();
        let sealed = later.seal(&key("a"), &SecretContent::default()).unwrap();
        early.open(&key("a"), &sealed).unwrap();
        let other = SecretKeys::load_or_make(&dir.path().join("other")).unwrap();
        let why = other.open(&key("a"), &sealed).unwrap_err();
        assert!(why.contains("not known here") && why.contains("other"), "{why}");
    }

    #[test]
    fn without_a_file_the_remedy_is_named() {
        let fault = SecretKeys::none().seal(&key("a"), &SecretContent::default()).unwrap_err();
        assert_eq!((fault.code, fault.reason), (Code::FailedPrecondition, "NO_KEY_FILE"));
        assert!(fault.message.contains("--key-file"));
        assert!(SecretKeys::none().open(&key("a"), b"").unwrap_err().contains("--key-file"));
    }
}
