//! What a cluster is, as far as users decide. Who is in it is said by the nodes, by their label `skerry.dev/cluster`.

use skerry_api::{Etag, Mask, Rules, metadata_of};
use skerry_model::{ClusterRef, Code, Fault, NodeName, NodeRef};
use skerry_proto::registry::v1::{Cluster, ClusterSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Key, Store, Txn, Versioned};

/// The rules of clusters.
#[derive(Debug, Clone)]
pub struct ClusterRules {
    store: Store,
}

impl ClusterRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// A cluster as it is stored, without what is observed of it.
pub fn stored_cluster(name: &ClusterRef, record: &Versioned<stored::ClusterRecord>) -> Cluster {
    let etag = Etag { mod_revision: record.mod_revision };
    Cluster {
        metadata: Some(metadata_of(name, record.value.meta.as_ref(), etag)),
        spec: Some(ClusterSpec { failover_after: record.value.failover_after }),
        status: None,
    }
}

/// Adds to a transaction that names a cluster that it is there, if the transaction does not make it itself; FAILED_PRECONDITION if it is not.
pub async fn named_cluster(store: &Store, name: &ClusterRef, txn: Txn) -> Result<Txn, Fault> {
    let key = Key::<stored::ClusterRecord>::of(name);
    if txn.written(&key).is_some() {
        return Ok(txn);
    }
    if store.get(&key).await?.is_none() {
        let cluster = &name.cluster;
        let message = format!(
            "there is no {name}: make it first (skerry create cluster {cluster}, or a manifest of kind Cluster)"
        );
        return Err(Fault::new(Code::FailedPrecondition, "NO_CLUSTER", message));
    }
    Ok(txn.when_exists(&key))
}

impl Rules for ClusterRules {
    type Record = stored::ClusterRecord;
    type Spec = ClusterSpec;
    type Resource = Cluster;

    const FIELD: &'static str = "cluster";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.failover_after"];
    const IS_NAMED: bool = true;

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::ClusterRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &ClusterRef, record: &stored::ClusterRecord) -> Result<ClusterSpec, Fault> {
        Ok(ClusterSpec { failover_after: record.failover_after })
    }

    fn merge(stored: Option<&ClusterSpec>, sent: &Cluster, mask: &Mask) -> Result<ClusterSpec, Fault> {
        let mut spec = stored.copied().unwrap_or_default();
        if mask.covers("spec.failover_after") {
            spec.failover_after = sent.spec.unwrap_or_default().failover_after;
        }
        skerry_model::cluster::check(&spec)?;
        Ok(spec)
    }

    async fn write(
        &self,
        name: &ClusterRef,
        record: &mut stored::ClusterRecord,
        spec: &ClusterSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        record.failover_after = spec.failover_after;
        // A node alone is a cluster by its own name.
        let Ok(node) = NodeName::parse(name.cluster.as_str()) else { return Ok(txn) };
        let node = NodeRef { project: name.project.clone(), node };
        let key = Key::<stored::NodeRecord>::of(&node);
        if self.store.get(&key).await?.is_some() {
            let message = format!(
                "{node} has that name, and a node that is in no cluster is one of its own under it: use another name"
            );
            return Err(Fault::new(Code::FailedPrecondition, "NAME_OF_A_NODE", message));
        }
        Ok(txn.when_absent(&key))
    }

    fn resource(metadata: Metadata, spec: ClusterSpec) -> Cluster {
        Cluster { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}
