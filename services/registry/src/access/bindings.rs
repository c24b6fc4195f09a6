//! `RoleBindingService`: what is a binding's own in the ways of `skerry-api`, and the handlers.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, Mask, Update, reply};
use skerry_model::{Fault, GroupRef, RoleBindingRef, UserRef};
use skerry_proto::registry::v1::role_binding_service_server::RoleBindingService;
use skerry_proto::registry::v1::{self as pb, Role, RoleBinding, RoleBindingSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use super::shown::{Shown, binding_spec, check_names};
use super::{NAMES_MAX, outcome};

/// The handlers.
#[derive(Clone)]
pub(crate) struct Bindings {
    pub(crate) shown: Arc<Shown>,
    pub(crate) store: Store,
}

impl Kind for Bindings {
    type Record = stored::RoleBindingRecord;
    type Spec = RoleBindingSpec;
    type Resource = RoleBinding;

    const FIELD: &'static str = "role_binding";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.role", "spec.users", "spec.groups"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
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

    fn remove(&self, _: &RoleBindingRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        Ok(txn)
    }

    fn show(&self, _: &RoleBindingRef, metadata: Metadata, spec: RoleBindingSpec) -> RoleBinding {
        RoleBinding { metadata: Some(metadata), spec: Some(spec) }
    }
}

#[tonic::async_trait]
impl RoleBindingService for Bindings {
    async fn create_role_binding(
        &self,
        request: Request<pb::CreateRoleBindingRequest>,
    ) -> Result<Response<pb::CreateRoleBindingResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.RoleBindingService/CreateRoleBinding";
        let pb::CreateRoleBindingRequest { parent, role_binding, validate_only, .. } = request;
        let create = Create { parent, resource: role_binding.as_ref(), validate_only: *validate_only };
        let made =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(made.map(|binding| pb::CreateRoleBindingResponse { role_binding: Some(binding) }))
    }

    async fn get_role_binding(
        &self,
        request: Request<pb::GetRoleBindingRequest>,
    ) -> Result<Response<pb::GetRoleBindingResponse>, Status> {
        let binding =
            async { skerry_api::read(self, &RoleBindingRef::parse(&request.get_ref().name)?).await };
        reply(binding.await.map(|binding| pb::GetRoleBindingResponse { role_binding: Some(binding) }))
    }

    async fn list_role_bindings(
        &self,
        request: Request<pb::ListRoleBindingsRequest>,
    ) -> Result<Response<pb::ListRoleBindingsResponse>, Status> {
        let pb::ListRoleBindingsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shown.bindings, parent, label_selector, *page_size, page_token)
                .await;
        reply(page.map(|page| pb::ListRoleBindingsResponse {
            role_bindings: page.items,
            next_page_token: page.next_page_token,
        }))
    }

    async fn update_role_binding(
        &self,
        request: Request<pb::UpdateRoleBindingRequest>,
    ) -> Result<Response<pb::UpdateRoleBindingResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.RoleBindingService/UpdateRoleBinding";
        let update = Update {
            resource: request.role_binding.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(binding, came)| pb::UpdateRoleBindingResponse {
            role_binding: Some(binding),
            outcome: outcome(came),
        }))
    }

    async fn delete_role_binding(
        &self,
        request: Request<pb::DeleteRoleBindingRequest>,
    ) -> Result<Response<pb::DeleteRoleBindingResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.RoleBindingService/DeleteRoleBinding";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteRoleBindingResponse {}))
    }
}
