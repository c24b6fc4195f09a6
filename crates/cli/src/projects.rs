//! Projects as the server gives them: one, all, or those that the caller may see.

use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::access_service_client::AccessServiceClient;
use skerry_proto::registry::v1::project_service_client::ProjectServiceClient;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::client::{CallError, Client, Service, request};
use crate::error::CliError;
use crate::item::Item;

/// Most projects that are asked for one by one.
const OWN_MAX: usize = 1000;

pub(crate) fn projects(channel: Channel) -> ProjectServiceClient<Traced> {
    ProjectServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Client {
    /// The project of that full name.
    pub(crate) async fn project_named(&self, name: &str) -> Result<pb::Project, CallError> {
        let message = pb::GetProjectRequest { name: name.to_owned() };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { projects(channel).get_project(request(message, left)).await }
        });
        Ok(answer.await?.project.unwrap_or_default())
    }

    /// A page of projects, the token of the next, and where a watch continues. Who may not list all of them gets those in which it has a
    /// role.
    pub(crate) async fn projects_page(
        &self,
        page_size: i32,
        page_token: String,
        label_selector: String,
    ) -> Result<(Vec<Item>, String, String), CliError> {
        let is_plain = page_token.is_empty() && label_selector.is_empty();
        let message = pb::ListProjectsRequest { page_size, page_token, label_selector };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { projects(channel).list_projects(request(message, left)).await }
        });
        let item = |project| Item::Project(Box::new(project));
        match answer.await {
            Ok(page) => {
                let items = page.projects.into_iter().map(item).collect();
                Ok((items, page.next_page_token, page.resource_version))
            }
            Err(error) if is_plain && error.code() == Some(Code::PermissionDenied) => {
                let own = self.own_projects().await?;
                // One who has no role anywhere is told why there is nothing.
                if own.is_empty() { Err(error.into()) } else { Ok((own, String::new(), String::new())) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The projects in which the caller has a role.
    async fn own_projects(&self) -> Result<Vec<Item>, CliError> {
        let asking = self.call(Service::Registry, |channel, left| async move {
            let mut access =
                AccessServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX);
            access.who_am_i(request(pb::WhoAmIRequest {}, left)).await
        });
        let mut own = Vec::new();
        for held in asking.await?.roles.into_iter().take(OWN_MAX) {
            match self.project_named(&held.project).await {
                Ok(project) => own.push(Item::Project(Box::new(project))),
                // A role outlives its project only where somebody bound it in vain.
                Err(error) if error.code() == Some(Code::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(own)
    }

    /// Changes of projects after a version.
    pub(crate) async fn project_changes(
        &self,
        resource_version: String,
        label_selector: String,
    ) -> Result<Streaming<pb::WatchProjectsResponse>, CallError> {
        let message = pb::WatchProjectsRequest { resource_version, label_selector };
        let stream = self.call(Service::Registry, |channel, _| {
            let message = message.clone();
            async move { projects(channel).watch_projects(message).await }
        });
        stream.await
    }
}
