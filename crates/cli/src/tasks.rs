//! Tasks as the server gives them.

use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::task_service_client::TaskServiceClient;
use skerry_proto::registry::v1::task_spec::Work;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{CallError, Client, Service, request, request_id};
use crate::item::Item;

fn tasks(channel: Channel) -> TaskServiceClient<Traced> {
    TaskServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn item(task: pb::Task) -> Item {
    Item::Task(Box::new(task))
}

impl Client {
    /// The task of that full name.
    pub(crate) async fn get_task(&self, name: String) -> Result<Item, CallError> {
        let message = pb::GetTaskRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).get_task(request(message, left)).await }
        });
        Ok(item(answer.await?.task.unwrap_or_default()))
    }

    /// A page of tasks, the token of the next, and where a watch continues.
    pub(crate) async fn page_of_tasks(
        &self,
        page_size: i32,
        page_token: String,
        label_selector: String,
    ) -> Result<(Vec<Item>, String, String), CallError> {
        let parent = self.project().parent();
        let message = pb::ListTasksRequest { parent, label_selector, page_size, page_token };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).list_tasks(request(message, left)).await }
        });
        let page = answer.await?;
        Ok((page.tasks.into_iter().map(item).collect(), page.next_page_token, page.resource_version))
    }

    /// Changes of tasks after a version.
    pub(crate) async fn task_changes(
        &self,
        resource_version: String,
        label_selector: String,
    ) -> Result<Streaming<pb::WatchTasksResponse>, CallError> {
        let parent = self.project().parent();
        let message = pb::WatchTasksRequest { parent, resource_version, label_selector };
        let stream = self.call(Service::Registry, |channel, _| {
            let message = message.clone();
            async move { tasks(channel).watch_tasks(message).await }
        });
        stream.await
    }

    /// Puts a task into the queue of `parent`; answers it.
    pub(crate) async fn create_task(&self, parent: &str, work: Work) -> Result<pb::Task, CallError> {
        let message = pb::CreateTaskRequest {
            parent: parent.to_owned(),
            task: Some(pb::Task { spec: Some(pb::TaskSpec { work: Some(work) }), ..Default::default() }),
            request_id: request_id(),
            validate_only: false,
        };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).create_task(request(message, left)).await }
        });
        Ok(answer.await?.task.unwrap_or_default())
    }

    /// Cancels the task of that full name.
    pub(crate) async fn cancel_task(&self, name: String) -> Result<pb::Task, CallError> {
        let message = pb::CancelTaskRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).cancel_task(request(message, left)).await }
        });
        Ok(answer.await?.task.unwrap_or_default())
    }

    /// Goes on with the task of that full name.
    pub(crate) async fn retry_task(&self, name: String) -> Result<pb::Task, CallError> {
        let message = pb::RetryTaskRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).retry_task(request(message, left)).await }
        });
        Ok(answer.await?.task.unwrap_or_default())
    }

    /// Deletes the task of that full name.
    pub(crate) async fn delete_task(&self, name: String, request_id: String) -> Result<(), CallError> {
        let message = pb::DeleteTaskRequest { name, etag: String::new(), request_id };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { tasks(channel).delete_task(request(message, left)).await }
        });
        answer.await.map(drop)
    }
}
