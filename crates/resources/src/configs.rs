//! What a config is: its content, and the revisions of that.

use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{Mask, Rules, Takes};
use skerry_model::config::ConfigSpec as Parsed;
use skerry_model::{ConfigRef, ContentHash, Fault, time};
use skerry_proto::scheduler::v1::{Config, ConfigSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::trace;
use skerry_store::keys::{ConfigRevisionRef, Counted};
use skerry_store::{Key, Store, Txn};
use tracing::Span;

use crate::apps::size_of;

/// The rules of configs.
#[derive(Debug, Clone)]
pub struct ConfigRules {
    store: Store,
}

impl ConfigRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Rules for ConfigRules {
    type Record = stored::ConfigRecord;
    type Spec = ConfigSpec;
    type Resource = Config;

    const FIELD: &'static str = "config";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.data", "spec.binary_data"];

    fn takes(config: &stored::ConfigRecord) -> Takes {
        Takes { one_of: Some(Counted::Configs), bytes: config.size_bytes }
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::ConfigRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, name: &ConfigRef, record: &stored::ConfigRecord) -> Result<ConfigSpec, Fault> {
        let hash = ContentHash::parse(&record.hash).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config: name.clone(), hash });
        // Gone only when the config was updated between the two reads, or deleted.
        let content = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?;
        ConfigSpec::decode(content.value.spec).map_err(|e| Fault::internal(format!("{name}: {e}")))
    }

    fn merge(stored: Option<&ConfigSpec>, sent: &Config, mask: &Mask) -> Result<ConfigSpec, Fault> {
        let sent = sent.spec.clone().unwrap_or_default();
        let mut spec = stored.cloned().unwrap_or_default();
        if mask.covers("spec.data") {
            spec.data = sent.data;
        }
        if mask.covers("spec.binary_data") {
            spec.binary_data = sent.binary_data;
        }
        Parsed::from_proto(&spec)?;
        Ok(spec)
    }

    async fn write(
        &self,
        name: &ConfigRef,
        record: &mut stored::ConfigRecord,
        spec: &ConfigSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        record.hash = hash.to_string();
        record.size_bytes = size_of(&bytes);
        record.trace_parent = trace::trace_parent(&Span::current());
        record.trace_time = (!record.trace_parent.is_empty()).then(|| time::to_timestamp(SystemTime::now()));
        let create_time = Some(time::to_timestamp(SystemTime::now()));
        // No field of a config needs a feature of an agent yet.
        let requires = Vec::new();
        let content = stored::ConfigRevisionRecord { spec: bytes.into(), create_time, requires };
        Ok(txn.put(&Key::of(&ConfigRevisionRef { config: name.clone(), hash }), &content))
    }

    fn resource(metadata: Metadata, spec: ConfigSpec) -> Config {
        Config { metadata: Some(metadata), spec: Some(spec) }
    }
}
