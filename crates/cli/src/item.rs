//! What can be shown, whatever its type: fetched one by one, listed in pages, streamed as changes.

mod changes;
mod people;

use skerry_manifest::Resource;
use skerry_manifest::output::{self, Value};
use skerry_proto::gpu::v1 as gpu;
use skerry_proto::registry::v1 as registry;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::types::v1 as types;

use crate::client::{CallError, Client, Service, apps, configs, events, nodes, request, secrets};
use crate::error::CliError;
use crate::target::{Target, Type};

pub(crate) use changes::ChangeKind;

/// Asked for at once; servers cut pages by bytes as well.
const PAGE_SIZE: i32 = 500;
/// Most items of one listing that are held.
const ITEMS_MAX: usize = 200_000;
/// Most events of one listing: all that a server answers.
const EVENTS_MAX: i32 = 10_000;

/// One thing of any type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Node(Box<registry::Node>),
    Cluster(Box<registry::Cluster>),
    App(Box<scheduler::App>),
    Config(Box<scheduler::Config>),
    Secret(Box<scheduler::Secret>),
    Instance(Box<types::InstanceStatus>),
    Revision(Box<scheduler::Revision>),
    Event(Box<types::Event>),
    User(Box<registry::User>),
    Group(Box<registry::Group>),
    RoleBinding(Box<registry::RoleBinding>),
    Grant(Box<registry::Grant>),
    Project(Box<registry::Project>),
    Task(Box<registry::Task>),
    Gpu(Box<gpu::Gpu>),
    Allocation(Box<gpu::Allocation>),
}

impl Item {
    /// As in `app/hello`. Events, which have no name, by what identifies them.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Node(node) => Target::of_full_name(Type::Node, name_of(node.metadata.as_ref())),
            Self::Cluster(cluster) => Target::of_full_name(Type::Cluster, name_of(cluster.metadata.as_ref())),
            Self::App(app) => Target::of_full_name(Type::App, name_of(app.metadata.as_ref())),
            Self::Config(config) => Target::of_full_name(Type::Config, name_of(config.metadata.as_ref())),
            Self::Secret(secret) => Target::of_full_name(Type::Secret, name_of(secret.metadata.as_ref())),
            Self::User(user) => Target::of_full_name(Type::User, name_of(user.metadata.as_ref())),
            Self::Group(group) => Target::of_full_name(Type::Group, name_of(group.metadata.as_ref())),
            Self::RoleBinding(binding) => {
                Target::of_full_name(Type::RoleBinding, name_of(binding.metadata.as_ref()))
            }
            Self::Project(project) => Target::of_full_name(Type::Project, name_of(project.metadata.as_ref())),
            Self::Grant(grant) => Target::of_full_name(Type::Grant, name_of(grant.metadata.as_ref())),
            Self::Task(task) => Target::of_full_name(Type::Task, name_of(task.metadata.as_ref())),
            Self::Gpu(gpu) => Target { kind: Type::Gpu, name: crate::gpus::short_name(&gpu.name) },
            Self::Allocation(one) => Target { kind: Type::Allocation, name: crate::allocations::name(one) },
            Self::Instance(instance) => Target { kind: Type::Instance, name: instance.instance.clone() },
            Self::Revision(revision) => {
                let mut parts = revision.name.rsplit('/');
                let (hash, app) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
                Target { kind: Type::Revision, name: format!("{app}/{hash}") }
            }
            Self::Event(event) => Target {
                kind: Type::Event,
                name: format!(
                    "{}/{}/{}",
                    event.source.rsplit('/').next().unwrap_or_default(),
                    event.boot_id,
                    event.sequence
                ),
            },
        }
    }

    /// As canonical JSON and YAML have it.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Node(node) => output::resource(&Resource::Node(node.clone())),
            Self::Cluster(cluster) => output::resource(&Resource::Cluster(cluster.clone())),
            Self::App(app) => output::resource(&Resource::App(app.clone())),
            Self::Config(config) => output::resource(&Resource::Config(config.clone())),
            Self::Secret(secret) => output::resource(&Resource::Secret(secret.clone())),
            Self::User(user) => output::resource(&Resource::User(user.clone())),
            Self::Group(group) => output::resource(&Resource::Group(group.clone())),
            Self::RoleBinding(binding) => output::resource(&Resource::RoleBinding(binding.clone())),
            Self::Project(project) => output::resource(&Resource::Project(project.clone())),
            Self::Instance(instance) => {
                output::other("Instance", "skerry.type.v1.InstanceStatus", instance.as_ref())
            }
            Self::Revision(revision) => {
                output::other("Revision", "skerry.scheduler.v1.Revision", revision.as_ref())
            }
            Self::Grant(grant) => output::named("Grant", "skerry.registry.v1.Grant", grant.as_ref()),
            Self::Task(task) => output::named("Task", "skerry.registry.v1.Task", task.as_ref()),
            Self::Gpu(gpu) => output::other("Gpu", "skerry.gpu.v1.Gpu", gpu.as_ref()),
            Self::Allocation(one) => output::other("Allocation", "skerry.gpu.v1.Allocation", one.as_ref()),
            Self::Event(event) => output::other("Event", "skerry.type.v1.Event", event.as_ref()),
        }
    }
}

