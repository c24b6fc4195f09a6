//! What a group is: who is in it.

use skerry_api::{Mask, Rules};
use skerry_model::{Fault, GroupRef, UserRef};
use skerry_proto::registry::v1::{Group, GroupSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Store, Txn};

use crate::names::{NAMES_MAX, check_names};

/// The rules of groups.
#[derive(Debug, Clone)]
pub struct GroupRules {
    store: Store,
}

impl GroupRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Rules for GroupRules {
    type Record = stored::GroupRecord;
    type Spec = GroupSpec;
    type Resource = Group;

    const FIELD: &'static str = "group";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.members"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::GroupRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &GroupRef, record: &stored::GroupRecord) -> Result<GroupSpec, Fault> {
        Ok(GroupSpec { members: record.members.clone() })
    }

    fn merge(stored: Option<&GroupSpec>, sent: &Group, mask: &Mask) -> Result<GroupSpec, Fault> {
        let mut spec = stored.cloned().unwrap_or_default();
        if mask.covers("spec.members") {
            spec.members = sent.spec.clone().unwrap_or_default().members;
        }
        check_names("group.spec.members", &spec.members, NAMES_MAX, UserRef::parse)?;
        Ok(spec)
    }

    async fn write(
        &self,
        _: &GroupRef,
        record: &mut stored::GroupRecord,
        spec: &GroupSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        record.members.clone_from(&spec.members);
        Ok(txn)
    }

    fn resource(metadata: Metadata, spec: GroupSpec) -> Group {
        Group { metadata: Some(metadata), spec: Some(spec) }
    }
}
