//! The directory with the roots' keys: for each root a certificate and its key, sealed under the key file. Mode 0700, its files 0600.
//!
//! A root's key is written before its certificate, and both before the record in the store names the root. What a crash leaves behind is
//! therefore a root that nobody trusts yet, and the next try takes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use skerry_identity::authority::RootAuthority;
use skerry_identity::bundle::Root;
use skerry_identity::seal::{self, KeyEncryption};
use skerry_identity::{KeyId, KeyPair, SecretBytes, SigningKey as _, TrustDomain, private_file};

use super::record::life;
use super::{AuthorityError, ROOT_LIFE};

/// Where the keys of the roots are.
#[derive(Debug, Clone)]
pub struct AuthorityDir {
    path: PathBuf,
}

impl AuthorityDir {
    /// The directory at `path`, which is made when the first root is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root with this pin, if its key is here.
    pub(super) fn root(
        &self,
        pin: KeyId,
        keys: &dyn KeyEncryption,
    ) -> Result<Option<RootAuthority>, AuthorityError> {
        let Some(certificate) = private_file::read(&self.file(pin, "pem"))? else { return Ok(None) };
        let Some(sealed) = private_file::read(&self.file(pin, "key"))? else { return Ok(None) };
        let key = KeyPair::from_pem(seal::open(keys, &sealed, &aad(pin))?.expose())?;
        Ok(Some(RootAuthority::load(&certificate, Arc::new(key))?))
    }

    /// A root of `domain` that is to follow `newest`: one that a try before left here, or a new one.
    pub(super) fn next_root(
        &self,
        newest: Option<&Root>,
        domain: &TrustDomain,
        keys: &dyn KeyEncryption,
        now: SystemTime,
    ) -> Result<RootAuthority, AuthorityError> {
        let mut left: Option<RootAuthority> = None;
        for pin in self.pins()? {
            let Some(root) = self.root(pin, keys)? else { continue };
            if root.trusted().domain() != domain {
                let found = root.trusted().domain().clone();
                return Err(AuthorityError::ForeignDir { dir: self.to_string(), found });
            }
            // A root that was retired is older than those that are trusted now; what is younger was prepared and never used.
            let newest = left.as_ref().map(RootAuthority::trusted).or(newest);
            if newest.is_none_or(|newest| root.trusted().not_before() > newest.not_before()) {
                left = Some(root);
            }
        }
        left.map_or_else(|| self.make_root(domain, keys, now), Ok)
    }

    /// Seals the roots' keys that are here under the newest key. `true`: one was under an older one.
    pub(super) fn reseal(&self, keys: &dyn KeyEncryption) -> Result<bool, AuthorityError> {
        let mut changed = false;
        for pin in self.pins()? {
            let file = self.file(pin, "key");
            let Some(sealed) = private_file::read(&file)? else { continue };
            if seal::needs_reseal(keys, &sealed)? {
                let opened = seal::open(keys, &sealed, &aad(pin))?;
                private_file::replace(&file, &seal::seal(keys, &opened, &aad(pin))?)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn make_root(
        &self,
        domain: &TrustDomain,
        keys: &dyn KeyEncryption,
        now: SystemTime,
    ) -> Result<RootAuthority, AuthorityError> {
        let key = Arc::new(KeyPair::generate()?);
        let pin = key.public_key().id();
        let secret = SecretBytes::new(key.to_pem().as_bytes().to_vec());
        let sealed = seal::seal(keys, &secret, &aad(pin))?;
        let root = RootAuthority::create(domain, key, life(now, ROOT_LIFE))?;
        private_file::replace(&self.file(pin, "key"), &sealed)?;
        private_file::replace(&self.file(pin, "pem"), root.to_pem().as_bytes())?;
        Ok(root)
    }

    /// The roots whose certificates are here.
    fn pins(&self) -> Result<Vec<KeyId>, AuthorityError> {
        let failed = |source| AuthorityError::Dir { dir: self.to_string(), source };
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut pins = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let pin = name.to_str().and_then(|name| name.strip_prefix("root-")?.strip_suffix(".pem"));
            pins.extend(pin.and_then(|pin| KeyId::parse(pin).ok()));
        }
        pins.sort_unstable();
        Ok(pins)
    }

    fn file(&self, pin: KeyId, kind: &str) -> PathBuf {
        self.path.join(format!("root-{pin}.{kind}"))
    }
}

impl fmt::Display for AuthorityDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// What a root's key is sealed for: no file opens under another's name.
fn aad(pin: KeyId) -> Vec<u8> {
    format!("skerry root key {pin}").into_bytes()
}