fn name_of(metadata: Option<&types::Metadata>) -> &str {
    metadata.map_or("", |metadata| &metadata.name)
}

/// What a listing is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) kind: Type,
    /// Labels; empty for all.
    pub(crate) selector: String,
    /// Instances, revisions and allocations of this app, and GPUs that it has something of, only (short name).
    pub(crate) app: Option<String>,
    /// Instances, revisions and allocations whose name begins with one of these paths. Empty: any.
    pub(crate) below: Vec<String>,
    /// Instances, GPUs and allocations on this node only (short name).
    pub(crate) node: Option<String>,
    /// Events about this resource only (full name).
    pub(crate) regarding: String,
}

impl Query {
    pub(crate) fn all(kind: Type) -> Self {
        Self { kind, selector: String::new(), app: None, below: vec![], node: None, regarding: String::new() }
    }

    /// Whether one is asked for by its whole name: `APP/HASH`, `APP/SERVICE/NODE/INDEX`, `NODE/UUID/INSTANCE`.
    pub(crate) fn names_one(&self) -> bool {
        let [name] = self.below.as_slice() else { return false };
        let parts = name.split('/').count();
        match self.kind {
            Type::Revision => parts == 2,
            Type::Instance => parts == 4,
            Type::Allocation => parts == 6,
            Type::Node
            | Type::Cluster
            | Type::App
            | Type::Config
            | Type::Secret
            | Type::Event
            | Type::User
            | Type::Group
            | Type::RoleBinding
            | Type::Grant
            | Type::Project
            | Type::Task
            | Type::Gpu => false,
        }
    }

    /// Whether an item is below one of the paths.
    fn names(&self, item: &Item) -> bool {
        let name = item.target().name;
        // Hashes are shown by their first digits.
        let by_digits = |below: &String| self.kind == Type::Revision && below.contains('/');
        let is_named =
            |below: &String| is_below(&name, below) || (by_digits(below) && name.starts_with(below.as_str()));
        self.below.iter().any(is_named)
    }
}

/// A listing, and the version that a watch continues from (empty where there is none).
pub(crate) type Listing = (Vec<Item>, String);

/// A page of one, the token of the next, and the version.
type Page = (Vec<Item>, String, String);

