//! Whose key is it: the nodes of the mirror by their keys, so that a machine that asks again is found without a look at all of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use skerry_identity::KeyId;
use skerry_model::{NodeName, NodeRef, ProjectName};
use skerry_proto::store::v1::NodeRecord;
use skerry_store::Entry;

/// The index. Two nodes with one key are a mistake of somebody's; the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    nodes: Mutex<BTreeMap<(ProjectName, KeyId), NodeName>>,
}

impl Keys {
    /// The node that had this key when the mirror saw it last. Who believes it looks at the store.
    pub(crate) fn node(&self, project: &ProjectName, key: &KeyId) -> Option<NodeRef> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.get(&(project.clone(), *key))?.clone();
        Some(NodeRef { project: project.clone(), node })
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A node's record has changed.
    pub(crate) fn changed(&self, name: &NodeRef, old: Option<&Entry>, new: Option<&Entry>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys_of(old) {
            let place = (name.project.clone(), key);
            if nodes.get(&place) == Some(&name.node) {
                nodes.remove(&place);
            }
        }
        for key in keys_of(new) {
            nodes.insert((name.project.clone(), key), name.node.clone());
        }
    }
}

fn keys_of(entry: Option<&Entry>) -> Vec<KeyId> {
    let record = entry.and_then(|entry| entry.decode::<NodeRecord>().ok());
    let keys = record.map(|record| [record.value.key_id, record.value.next_key_id]);
    keys.into_iter().flatten().filter_map(|key| KeyId::try_from(key.as_ref()).ok()).collect()
}
