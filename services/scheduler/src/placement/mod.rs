//! `PlacementService`: why what shall run does not, and what a change would change.

mod explain;
mod plan;
mod way;

use std::sync::Arc;

use skerry_api::reply;
use skerry_model::{AppRef, Fault, NodeRef, ProjectName};
use skerry_proto::scheduler::v1 as pb;
use skerry_proto::scheduler::v1::placement_service_server::PlacementService;
use skerry_store::Store;
use tonic::{Request, Response, Status};

use crate::follow::Shared;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Placement {
    shared: Arc<Shared>,
    store: Store,
}

impl Placement {
    pub(crate) fn new(shared: Arc<Shared>, store: Store) -> Self {
        Self { shared, store }
    }
}

#[tonic::async_trait]
impl PlacementService for Placement {
    async fn explain_app(
        &self,
        request: Request<pb::ExplainAppRequest>,
    ) -> Result<Response<pb::ExplainAppResponse>, Status> {
        let explained = async {
            let request = request.get_ref();
            let app = AppRef::parse(&request.app).map_err(|error| Fault::invalid_field("app", error))?;
            let node = match request.node.as_str() {
                "" => None,
                text => Some(NodeRef::parse(text).map_err(|error| Fault::invalid_field("node", error))?),
            };
            if let Some(node) = node.as_ref().filter(|node| node.project != app.project) {
                let message = format!("{node} is not of the app's project, {}", app.project.parent());
                return Err(Fault::invalid_field("node", message));
            }
            skerry_api::known_project(&self.store, &self.shared.mirror, &app.project).await?;
            let size = skerry_api::page_size(request.page_size)?;
            let asked = explain::Asked {
                app: &app,
                node: node.as_ref(),
                stopped_only: request.stopped_only,
                size,
                after: &request.page_token,
            };
            explain::explain(&self.shared.world(), &asked)
        };
        reply(explained.await)
    }

    async fn plan_change(
        &self,
        request: Request<pb::PlanChangeRequest>,
    ) -> Result<Response<pb::PlanChangeResponse>, Status> {
        let planned = async {
            let request = request.get_ref();
            let project = ProjectName::parse_parent(&request.parent)
                .map_err(|error| Fault::invalid_field("parent", error))?;
            skerry_api::known_project(&self.store, &self.shared.mirror, &project).await?;
            let change = plan::Change::parse(&project, request)?;
            let planned = plan::prepare(&self.shared.world(), change)?;
            let reckoned = tokio::task::spawn_blocking(move || planned.reckon()).await;
            reckoned.map_err(|error| Fault::internal(format!("planning: {error}")))
        };
        reply(planned.await)
    }
}
