//! `ProjectService`: what there is of a project, when it may go, and the handlers. What a project means is in `skerry-resources`.
//!
//! | module | job |
//! |---|---|
//! | `shown` | projects as clients see them, with what there is of each |
//! | `usage` | counts that, from the records: pure |
//! | `close` | before one is deleted: nothing is in it, and nothing comes any more |
//! | `adopt` | at the start: records for projects of before, counts that are right |

mod adopt;
mod close;
mod shown;
mod usage;

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, ResponseStream, Told, Update, audit, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, ProjectRef};
use skerry_proto::registry::v1::project_service_server::ProjectService;
use skerry_proto::registry::v1::{self as pb, ChangeType, Project};
use skerry_proto::store::v1 as stored;
use skerry_resources::ProjectRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::keys::InProject;
use skerry_store::{Mirror, Prefix, Store, Txn, WaitError};
use tonic::{Request, Response, Status};

pub(crate) use self::adopt::adopt;
pub(crate) use self::close::NOT_EMPTY;
use self::shown::Shown;
use crate::access::outcome;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Projects {
    rules: ProjectRules,
    shown: Arc<Shown>,
    store: Store,
    shutdown: Shutdown,
}

impl Projects {
    /// Reads what there is, then follows the store until `shutdown`.
    pub(crate) async fn start(store: &Store, shutdown: &Shutdown) -> Result<Self, WaitError> {
        let shown = Arc::new(Shown::new(store));
        shown.mirror.ready().await?;
        shutdown.spawn(shown::follow(Arc::clone(&shown), shutdown.clone()));
        let rules = ProjectRules::new(store.clone());
        Ok(Self { rules, shown, store: store.clone(), shutdown: shutdown.clone() })
    }

    /// What follows the records that are counted.
    pub(crate) fn mirror(&self) -> &Mirror {
        &self.shown.mirror
    }
}

impl Kind for Projects {
    type Rules = ProjectRules;

    fn rules(&self) -> &ProjectRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shown.mirror
    }

    /// All that is left of it: what its resources left behind, and what was asked in it. That nothing else is in it, `close` has seen to.
    fn remove(&self, name: &ProjectRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        fn all<R: InProject>(name: &ProjectRef) -> Prefix<R> {
            Prefix::project(&name.project)
        }
        Ok(txn
            .delete_prefix(&all::<stored::UsageRecord>(name))
            .delete_prefix(&all::<stored::NodeRecord>(name))
            .delete_prefix(&all::<stored::ClusterRecord>(name))
            .delete_prefix(&all::<stored::AppRecord>(name))
            .delete_prefix(&all::<stored::RevisionRecord>(name))
            .delete_prefix(&all::<stored::RolloutRecord>(name))
            .delete_prefix(&all::<stored::RolloutMoveRecord>(name))
            .delete_prefix(&all::<stored::ConfigRecord>(name))
            .delete_prefix(&all::<stored::ConfigRevisionRecord>(name))
            .delete_prefix(&all::<stored::SecretRecord>(name))
            .delete_prefix(&all::<stored::SecretRevisionRecord>(name))
            .delete_prefix(&all::<stored::SealedSecretRecord>(name))
            .delete_prefix(&all::<stored::AssignmentRecord>(name))
            .delete_prefix(&all::<stored::SessionRecord>(name))
            .delete_prefix(&all::<stored::StatusRecord>(name))
            .delete_prefix(&all::<stored::EventsRecord>(name))
            .delete_prefix(&all::<stored::TokenRecord>(name))
            .delete_prefix(&all::<stored::EnrollmentRecord>(name))
            .delete_prefix(&all::<stored::UserRecord>(name))
            .delete_prefix(&all::<stored::GroupRecord>(name))
            .delete_prefix(&all::<stored::RoleBindingRecord>(name))
            .delete_prefix(&all::<stored::GrantRecord>(name))
            .delete_prefix(&all::<stored::TaskRecord>(name))
            .delete_prefix(&all::<stored::TaskProgressRecord>(name))
            .delete_prefix(&all::<stored::TaskClaimRecord>(name))
            .delete_prefix(&all::<stored::PrefetchRecord>(name))
            .delete_prefix(&all::<stored::RequestRecord>(name)))
    }

    fn observed(&self, name: &ProjectRef, project: Project) -> Project {
        Project { status: Some(self.shown.status(name)), ..project }
    }
}

