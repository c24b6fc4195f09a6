//! `UserService`: what goes with a user, and the handlers. What a user means is in `skerry-resources`.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, Update, reply};
use skerry_model::{Fault, UserRef};
use skerry_proto::registry::v1::user_service_server::UserService;
use skerry_proto::registry::v1::{self as pb};
use skerry_resources::{UserRules, admin_needed, is_first_admin};
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use super::shown::Shown;
use super::{named, outcome};
use crate::authority::Issuer;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Users {
    pub(crate) rules: UserRules,
    pub(crate) shown: Arc<Shown>,
    pub(crate) store: Store,
    pub(crate) issuer: Issuer,
}

impl Kind for Users {
    type Rules = UserRules;

    fn rules(&self) -> &UserRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
    }

    fn remove(&self, name: &UserRef, txn: Txn, caused: &Caused) -> Result<Txn, Fault> {
        if is_first_admin(name) {
            return Err(admin_needed(name, "it cannot be deleted"));
        }
        named::nowhere(name, &self.shown.access.mirror().snapshot(), caused, txn)
    }
}

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::CreateUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/CreateUser";
        let pb::CreateUserRequest { parent, user, validate_only, .. } = request;
        let create = Create { parent, resource: user.as_ref(), validate_only: *validate_only };
        let made =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(made.map(|user| pb::CreateUserResponse { user: Some(user) }))
    }

    async fn get_user(
        &self,
        request: Request<pb::GetUserRequest>,
    ) -> Result<Response<pb::GetUserResponse>, Status> {
        let user = async { skerry_api::read(self, &UserRef::parse(&request.get_ref().name)?).await };
        reply(user.await.map(|user| pb::GetUserResponse { user: Some(user) }))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let pb::ListUsersRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shown.users, parent, label_selector, *page_size, page_token).await;
        reply(
            page.map(|page| pb::ListUsersResponse {
                users: page.items,
                next_page_token: page.next_page_token,
            }),
        )
    }

    async fn update_user(
        &self,
        request: Request<pb::UpdateUserRequest>,
    ) -> Result<Response<pb::UpdateUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/UpdateUser";
        let update = Update {
            resource: request.user.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(user, came)| pb::UpdateUserResponse { user: Some(user), outcome: outcome(came) }))
    }

    async fn delete_user(
        &self,
        request: Request<pb::DeleteUserRequest>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/DeleteUser";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteUserResponse {}))
    }

    async fn issue_certificate(
        &self,
        request: Request<pb::IssueCertificateRequest>,
    ) -> Result<Response<pb::IssueCertificateResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let caused = Caused::by("skerry.registry.v1.UserService/IssueCertificate", &request);
        reply(self.issue(&peer, request.get_ref(), &caused).await)
    }
}

#[cfg(test)]
mod tests;
