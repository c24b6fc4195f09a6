//! Where an installation's store, key file and authority directory are, as the flags say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use skerry_etcd_embedded::EmbeddedEtcd;
use skerry_identity::TrustDomain;
use skerry_identity::key_file::KeyFile;
use skerry_identity::seal::KeyEncryption;
use skerry_registry::authority::{AuthorityDir, AuthorityError, Changed, authority_key, init};
use skerry_store::{Store, StoreConfig, Target};

use crate::files::{DirectoryLock, make_store_dir};

/// The trust domain of an installation that nobody has named: `.internal` is nobody's in public.
pub(crate) const DEFAULT_DOMAIN: &str = "skerry.internal";

/// The key file in the data directory of `up`.
pub(crate) fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys")
}

/// The directory with the roots' keys there.
pub(crate) fn authority_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("authority")
}

/// The wrapping keys in the file `path`. `make`: a new file where there is none.
pub(crate) fn load_keys(path: &Path, make: bool) -> anyhow::Result<Arc<dyn KeyEncryption>> {
    let keys = if make { KeyFile::load_or_make(path) } else { KeyFile::load(path) };
    Ok(Arc::new(keys.with_context(|| format!("--key-file {}", path.display()))?))
}

/// The keys of this installation's authority: a new file is made only where there is no authority yet, as it would open none that is there.
pub(crate) async fn keys_for(store: &Store, path: &Path) -> anyhow::Result<Arc<dyn KeyEncryption>> {
    let record = store.get(&authority_key()).await.context("reading the authority")?;
    if record.is_some() && !path.exists() {
        bail!(
            "this store has an authority already, and {} is not there: name the file that it was made with by --key-file (SKERRY_KEY_FILE)",
            path.display()
        );
    }
    load_keys(path, record.is_none())
}

/// Makes the authority if there is none. One that is there keeps the trust domain that it has, unless another one is asked for.
pub(crate) async fn ensure_authority(
    store: &Store,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
    domain: Option<&TrustDomain>,
) -> Result<Changed, AuthorityError> {
    let usual = TrustDomain::parse(DEFAULT_DOMAIN).expect("a domain");
    match init(store, dir, keys, domain.unwrap_or(&usual)).await {
        Err(AuthorityError::Domain { found, .. }) if domain.is_none() => init(store, dir, keys, &found).await,
        done => done,
    }
}

/// A store that a command works on, and what must be held meanwhile.
pub(crate) struct Opened {
    pub(crate) store: Store,
    embedded: Option<(EmbeddedEtcd, DirectoryLock)>,
}

impl Opened {
    /// The etcd at `target`.
    pub(crate) async fn remote(target: Target) -> anyhow::Result<Self> {
        let store = Store::connect(StoreConfig::new(target).written_by("authority")).await?;
        Ok(Self { store, embedded: None })
    }

    /// The embedded etcd of a `skerry up` that does not run.
    pub(crate) async fn of_up(data_dir: &Path) -> anyhow::Result<Self> {
        if !data_dir.join("etcd").is_dir() {
            bail!("--data-dir {}: no `skerry up` has kept its store there", data_dir.display());
        }
        let lock = DirectoryLock::take(data_dir, "skerry up")?;
        let etcd = EmbeddedEtcd::open(skerry_etcd_embedded::Config::new(make_store_dir(data_dir)?)).await?;
        let channel = etcd.serve_in_process().await?;
        match Store::connect(StoreConfig::new(Target::Channel(channel)).written_by("authority")).await {
            Ok(store) => Ok(Self { store, embedded: Some((etcd, lock)) }),
            Err(error) => {
                etcd.close().await;
                Err(error.into())
            }
        }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
        if let Some((etcd, lock)) = self.embedded {
            etcd.close().await;
            drop(lock);
        }
    }
}