fn told(told: &Told<Project>) -> pb::WatchProjectsResponse {
    let (project, resource_version) = told.parts();
    let change = match told {
        Told::Added(..) => ChangeType::Added,
        Told::Modified(..) => ChangeType::Modified,
        Told::Deleted(..) => ChangeType::Deleted,
        Told::Bookmark(_) => ChangeType::Bookmark,
    };
    pb::WatchProjectsResponse {
        r#type: change.into(),
        project: project.map(|project| Project::clone(project)),
        resource_version,
    }
}

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn create_project(
        &self,
        request: Request<pb::CreateProjectRequest>,
    ) -> Result<Response<pb::CreateProjectResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ProjectService/CreateProject";
        let made = async {
            let metadata = request.project.as_ref().and_then(|project| project.metadata.as_ref());
            let name = ProjectRef::parse_short(metadata.map_or("", |metadata| &metadata.name))
                .map_err(|error| Fault::invalid_field("project.metadata.name", error))?;
            // It is in none but itself.
            let create = Create {
                parent: &name.to_string(),
                resource: request.project.as_ref(),
                validate_only: request.validate_only,
            };
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await
        };
        reply(made.await.map(|project| pb::CreateProjectResponse { project: Some(project) }))
    }

    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Result<Response<pb::GetProjectResponse>, Status> {
        let project = async { skerry_api::read(self, &ProjectRef::parse(&request.get_ref().name)?).await };
        reply(project.await.map(|project| pb::GetProjectResponse { project: Some(project) }))
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Result<Response<pb::ListProjectsResponse>, Status> {
        let pb::ListProjectsRequest { label_selector, page_size, page_token } = request.get_ref();
        let page = skerry_api::list_projects(&self.shown.projects, label_selector, *page_size, page_token);
        reply(page.map(|page| pb::ListProjectsResponse {
            projects: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchProjectsStream = ResponseStream<pb::WatchProjectsResponse>;

    async fn watch_projects(
        &self,
        request: Request<pb::WatchProjectsRequest>,
    ) -> Result<Response<Self::WatchProjectsStream>, Status> {
        let pb::WatchProjectsRequest { label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shown.projects, self.shutdown.wait());
        reply(skerry_api::watch_projects(hub, label_selector, resource_version, told, ending).await)
    }

    async fn update_project(
        &self,
        request: Request<pb::UpdateProjectRequest>,
    ) -> Result<Response<pb::UpdateProjectResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ProjectService/UpdateProject";
        let update = Update {
            resource: request.project.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(project, came)| pb::UpdateProjectResponse {
            project: Some(project),
            outcome: outcome(came),
        }))
    }

    async fn delete_project(
        &self,
        request: Request<pb::DeleteProjectRequest>,
    ) -> Result<Response<pb::DeleteProjectResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ProjectService/DeleteProject";
        let done = async {
            let name = ProjectRef::parse(&request.name)?;
            let call = Call { method, id: &request.request_id, request, peer: &peer };
            // A repeat closes no namesake that was made since.
            if skerry_api::is_repeat(self, &call, &name).await? {
                return Ok(());
            }
            let caused = Caused::by_caller(method, audit::caller(&peer), request);
            let closed = self.close(&name, &request.etag, &caused, &|txn| txn).await?;
            skerry_api::delete(self, call, Delete { name: &request.name, etag: &closed }).await
        };
        reply(done.await.map(|()| pb::DeleteProjectResponse {}))
    }
}

#[cfg(test)]
mod tests;
