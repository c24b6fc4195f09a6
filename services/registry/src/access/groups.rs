//! `GroupService`: what goes with a group, and the handlers. What a group means is in `skerry-resources`.

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, Update, reply};
use skerry_model::{Fault, GroupRef};
use skerry_proto::registry::v1::group_service_server::GroupService;
use skerry_proto::registry::v1::{self as pb};
use skerry_resources::GroupRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Txn};
use tonic::{Request, Response, Status};

use super::shown::Shown;
use super::{named, outcome};

/// The handlers.
#[derive(Clone)]
pub(crate) struct Groups {
    pub(crate) rules: GroupRules,
    pub(crate) shown: Arc<Shown>,
}

impl Kind for Groups {
    type Rules = GroupRules;

    fn rules(&self) -> &GroupRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
    }

    fn remove(&self, name: &GroupRef, txn: Txn, caused: &Caused) -> Result<Txn, Fault> {
        named::nowhere(name, &self.shown.access.mirror().snapshot(), caused, txn)
    }
}

#[tonic::async_trait]
impl GroupService for Groups {
    async fn create_group(
        &self,
        request: Request<pb::CreateGroupRequest>,
    ) -> Result<Response<pb::CreateGroupResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.GroupService/CreateGroup";
        let pb::CreateGroupRequest { parent, group, validate_only, .. } = request;
        let create = Create { parent, resource: group.as_ref(), validate_only: *validate_only };
        let made =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(made.map(|group| pb::CreateGroupResponse { group: Some(group) }))
    }

    async fn get_group(
        &self,
        request: Request<pb::GetGroupRequest>,
    ) -> Result<Response<pb::GetGroupResponse>, Status> {
        let group = async { skerry_api::read(self, &GroupRef::parse(&request.get_ref().name)?).await };
        reply(group.await.map(|group| pb::GetGroupResponse { group: Some(group) }))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        let pb::ListGroupsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shown.groups, parent, label_selector, *page_size, page_token).await;
        reply(
            page.map(|page| pb::ListGroupsResponse {
                groups: page.items,
                next_page_token: page.next_page_token,
            }),
        )
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::UpdateGroupResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.GroupService/UpdateGroup";
        let update = Update {
            resource: request.group.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(
            done.map(|(group, came)| pb::UpdateGroupResponse { group: Some(group), outcome: outcome(came) }),
        )
    }

    async fn delete_group(
        &self,
        request: Request<pb::DeleteGroupRequest>,
    ) -> Result<Response<pb::DeleteGroupResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.GroupService/DeleteGroup";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteGroupResponse {}))
    }
}
