//! What a role binding is: who has a role.

use skerry_api::{Mask, Rules};
use skerry_model::{Fault, GroupRef, RoleBindingRef, UserRef};
use skerry_proto::registry::v1::{Role, RoleBinding, RoleBindingSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Store, Txn};

use crate::names::{NAMES_MAX, check_names};

/// The rules of role bindings.
#[derive(Debug, Clone)]
pub struct RoleBindingRules {
    store: Store,
}

impl RoleBindingRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// The spec that a record stands for.
pub fn binding_spec(record: &stored::RoleBindingRecord) -> RoleBindingSpec {
    let role = Role::try_from(record.role).unwrap_or_default();
    RoleBindingSpec { role: role.into(), users: record.users.clone(), groups: record.groups.clone() }
}

impl Rules for RoleBindingRules {
    type Record = stored::RoleBindingRecord;
    type Spec = RoleBindingSpec;
    type Resource = RoleBinding;

    const FIELD: &'static str = "role_binding";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.role", "spec.users", "spec.groups"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::RoleBindingRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(
        &self,
        _: &RoleBindingRef,
        record: &stored::RoleBindingRecord,
    ) -> Result<RoleBindingSpec, Fault> {
        Ok(binding_spec(record))
    }

    fn merge(
        stored: Option<&RoleBindingSpec>,
        sent: &RoleBinding,
        mask: &Mask,
    ) -> Result<RoleBindingSpec, Fault> {
        let mut spec = stored.cloned().unwrap_or_default();
        let sent = sent.spec.clone().unwrap_or_default();
        if mask.covers("spec.role") {
            spec.role = sent.role;
        }
        if mask.covers("spec.users") {
            spec.users = sent.users;
        }
        if mask.covers("spec.groups") {
            spec.groups = sent.groups;
        }
        if !matches!(Role::try_from(spec.role), Ok(Role::Viewer | Role::Operator | Role::Admin)) {
            return Err(Fault::invalid_field("role_binding.spec.role", "use VIEWER, OPERATOR or ADMIN"));
        }
        check_names("role_binding.spec.users", &spec.users, NAMES_MAX, UserRef::parse)?;
        check_names("role_binding.spec.groups", &spec.groups, NAMES_MAX, GroupRef::parse)?;
        Ok(spec)
    }

    async fn write(
        &self,
        _: &RoleBindingRef,
        record: &mut stored::RoleBindingRecord,
        spec: &RoleBindingSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        record.role = spec.role;
        record.users.clone_from(&spec.users);
        record.groups.clone_from(&spec.groups);
        Ok(txn)
    }

    fn resource(metadata: Metadata, spec: RoleBindingSpec) -> RoleBinding {
        RoleBinding { metadata: Some(metadata), spec: Some(spec) }
    }
}
