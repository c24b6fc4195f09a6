//! Between handlers and tonic: answers, pages of lists, and watches as response streams.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use skerry_model::Fault;
use skerry_rpc::status_of;
use tonic::{Response, Status};

use crate::hub::{Hub, ListPage, Resource};
use crate::request::{page_args, parent_and_selector};
use crate::watch::{Told, Watcher};

/// Bytes of one page: below what a message may have.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The stream of a server-streaming response.
pub type ResponseStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// An answer, or the status that tells the fault.
pub fn reply<M>(result: Result<M, Fault>) -> Result<Response<M>, Status> {
    result.map(Response::new).map_err(|fault| status_of(&fault))
}

/// Answers a list: `parent`, `label_selector`, `page_size` and `page_token` are as the request has them.
pub fn list<T: Resource>(
    hub: &Hub<T>,
    parent: &str,
    label_selector: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListPage<T>, Fault> {
    let (project, selector) = parent_and_selector(parent, label_selector)?;
    hub.list(&project, &selector, &page_args(page_size, page_token)?, PAGE_BYTES_MAX)
}

/// Answers a watch: `parent`, `label_selector` and `resource_version` are as the request has them. The stream ends with a fault, or when
/// `ending` does.
pub async fn watch<T, M, E>(
    hub: &Arc<Hub<T>>,
    parent: &str,
    label_selector: &str,
    resource_version: &str,
    message: fn(&Told<T>) -> M,
    ending: E,
) -> Result<ResponseStream<M>, Fault>
where
    T: Resource,
    M: Send + 'static,
    E: Future<Output = ()> + Send + 'static,
{
    let (project, selector) = parent_and_selector(parent, label_selector)?;
    let watcher = Watcher::start(Arc::clone(hub), &project, selector, resource_version).await?;
    Ok(stream_of(watcher, message, ending))
}

/// A watcher as a response stream that ends with a fault, or when `ending` does (UNAVAILABLE: watch again elsewhere).
fn stream_of<T, M, E>(watcher: Watcher<T>, message: fn(&Told<T>) -> M, ending: E) -> ResponseStream<M>
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
