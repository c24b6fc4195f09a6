//! Secrets on their way to nodes: opened, sealed to each node that uses them, and written before the assignment that names them.
//!
//! A gateway reads what is sealed and can open nothing. What a node no longer uses goes with the assignment that used it; what that leaves,
//! `gc` finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_identity::SecretBytes;
use skerry_identity::hpke::{HpkePublicKey, HpkeSealError, SealContext, seal_to};
use skerry_model::{ContentHash, NodeRef, SealId, SecretName, SecretRef};
use skerry_placement::SealedSecret;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{SealedSecretRef, SecretRevisionRef};
use skerry_store::{Key, Leadership, Snapshot, Store, Txn};
use tracing::warn;

use crate::follow::Shared;
use crate::writes::{Unsettled, secrets};

/// Most secrets that are sealed in one pass, of however many nodes: what they take in memory until they are written.
const SEALED_PER_PASS: usize = 256;

/// To what the secrets of a node are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealing {
    key: HpkePublicKey,
    node_uid: String,
}

impl Sealing {
    /// Of a node, if it has a key. One that is none counts as if there were none.
    pub(crate) fn of(record: &stored::NodeRecord) -> Option<Self> {
        let key = HpkePublicKey::from_bytes(&record.sealing_key).ok()?;
        Some(Self { key, node_uid: record.meta.as_ref()?.uid.clone() })
    }

    /// What names it: another key, or another node of the same name, has another.
    pub(crate) fn id(&self) -> SealId {
        let hash = ContentHash::of(
            &[b"skerry seal 1 ", self.key.as_bytes().as_slice(), self.node_uid.as_bytes()].concat(),
        );
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        SealId::from_bytes(id)
    }
}

/// What came of sealing for some nodes.
pub(crate) struct Sealed {
    /// Nodes whose assignment can be written: all that it names is sealed.
    pub(crate) ready: Vec<Unsettled>,
    /// How many nodes something could not be sealed to.
    pub(crate) failed: usize,
}

/// Seals to each node what its new assignment names and its old one did not: what that named was sealed before it was written.
pub(crate) async fn seal_new(
    shared: &Shared,
    store: &Store,
    leadership: &Leadership,
    open: Vec<Unsettled>,
) -> Sealed {
    let mut pass = Pass { shared, snapshot: shared.mirror.snapshot(), opened: BTreeMap::new() };
    let (mut ready, mut failed, mut sealed) = (Vec::new(), 0, 0);
    for node in open {
        let new: Vec<(SecretName, SealedSecret)> = {
            let before = secrets(&node.before, &node.images_before);
            let placed = node.placed.as_deref().map(|placed| secrets(placed, &node.images));
            placed.unwrap_or_default().difference(&before).cloned().collect()
        };
        // The rest waits for the next pass.
        if sealed > 0 && sealed + new.len() > SEALED_PER_PASS {
            break;
        }
        sealed += new.len();
        match pass.seal(&node.node, &new) {
            Ok(txns) => {
                if write(store, leadership, &node.node, txns).await {
                    ready.push(node);
                } else {
                    failed += 1;
                }
            }
            Err(why) => {
                warn!(node = %node.node, why, "secrets could not be sealed to a node; its assignment waits");
                failed += 1;
            }
        }
    }
    Sealed { ready, failed }
}

/// One pass: each secret is opened once.
struct Pass<'a> {
    shared: &'a Shared,
    snapshot: Arc<Snapshot>,
    opened: BTreeMap<SecretRevisionRef, SecretBytes>,
}

impl Pass<'_> {
    fn seal(&mut self, node: &NodeRef, new: &[(SecretName, SealedSecret)]) -> Result<Vec<Txn>, String> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let sealing = self.shared.world().sealing(node).ok_or("it has no sealing key any more")?;
        let mut txns = Vec::with_capacity(new.len());
        for (name, SealedSecret { version, seal }) in new {
            if sealing.id() != *seal {
                return Err("it has another sealing key by now".to_owned());
            }
            let secret = SecretRef { project: node.project.clone(), secret: name.clone() };
            let plaintext = self.open(SecretRevisionRef { secret, version: *version })?;
            let version_text = version.to_string();
            let context = SealContext {
                project: node.project.as_str(),
                node_uid: &sealing.node_uid,
                secret: name.as_str(),
                version: &version_text,
            };
            let sealed = match seal_to(&sealing.key, &context, plaintext) {
                Ok(sealed) => sealed.into(),
                Err(error) => {
                    if error == HpkeSealError::Key {
                        self.shared.refuse_sealing(node);
                    }
                    return Err(error.to_string());
                }
            };
            let key =
                Key::of(&SealedSecretRef { node: node.clone(), secret: name.clone(), version: *version });
            let record = stored::SealedSecretRecord {
                sealed,
                node_uid: sealing.node_uid.clone(),
                seal: seal.to_string(),
            };
            let of_node = Key::<stored::NodeRecord>::of(node);
            txns.push(Txn::new().when_exists(&of_node).put(&key, &record));
        }
        Ok(txns)
    }

    fn open(&mut self, name: SecretRevisionRef) -> Result<&SecretBytes, String> {
        use std::collections::btree_map::Entry;
        let key = Key::<stored::SecretRevisionRecord>::of(&name);
        match self.opened.entry(name) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let stored = self.snapshot.get(&key).map_err(|error| error.to_string())?;
                let stored = stored.ok_or_else(|| format!("{key} is gone"))?;
                Ok(vacant.insert(self.shared.keys.open(&key, &stored.value.sealed)?))
            }
        }
    }
}

/// Whether all was written.
async fn write(store: &Store, leadership: &Leadership, node: &NodeRef, txns: Vec<Txn>) -> bool {
    for result in store.commit_all(txns, Some(leadership)).await {
        if let Err(error) = result {
            warn!(%node, %error, "what is sealed to a node could not be written; it is tried again");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use skerry_identity::hpke::{HpkeKeyPair, OpeningKey as _};

    use super::*;

    #[test]
    fn another_key_or_another_node_of_the_name_has_another_seal() {
        let of = |uid: &str, key: &HpkePublicKey| {
            let meta = stored::Meta { uid: uid.to_owned(), ..Default::default() };
            let sealing_key = key.as_bytes().to_vec().into();
            let record = stored::NodeRecord { meta: Some(meta), sealing_key, ..Default::default() };
            Sealing::of(&record).unwrap().id()
        };
        let keys =
            [HpkeKeyPair::generate().unwrap(), HpkeKeyPair::generate().unwrap()].map(|key| key.public_key());
        assert_eq!(of("a", &keys[0]), of("a", &keys[0]));
        assert_ne!(of("a", &keys[0]), of("a", &keys[1]));
        assert_ne!(of("a", &keys[0]), of("b", &keys[0]));
        assert_eq!(Sealing::of(&stored::NodeRecord::default()), None, "no key");
    }
}
