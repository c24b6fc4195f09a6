//! `RoleBindingService`: the handlers. What a binding means is in `skerry-resources`.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, Update, reply};
use skerry_model::{Fault, RoleBindingRef};
use skerry_proto::registry::v1::role_binding_service_server::RoleBindingService;
use skerry_proto::registry::v1::{self as pb};
use skerry_resources::RoleBindingRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Txn};
use tonic::{Request, Response, Status};

use super::outcome;
use super::shown::Shown;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Bindings {
    pub(crate) rules: RoleBindingRules,
    pub(crate) shown: Arc<Shown>,
}

impl Kind for Bindings {
    type Rules = RoleBindingRules;

    fn rules(&self) -> &RoleBindingRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
    }

    fn remove(&self, _: &RoleBindingRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        Ok(txn)
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