impl Client {
    /// One of what has a name of its own.
    pub(crate) async fn get(&self, target: &Target) -> Result<Item, CallOrUsage> {
        let target = &self.whole(target).await?;
        let name = target.full_name(self.project()).map_err(CallOrUsage::Usage)?;
        let item = match target.kind {
            Type::Node => {
                let answer = self.call(Service::Registry, |channel, left| {
                    let message = registry::GetNodeRequest { name: name.clone() };
                    async move { nodes(channel).get_node(request(message, left)).await }
                });
                answer.await?.node.map(|node| Item::Node(Box::new(node)))
            }
            Type::App => {
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = scheduler::GetAppRequest { name: name.clone() };
                    async move { apps(channel).get_app(request(message, left)).await }
                });
                answer.await?.app.map(|app| Item::App(Box::new(app)))
            }
            Type::Config => {
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = scheduler::GetConfigRequest { name: name.clone() };
                    async move { configs(channel).get_config(request(message, left)).await }
                });
                answer.await?.config.map(|config| Item::Config(Box::new(config)))
            }
            Type::Secret => {
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = scheduler::GetSecretRequest { name: name.clone() };
                    async move { secrets(channel).get_secret(request(message, left)).await }
                });
                answer.await?.secret.map(|secret| Item::Secret(Box::new(secret)))
            }
            Type::Cluster => Some(self.get_cluster(name).await?),
            Type::Task => Some(self.get_task(name).await?),
            Type::Gpu => Some(self.get_gpu(name).await?),
            Type::User => Some(self.get_user(name).await?),
            Type::Group => Some(self.get_group(name).await?),
            Type::RoleBinding => Some(self.get_binding(name).await?),
            Type::Grant => Some(self.get_grant(name).await?),
            Type::Project => Some(Item::Project(Box::new(self.project_named(&name).await?))),
            Type::Instance | Type::Revision | Type::Event | Type::Allocation => {
                let message = format!("{} are listed, not fetched one by one", target.kind.plural());
                return Err(CallOrUsage::Usage(CliError::Usage(message)));
            }
        };
        item.ok_or_else(|| {
            CallOrUsage::Usage(CliError::Failed(format!(
                "the server answered without the {}",
                target.kind.singular()
            )))
        })
    }

    /// Everything that the query asks for.
    pub(crate) async fn list(&self, query: &Query) -> Result<Listing, CliError> {
        if query.kind == Type::Event {
            return Ok((self.list_events(&query.regarding).await?, String::new()));
        }
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let (page, next, version) = self.page(query, &token).await?;
            items.extend(page);
            if items.len() > ITEMS_MAX {
                return Err(CliError::Failed(format!(
                    "more than {ITEMS_MAX} {}: ask for less with -l",
                    query.kind.plural()
                )));
            }
            if next.is_empty() {
                if !query.below.is_empty() {
                    items.retain(|item| query.names(item));
                }
                crate::gpus::sort(&mut items);
                return Ok((items, version));
            }
            token = next;
        }
    }

    /// The first page of what the query asks for, and whether there is more.
    pub(crate) async fn first_page(&self, query: &Query) -> Result<(Vec<Item>, bool), CliError> {
        let (items, next, _) = self.page(query, "").await?;
        Ok((items, !next.is_empty()))
    }

    async fn page(&self, query: &Query, token: &str) -> Result<Page, CliError> {
        let parent = self.project().parent();
        let page_token = token.to_owned();
        let label_selector = query.selector.clone();
        match query.kind {
            Type::Node => {
                let message =
                    registry::ListNodesRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
                let answer = self.call(Service::Registry, |channel, left| {
                    let message = message.clone();
                    async move { nodes(channel).list_nodes(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.nodes, Item::Node), answer.next_page_token, answer.resource_version))
            }
            Type::App => {
                let message =
                    scheduler::ListAppsRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = message.clone();
                    async move { apps(channel).list_apps(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.apps, Item::App), answer.next_page_token, answer.resource_version))
            }
            Type::Config => {
                let message = scheduler::ListConfigsRequest {
                    parent,
                    page_size: PAGE_SIZE,
                    page_token,
                    label_selector,
                };
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = message.clone();
                    async move { configs(channel).list_configs(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.configs, Item::Config), answer.next_page_token, answer.resource_version))
            }
            Type::Secret => {
                let message = scheduler::ListSecretsRequest {
                    parent,
                    page_size: PAGE_SIZE,
                    page_token,
                    label_selector,
                };
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = message.clone();
                    async move { secrets(channel).list_secrets(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.secrets, Item::Secret), answer.next_page_token, answer.resource_version))
            }
            Type::Instance => {
                let parent = query.app.as_ref().map_or(parent.clone(), |app| format!("{parent}/apps/{app}"));
                let node = query
                    .node
                    .as_ref()
                    .map_or(String::new(), |node| format!("{}/nodes/{node}", self.project().parent()));
                let message =
                    scheduler::ListInstancesRequest { parent, page_size: PAGE_SIZE, page_token, node };
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = message.clone();
                    async move { apps(channel).list_instances(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.instances, Item::Instance), answer.next_page_token, String::new()))
            }
            Type::Revision => {
                let Some(app) = &query.app else {
                    return Err(CliError::Usage(
                        "revisions are those of an app: skerry get revisions APP".into(),
                    ));
                };
                let message = scheduler::ListRevisionsRequest {
                    parent: format!("{parent}/apps/{app}"),
                    page_size: PAGE_SIZE,
                    page_token,
                };
                let answer = self.call(Service::Scheduler, |channel, left| {
                    let message = message.clone();
                    async move { apps(channel).list_revisions(request(message, left)).await }
                });
                let answer = answer.await?;
                Ok((wrap(answer.revisions, Item::Revision), answer.next_page_token, String::new()))
            }
            Type::Event => Ok((self.list_events(&query.regarding).await?, String::new(), String::new())),
            Type::User => self.page_of_users(label_selector, page_token).await,
            Type::Group => self.page_of_groups(label_selector, page_token).await,
            Type::RoleBinding => self.page_of_bindings(label_selector, page_token).await,
            Type::Grant => self.page_of_grants(label_selector, page_token).await,
            Type::Cluster => Ok(self.page_of_clusters(PAGE_SIZE, page_token, label_selector).await?),
            Type::Task => Ok(self.page_of_tasks(PAGE_SIZE, page_token, label_selector).await?),
            Type::Gpu => Ok(self.page_of_gpus(PAGE_SIZE, page_token, query).await?),
            Type::Allocation => {
                let (items, next) = self.page_of_allocations(PAGE_SIZE, page_token, query).await?;
                Ok((items, next, String::new()))
            }
            Type::Project => self.projects_page(PAGE_SIZE, page_token, label_selector).await,
        }
    }

    async fn list_events(&self, regarding: &str) -> Result<Vec<Item>, CliError> {
        let message = registry::ListEventsRequest {
            parent: self.project().parent(),
            page_size: EVENTS_MAX,
            regarding: regarding.to_owned(),
        };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { events(channel).list_events(request(message, left)).await }
        });
        Ok(wrap(answer.await?.events, Item::Event))
    }
}

