//! What the store says of the installation's authority: whether there is one, and which roots agents shall trust.

use std::sync::{Mutex, PoisonError};

use skerry_identity::TrustBundle;
use skerry_proto::store::v1::AuthorityRecord;
use skerry_store::keys::TheAuthority;
use skerry_store::{Key, Mirror, StoreVersion};
use skerry_sync::Roots;

/// The authority's roots as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    read: Mutex<Option<(StoreVersion, Option<Roots>)>>,
}

/// Whether this installation has an authority: then a node is its record's key.
pub(crate) fn has_authority(mirror: &Mirror) -> bool {
    mirror.snapshot().entry(&Key::<AuthorityRecord>::of(&TheAuthority)).is_some()
}

impl Trusted {
    /// The roots that are trusted now. A record that cannot be read is told once, and changes nobody's trust.
    pub(crate) fn roots(&self, mirror: &Mirror) -> Option<Roots> {
        let snapshot = mirror.snapshot();
        let entry = snapshot.entry(&Key::<AuthorityRecord>::of(&TheAuthority))?;
        let version = snapshot.version_of(entry.mod_revision);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, roots)) = &*read
            && *known == version
        {
            return roots.clone();
        }
        let roots = entry.decode::<AuthorityRecord>().ok().and_then(|entry| parse(&entry.value));
        if roots.is_none() {
            tracing::warn!("the roots in the authority's record cannot be read: no agent is told of them");
        }
        *read = Some((version, roots.clone()));
        roots
    }
}

fn parse(record: &AuthorityRecord) -> Option<Roots> {
    let bundle = TrustBundle::from_der(&record.roots).ok()?;
    let digest = bundle.digest().to_vec().into();
    Some(Roots { digest, der: record.roots.clone() })
}
