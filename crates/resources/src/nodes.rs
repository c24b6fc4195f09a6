//! What a node is, as far as users decide: cordoned, tainted, drained, in which cluster.

use std::collections::BTreeMap;

use skerry_api::{Mask, Rules, Takes};
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::taint::check_taints;
use skerry_model::{ClusterName, ClusterRef, Fault, NodeRef};
use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::keys::Counted;
use skerry_store::{Store, Txn};

use crate::clusters::named_cluster;

/// The rules of nodes.
#[derive(Debug, Clone)]
pub struct NodeRules {
    store: Store,
}

impl NodeRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Rules for NodeRules {
    type Record = stored::NodeRecord;
    type Spec = NodeSpec;
    type Resource = Node;

    const FIELD: &'static str = "node";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.cordoned", "spec.taints", "spec.drain"];

    fn takes(_: &stored::NodeRecord) -> Takes {
        Takes { one_of: Some(Counted::Nodes), bytes: 0 }
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::NodeRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &NodeRef, record: &stored::NodeRecord) -> Result<NodeSpec, Fault> {
        Ok(NodeSpec { cordoned: record.cordoned, taints: record.taints.clone(), drain: record.drain })
    }

    fn merge(stored: Option<&NodeSpec>, sent: &Node, mask: &Mask) -> Result<NodeSpec, Fault> {
        let mut spec = stored.cloned().unwrap_or_default();
        let sent = sent.spec.clone().unwrap_or_default();
        if mask.covers("spec.cordoned") {
            spec.cordoned = sent.cordoned;
        }
        if mask.covers("spec.taints") {
            spec.taints = sent.taints;
        }
        if mask.covers("spec.drain") {
            spec.drain = sent.drain;
        }
        check_taints(&spec.taints)?;
        Ok(spec)
    }

    async fn write(
        &self,
        _: &NodeRef,
        record: &mut stored::NodeRecord,
        spec: &NodeSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        record.cordoned = spec.cordoned;
        record.taints.clone_from(&spec.taints);
        record.drain = spec.drain;
        Ok(txn)
    }

    /// The cluster that a node is put in is there, and stays until it is in it.
    async fn labelled(
        &self,
        name: &NodeRef,
        before: Option<&BTreeMap<String, String>>,
        after: &BTreeMap<String, String>,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let Some(cluster) = after.get(CLUSTER_LABEL) else { return Ok(txn) };
        if before.is_some_and(|before| before.get(CLUSTER_LABEL) == Some(cluster)) {
            return Ok(txn);
        }
        let field = format!("node.metadata.labels.{CLUSTER_LABEL}");
        let of = ClusterName::parse(cluster).map_err(|error| Fault::invalid_field(field, error))?;
        let of = ClusterRef { project: name.project.clone(), cluster: of };
        named_cluster(&self.store, &of, txn).await
    }

    fn resource(metadata: Metadata, spec: NodeSpec) -> Node {
        Node { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}
