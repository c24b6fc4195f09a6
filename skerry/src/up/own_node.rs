//! This machine's node where the authority is `up`'s own: the machine makes its keys, and the node's record is told of them. Nobody else has to
//! approve it, as whoever runs `up` has the authority in hand.

use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;
use bytes::Bytes;
use skerry_api::{admit, audit, ensure_project};
use skerry_identity::KeyId;
use skerry_identity::hpke::HpkePublicKey;
use skerry_identity::key_store::{FileKeyStore, KeyStore as _};
use skerry_model::{Code, NodeRef, time};
use skerry_proto::store::v1::{Meta, NodeRecord};
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::keys::Counted;
use skerry_store::{Act, Key, Store, Txn, TxnError};

/// How often a transaction that somebody else came before is tried again.
const ATTEMPTS_MAX: u32 = 5;

/// The machine's keys.
#[derive(Debug)]
pub(super) struct OwnKeys {
    key_id: KeyId,
    sealing_key: HpkePublicKey,
    /// Whether they were made just now.
    fresh: bool,
}

impl OwnKeys {
    /// Those in `directory`, made if they are not there.
    pub(super) fn load_or_make(directory: &Path) -> anyhow::Result<Self> {
        let fresh = !directory.join("tls.key").exists();
        let keys = FileKeyStore::new(directory);
        let key_id = keys.signing_key()?.public_key().id();
        Ok(Self { key_id, sealing_key: keys.opening_key()?.public_key(), fresh })
    }

    /// Puts them into the node's record. One that is there and has no key, or another, is changed only for keys that were just made: an
    /// operator who has struck a key out means it.
    ///
    /// Whoever runs `up` with a project means it: it is made if it is not there. A quota that has no room for this machine holds up nothing
    /// else: it is a node when there is room, at a later look.
    pub(super) async fn enter(&mut self, store: &Store, node: &NodeRef) -> anyhow::Result<()> {
        if self.try_to_enter(store, node).await? {
            self.fresh = false;
        }
        Ok(())
    }

