//! Between handlers and tonic: answers, pages of lists, and watches as response streams.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use skerry_model::{Fault, ProjectName, Selector};
use skerry_proto::registry::v1::Project;
use skerry_rpc::status_of;
use tonic::{Response, Status};

use crate::hub::{Hub, ListPage, Resource};
use crate::kind::{Kind, ResourceOf, Rules as _};
use crate::request::page_args;
use crate::tenancy::known_project;
use crate::watch::{Told, Watcher};

/// Bytes of one page: below what a message may have.
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What the names of all projects begin with.
const PROJECTS: &str = "projects/";

/// The stream of a server-streaming response.
pub type ResponseStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// An answer, or the status that tells the fault.
pub fn reply<M>(result: Result<M, Fault>) -> Result<Response<M>, Status> {
    result.map(Response::new).map_err(|fault| status_of(&fault))
}

/// Answers a list: `parent`, `label_selector`, `page_size` and `page_token` are as the request has them. NOT_FOUND if there is no such
/// project.
pub async fn list<K: Kind>(
    kind: &K,
    hub: &Hub<ResourceOf<K>>,
    parent: &str,
    label_selector: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListPage<ResourceOf<K>>, Fault> {
    let (prefix, selector) = below(kind, parent, label_selector).await?;
    hub.list(&prefix, &selector, &page_args(page_size, page_token)?, PAGE_BYTES_MAX)
}

/// Answers a list of projects, which are in none, as [`list`].
pub fn list_projects(
    hub: &Hub<Project>,
    label_selector: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListPage<Project>, Fault> {
    let page = page_args(page_size, page_token)?;
    hub.list(PROJECTS, &selector(label_selector)?, &page, PAGE_BYTES_MAX)
}

/// Answers a watch: `parent`, `label_selector` and `resource_version` are as the request has them. NOT_FOUND if there is no such project. The
/// stream ends with a fault, or when `ending` does.
pub async fn watch<K, M, E>(
    kind: &K,
    hub: &Arc<Hub<ResourceOf<K>>>,
    (parent, label_selector, resource_version): (&str, &str, &str),
    message: fn(&Told<ResourceOf<K>>) -> M,
    ending: E,
) -> Result<ResponseStream<M>, Fault>
where
    K: Kind,
    M: Send + 'static,
    E: Future<Output = ()> + Send + 'static,
{
    let (prefix, selector) = below(kind, parent, label_selector).await?;
    let watcher = Watcher::start(Arc::clone(hub), prefix, selector, resource_version).await?;
    Ok(stream_of(watcher, message, ending))
}

/// Answers a watch of projects, which are in none, as [`watch`].
pub async fn watch_projects<M, E>(
    hub: &Arc<Hub<Project>>,
    label_selector: &str,
    resource_version: &str,
    message: fn(&Told<Project>) -> M,
    ending: E,
) -> Result<ResponseStream<M>, Fault>
where
    M: Send + 'static,
    E: Future<Output = ()> + Send + 'static,
{
    let selector = selector(label_selector)?;
    let watcher = Watcher::start(Arc::clone(hub), PROJECTS.to_owned(), selector, resource_version).await?;
    Ok(stream_of(watcher, message, ending))
}

/// What the names of a project's resources begin with, and which of them are meant.
async fn below<K: Kind>(kind: &K, parent: &str, selector: &str) -> Result<(String, Selector), Fault> {
    let project = ProjectName::parse_parent(parent).map_err(|e| Fault::invalid_field("parent", e))?;
    let selector = self::selector(selector)?;
    known_project(kind.rules().store(), kind.mirror(), &project).await?;
    Ok((format!("{parent}/"), selector))
}

fn selector(text: &str) -> Result<Selector, Fault> {
    Selector::parse(text).map_err(|e| Fault::invalid_field("label_selector", e))
}

/// A watcher as a response stream that ends with a fault, or when `ending` does (UNAVAILABLE: watch again elsewhere).
pub fn stream_of<T, M, E>(watcher: Watcher<T>, message: fn(&Told<T>) -> M, ending: E) -> ResponseStream<M>
where
    T: Resource,
    M: Send + 'static,
    E: Future<Output = ()> + Send + 'static,
{
    let told = futures_util::stream::unfold(Some(watcher), move |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(told) => Some((Ok(message(&told)), Some(watcher))),
            Err(fault) => Some((Err(status_of(&fault)), None)),
        }
    });
    let stopping = || Err(status_of(&Fault::unavailable("the service is stopping: connect again")));
    let end = futures_util::stream::once(ending).map(move |()| stopping());
    // Whichever ends first: `end` yields once, and the take_while behind it stops after an error.
    let mut over = false;
    let merged = futures_util::stream::select(told, end).take_while(move |item| {
        let go_on = !over;
        over = item.is_err();
        std::future::ready(go_on)
    });
    Box::pin(merged)
}

impl<T> Told<T> {
    /// The resource and its version; none for a bookmark.
    pub fn parts(&self) -> (Option<&Arc<T>>, String) {
        match self {
            Self::Added(item, version) | Self::Modified(item, version) | Self::Deleted(item, version) => {
                (Some(item), version.to_string())
            }
            Self::Bookmark(version) => (None, version.to_string()),
        }
    }
}
