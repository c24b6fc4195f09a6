//! The roots that a service trusts are those of the authority's record in the store, for as long as there is one: a new root counts, and a
//! retired one counts no more, as soon as the mirror has seen the record. The service's file of authorities is where it begins.
//!
//! While the store does not answer, what was known last holds. Where there is no record, certificates come from elsewhere and the file decides.

use std::sync::Arc;

use skerry_identity::TrustBundle;
use skerry_proto::store::v1::AuthorityRecord;
use skerry_rpc::{TlsFiles, TlsFilesError};
use skerry_store::keys::TheAuthority;
use skerry_store::{Key, Mirror, MirrorConfig, Snapshot, Store, WaitError};

/// Keeps what a service trusts in step with the store.
#[derive(Debug)]
pub struct StoreRoots {
    /// Absent: there is no TLS.
    kept: Option<(Mirror, Arc<TlsFiles>)>,
}

/// Why the store's roots cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The record was not read.
    #[error("reading the authority from the store: {0}")]
    Store(#[from] WaitError),
    /// The own certificate is no certificate of that authority.
    #[error(transparent)]
    Files(#[from] TlsFilesError),
}

impl StoreRoots {
    /// Has `files` trust what the record says now, and waits to be kept by [`StoreRoots::follow`]. To be done before anybody is served.
    pub async fn start(store: &Store, files: Option<&Arc<TlsFiles>>) -> Result<Self, RootsError> {
        let Some(files) = files else { return Ok(Self { kept: None }) };
        let mirror = Mirror::start(store, MirrorConfig::new().family::<AuthorityRecord>());
        mirror.ready().await?;
        if let Some(bundle) = bundle(&mirror.snapshot()) {
            files.trust_roots(bundle)?;
        }
        Ok(Self { kept: Some((mirror, Arc::clone(files))) })
    }

    /// Follows the store until `ending`.
    pub async fn follow(self, ending: impl Future<Output = ()>) {
        let Some((mirror, files)) = self.kept else { return };
        crate::follow(&mirror, ending, |cursor| {
            let delta = mirror.changes(cursor);
            match bundle(&delta.snapshot).map(|bundle| files.trust_roots(bundle)) {
                Some(Ok(true)) => {
                    tracing::info!("the roots of the authority have changed and count from the next handshake on");
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "the roots in the store are not trusted: those of before still are");
                }
                Some(Ok(false)) | None => {}
            }
            delta.cursor
        })
        .await;
    }
}

/// The roots of the record, if there is one. One that cannot be read changes nobody's trust.
fn bundle(snapshot: &Snapshot) -> Option<TrustBundle> {
    let entry = snapshot.entry(&Key::<AuthorityRecord>::of(&TheAuthority))?;
    let record = entry.decode::<AuthorityRecord>().map_err(|error| error.to_string());
    let bundle = record
        .and_then(|record| TrustBundle::from_der(&record.value.roots).map_err(|error| error.to_string()));
    bundle
        .inspect_err(|error| tracing::warn!(error, "the roots in the authority's record cannot be read"))
        .ok()
}