    /// Whether they are in the record now, or are not meant to be.
    async fn try_to_enter(&self, store: &Store, node: &NodeRef) -> anyhow::Result<bool> {
        let key = Key::<NodeRecord>::of(node);
        for _ in 0..ATTEMPTS_MAX {
            let known = store.get(&key).await?;
            let txn = match known {
                None => {
                    ensure_project(store, &node.project).await?;
                    let txn = Txn::new().when_absent(&key).put(&key, &self.of_new_node());
                    let txn = txn.audit(act(node, AuditOutcome::Created));
                    match admit(store, &node.project, &[(Counted::Nodes, 1)], txn).await {
                        Ok(txn) => txn,
                        Err(fault) if fault.code == Code::ResourceExhausted => {
                            tracing::warn!(%node, "this machine is no node yet: {fault}");
                            return Ok(false);
                        }
                        Err(fault) => return Err(fault.into()),
                    }
                }
                Some(known) if self.fresh && *known.value.key_id != *self.key_id.as_bytes() => {
                    let record = self.entered(known.value.clone());
                    let txn = Txn::new().when_same(&known).put(&key, &record);
                    txn.audit(act(node, AuditOutcome::Updated))
                }
                Some(_) => return Ok(true),
            };
            match store.commit(txn).await {
                Ok(_) => return Ok(true),
                Err(TxnError::Conflict(_) | TxnError::Indeterminate { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("too many others write the record of {node}")
    }

    fn of_new_node(&self) -> NodeRecord {
        let meta = Meta {
            uid: uuid::Uuid::new_v4().to_string(),
            create_time: Some(time::to_timestamp(SystemTime::now())),
            generation: 1,
            ..Meta::default()
        };
        self.entered(NodeRecord { meta: Some(meta), ..NodeRecord::default() })
    }

    fn entered(&self, record: NodeRecord) -> NodeRecord {
        NodeRecord {
            key_id: Bytes::copy_from_slice(self.key_id.as_bytes()),
            sealing_key: Bytes::copy_from_slice(self.sealing_key.as_bytes()),
            next_key_id: Bytes::new(),
            ..record
        }
    }
}

/// What the audit log says of it: nobody called.
fn act(node: &NodeRef, outcome: AuditOutcome) -> Act {
    let act = Act::new(audit::itself("skerry"), "skerry up", node.project.clone(), node.to_string(), outcome);
    act.detail("this machine's own keys")
}

#[cfg(test)]
mod tests {
    use skerry_etcd_embedded::{Config, EmbeddedEtcd};
    use skerry_model::{NodeName, ProjectName, ProjectRef};
    use skerry_proto::store::v1::{ProjectRecord, QuotaRecord};
    use skerry_store::{StoreConfig, Target};

    use super::*;

    #[tokio::test]
    async fn new_keys_are_entered_and_a_key_that_was_struck_out_stays_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = EmbeddedEtcd::open(Config::new(dir.path().join("etcd"))).await.expect("a store");
        let channel = etcd.serve_in_process().await.expect("served");
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.expect("connected");
        let node = NodeRef {
            project: ProjectName::parse("default").expect("a name"),
            node: NodeName::parse("n1").expect("a name"),
        };
        let key = Key::<NodeRecord>::of(&node);
        let record = async || store.get(&key).await.expect("read").expect("there");

        // A node of before has a record and no key.
        let labels = [("site".to_owned(), "oslo".to_owned())].into();
        let meta = Meta { uid: "u1".to_owned(), labels, ..Meta::default() };
        let before = NodeRecord { meta: Some(meta.clone()), ..NodeRecord::default() };
        store.commit(Txn::new().when_absent(&key).put(&key, &before)).await.expect("written");
        let mut keys = OwnKeys::load_or_make(&dir.path().join("identity")).expect("keys");
        keys.enter(&store, &node).await.expect("entered");
        let entered = record().await;
        assert_eq!(*entered.value.key_id, *keys.key_id.as_bytes());
        assert_eq!(*entered.value.sealing_key, *keys.sealing_key.as_bytes());
        assert_eq!(entered.value.meta, Some(meta));

        let struck = NodeRecord { key_id: Bytes::new(), ..entered.value.clone() };
        store.commit(Txn::new().when_same(&entered).put(&key, &struck)).await.expect("written");
        keys.enter(&store, &node).await.expect("nothing to do");
        let mut again = OwnKeys::load_or_make(&dir.path().join("identity")).expect("the same keys");
        again.enter(&store, &node).await.expect("nothing to do");
        assert!(record().await.value.key_id.is_empty());

        // Where its record is gone the machine is a new node.
        store.commit(Txn::new().when_same(&record().await).delete(&key)).await.expect("deleted");
        again.enter(&store, &node).await.expect("entered");
        assert_eq!(*record().await.value.key_id, *keys.key_id.as_bytes());
        store.close().await;
        etcd.close().await;
    }

    #[tokio::test]
    async fn a_full_project_holds_up_nothing_and_has_the_machine_when_there_is_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = EmbeddedEtcd::open(Config::new(dir.path().join("etcd"))).await.expect("a store");
        let channel = etcd.serve_in_process().await.expect("served");
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.expect("connected");
        let node = NodeRef::parse("projects/shop/nodes/n1").expect("a name");
        let project = ProjectRef { project: node.project.clone() };
        let limit = async |nodes| {
            let quota = Some(QuotaRecord { nodes, ..QuotaRecord::default() });
            let record = ProjectRecord { quota, ..ProjectRecord::default() };
            store.commit(Txn::new().put(&Key::of(&project), &record)).await.expect("written");
        };
        let key = Key::<NodeRecord>::of(&node);
        limit(Some(0)).await;
        let mut keys = OwnKeys::load_or_make(&dir.path().join("identity")).expect("keys");
        keys.enter(&store, &node).await.expect("told in the log");
        assert!(store.get(&key).await.expect("read").is_none());
        limit(Some(1)).await;
        keys.enter(&store, &node).await.expect("entered");
        assert!(store.get(&key).await.expect("read").is_some());
        store.close().await;
        etcd.close().await;
    }
}
