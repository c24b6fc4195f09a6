//! Changes of what can be shown, as servers stream them.

use skerry_proto::gpu::v1 as gpu;
use skerry_proto::registry::v1 as registry;
use skerry_proto::scheduler::v1 as scheduler;
use tonic::{Status, Streaming};

use super::{Item, Query};
use crate::client::{CallError, Client, Service, apps, configs, events, nodes, secrets};
use crate::target::Type;

impl Client {
    /// Changes after `version`. Not for what servers do not stream: see [`Type::is_streamed`]. The deadline of a call holds until the
    /// stream begins.
    pub(crate) async fn changes(&self, query: &Query, version: &str) -> Result<Changes, CallError> {
        let parent = self.project().parent();
        let resource_version = version.to_owned();
        let label_selector = query.selector.clone();
        match query.kind {
            Type::Node => {
                let message = registry::WatchNodesRequest { parent, resource_version, label_selector };
                let stream = self.call(Service::Registry, |channel, _| {
                    let message = message.clone();
                    async move { nodes(channel).watch_nodes(message).await }
                });
                stream.await.map(Changes::Nodes)
            }
            Type::App => {
                let message = scheduler::WatchAppsRequest { parent, resource_version, label_selector };
                let stream = self.call(Service::Scheduler, |channel, _| {
                    let message = message.clone();
                    async move { apps(channel).watch_apps(message).await }
                });
                stream.await.map(Changes::Apps)
            }
            Type::Config => {
                let message = scheduler::WatchConfigsRequest { parent, resource_version, label_selector };
                let stream = self.call(Service::Scheduler, |channel, _| {
                    let message = message.clone();
                    async move { configs(channel).watch_configs(message).await }
                });
                stream.await.map(Changes::Configs)
            }
            Type::Secret => {
                let message = scheduler::WatchSecretsRequest { parent, resource_version, label_selector };
                let stream = self.call(Service::Scheduler, |channel, _| {
                    let message = message.clone();
                    async move { secrets(channel).watch_secrets(message).await }
                });
                stream.await.map(Changes::Secrets)
            }
            Type::Cluster => {
                self.cluster_changes(resource_version, label_selector).await.map(Changes::Clusters)
            }
            Type::Project => {
                self.project_changes(resource_version, label_selector).await.map(Changes::Projects)
            }
            Type::Task => self.task_changes(resource_version, label_selector).await.map(Changes::Tasks),
            Type::Gpu => self.gpu_changes(resource_version, query).await.map(Changes::Gpus),
            Type::Event
            | Type::Instance
            | Type::Revision
            | Type::User
            | Type::Group
            | Type::RoleBinding
            | Type::Grant
            | Type::Allocation => {
                let message = registry::WatchEventsRequest { parent, regarding: query.regarding.clone() };
                let stream = self.call(Service::Registry, |channel, _| {
                    let message = message.clone();
                    async move { events(channel).watch_events(message).await }
                });
                stream.await.map(Changes::Events)
            }
        }
    }
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    /// As scripts see it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One message of a watch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// Absent when only time has passed.
    pub(crate) item: Option<(ChangeKind, Item)>,
    /// Where a watch may continue.
    pub(crate) resource_version: String,
}

/// An open watch.
pub(crate) enum Changes {
    Nodes(Streaming<registry::WatchNodesResponse>),
    Apps(Streaming<scheduler::WatchAppsResponse>),
    Configs(Streaming<scheduler::WatchConfigsResponse>),
    Secrets(Streaming<scheduler::WatchSecretsResponse>),
    Events(Streaming<registry::WatchEventsResponse>),
    Projects(Streaming<registry::WatchProjectsResponse>),
    Clusters(Streaming<registry::WatchClustersResponse>),
    Tasks(Streaming<registry::WatchTasksResponse>),
    Gpus(Streaming<gpu::WatchGpusResponse>),
}

impl Changes {
    /// The next message; `None` when the server ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Change>, Status> {
        Ok(match self {
            Self::Nodes(stream) => stream.message().await?.map(|change| {
                let kind = registry_kind(change.r#type());
                of(kind, change.node.map(|node| Item::Node(Box::new(node))), change.resource_version)
            }),
            Self::Clusters(stream) => stream.message().await?.map(|change| {
                let kind = registry_kind(change.r#type());
                let item = change.cluster.map(|cluster| Item::Cluster(Box::new(cluster)));
                of(kind, item, change.resource_version)
            }),
            Self::Tasks(stream) => stream.message().await?.map(|change| {
                let kind = registry_kind(change.r#type());
                of(kind, change.task.map(|task| Item::Task(Box::new(task))), change.resource_version)
            }),
            Self::Gpus(stream) => stream.message().await?.map(|change| {
                let kind = crate::gpus::change_kind(change.r#type());
                of(kind, change.gpu.map(|gpu| Item::Gpu(Box::new(gpu))), change.resource_version)
            }),
            Self::Projects(stream) => stream.message().await?.map(|change| {
                let kind = registry_kind(change.r#type());
                let item = change.project.map(|project| Item::Project(Box::new(project)));
                of(kind, item, change.resource_version)
            }),
            Self::Apps(stream) => stream.message().await?.map(|change| {
                let kind = scheduler_kind(change.r#type());
                of(kind, change.app.map(|app| Item::App(Box::new(app))), change.resource_version)
            }),
            Self::Configs(stream) => stream.message().await?.map(|change| {
                let kind = scheduler_kind(change.r#type());
                of(kind, change.config.map(|config| Item::Config(Box::new(config))), change.resource_version)
            }),
            Self::Secrets(stream) => stream.message().await?.map(|change| {
                let kind = scheduler_kind(change.r#type());
                of(kind, change.secret.map(|secret| Item::Secret(Box::new(secret))), change.resource_version)
            }),
            Self::Events(stream) => stream.message().await?.map(|change| {
                of(
                    Some(ChangeKind::Added),
                    change.event.map(|event| Item::Event(Box::new(event))),
                    String::new(),
                )
            }),
        })
    }
}

fn of(kind: Option<ChangeKind>, item: Option<Item>, resource_version: String) -> Change {
    Change { item: kind.zip(item), resource_version }
}

fn registry_kind(kind: registry::ChangeType) -> Option<ChangeKind> {
    match kind {
        registry::ChangeType::Added => Some(ChangeKind::Added),
        registry::ChangeType::Modified => Some(ChangeKind::Modified),
        registry::ChangeType::Deleted => Some(ChangeKind::Deleted),
        registry::ChangeType::Bookmark | registry::ChangeType::Unspecified => None,
    }
}

fn scheduler_kind(kind: scheduler::ChangeType) -> Option<ChangeKind> {
    match kind {
        scheduler::ChangeType::Added => Some(ChangeKind::Added),
        scheduler::ChangeType::Modified => Some(ChangeKind::Modified),
        scheduler::ChangeType::Deleted => Some(ChangeKind::Deleted),
        scheduler::ChangeType::Bookmark | scheduler::ChangeType::Unspecified => None,
    }
}