/// Whether the instance `name` is `path` or below it.
pub(crate) fn is_below(name: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn wrap<T>(messages: Vec<T>, item: fn(Box<T>) -> Item) -> Vec<Item> {
    messages.into_iter().map(|message| item(Box::new(message))).collect()
}

/// A call that failed, or one that was never made.
pub(crate) enum CallOrUsage {
    Call(CallError),
    Usage(CliError),
}

impl CallOrUsage {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(error) if error.code() == Some(tonic::Code::NotFound))
    }
}

impl From<CallError> for CallOrUsage {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<CallOrUsage> for CliError {
    fn from(error: CallOrUsage) -> Self {
        match error {
            CallOrUsage::Call(error) => error.into(),
            CallOrUsage::Usage(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_name_to_type() {
        let metadata = |name: &str| Some(types::Metadata { name: name.into(), ..Default::default() });
        let app = scheduler::App { metadata: metadata("projects/p/apps/hello"), ..Default::default() };
        assert_eq!(Item::App(Box::new(app)).target().to_string(), "app/hello");
        let instance = types::InstanceStatus { instance: "hello/web/n1/0".into(), ..Default::default() };
        assert_eq!(Item::Instance(Box::new(instance)).target().to_string(), "instance/hello/web/n1/0");
        let revision =
            scheduler::Revision { name: "projects/p/apps/hello/revisions/abc".into(), ..Default::default() };
        assert_eq!(Item::Revision(Box::new(revision)).target().to_string(), "revision/hello/abc");
    }

    #[test]
    fn a_part_of_an_instance_name_shows_what_is_below_it() {
        assert!(is_below("hello/web/n1/0", "hello/web"));
        assert!(is_below("hello/web/n1/0", "hello/web/n1/0"));
        assert!(!is_below("hello/web2/n1/0", "hello/web"));
    }
}
