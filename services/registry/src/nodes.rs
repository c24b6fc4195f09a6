//! `NodeService`: decode, act on the store, answer from the hub.

use std::sync::Arc;

use skerry_api::{
    Etag, Mask, ResponseStream, Told, Tried, Tries, Watcher, check_metadata, mark, page_args,
    parent_and_selector, reply, stream_of,
};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, NodeRef};
use skerry_proto::registry::v1::node_service_server::NodeService;
use skerry_proto::registry::v1::{self as pb, ChangeType, Node};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::EventSource;
use skerry_store::{Committed, Key, Store, Txn};
use tonic::{Request, Response, Status};

use crate::follow::Shared;

/// What an update may name.
const MASK: [&str; 6] = [
    "metadata.labels",
    "metadata.labels.*",
    "metadata.annotations",
    "metadata.annotations.*",
    "spec",
    "spec.cordoned",
];
/// Bytes of one page: below what a message may have.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

impl Nodes {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { shared, store, shutdown }
    }

    /// The node as the hub has it, once the hub has everything that the store had at the time of the call.
    async fn read(&self, name: &NodeRef) -> Result<Node, Fault> {
        let key = Key::<stored::NodeRecord>::of(name);
        let record = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(name))?;
        let etag = Etag { mod_revision: record.mod_revision }.to_string();
        let mut tries = Tries::default();
        loop {
            match self.shared.nodes.get(&name.to_string()) {
                Some(node) if node.metadata.as_ref().is_some_and(|m| m.etag == etag) => {
                    return Ok(Node::clone(&node));
                }
                // Newer than what was read, or not yet there: the hub follows within moments.
                _ => tries.again(name).await?,
            }
        }
    }

    async fn catch_up(&self, committed: &Committed) -> Result<(), Fault> {
        let unavailable = |e: skerry_store::WaitError| Fault::unavailable(e.to_string());
        self.shared.mirror.wait_for(committed).await.map(|_| ()).map_err(unavailable)
    }

    async fn update(&self, request: &pb::UpdateNodeRequest) -> Result<Node, Fault> {
        let node = request.node.as_ref().ok_or_else(|| Fault::invalid_field("node", "name the node"))?;
        let sent = node.metadata.clone().unwrap_or_default();
        let name = NodeRef::parse(&sent.name).map_err(|e| Fault::invalid_field("node.metadata.name", e))?;
        let mask = Mask::parse(request.update_mask.as_ref(), &MASK)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.registry.v1.NodeService/UpdateNode",
            request,
            &name,
        )?;
        if let Some(mark) = &mark
            && self.store.find_request(mark).await?.is_some()
        {
            return self.read(&name).await;
        }
        let key = Key::<stored::NodeRecord>::of(&name);
        let mut tries = Tries::default();
        loop {
            let before = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(&name))?;
            Etag::check(&sent.etag, &name, before.mod_revision)?;
            let mut record = before.value.clone();
            let mut meta = record.meta.take().unwrap_or_default();
            mask.merge_map("metadata.labels", &mut meta.labels, &sent.labels);
            mask.merge_map("metadata.annotations", &mut meta.annotations, &sent.annotations);
            check_metadata(&meta)?;
            let cordoned = node.spec.is_some_and(|spec| spec.cordoned);
            if mask.covers("spec.cordoned") && record.cordoned != cordoned {
                record.cordoned = cordoned;
                meta.generation += 1;
            }
            record.meta = Some(meta);
            if record == before.value {
                return self.read(&name).await;
            }
            let mut txn = Txn::new().when_same(&before).put(&key, &record);
            if let Some(mark) = &mark {
                txn = txn.request(mark.clone());
            }
            match Tried::from_commit(self.store.commit(txn).await, |committed| committed)? {
                Tried::Done(committed) => {
                    self.catch_up(&committed).await?;
                    return self.read(&name).await;
                }
                Tried::Repeated => return self.read(&name).await,
                Tried::Contended => tries.again(&name).await?,
            }
        }
    }

    async fn delete(&self, request: &pb::DeleteNodeRequest) -> Result<pb::DeleteNodeResponse, Fault> {
        let name = NodeRef::parse(&request.name)?;
        let mark = mark(
            &name.project,
            &request.request_id,
            "skerry.registry.v1.NodeService/DeleteNode",
            request,
            &name,
        )?;
        if let Some(mark) = &mark
            && self.store.find_request(mark).await?.is_some()
        {
            return Ok(pb::DeleteNodeResponse {});
        }
        let key = Key::<stored::NodeRecord>::of(&name);
        let mut tries = Tries::default();
        loop {
            let before = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(&name))?;
            Etag::check(&request.etag, &name, before.mod_revision)?;
            // All that is kept as long as the node. The gateway sees the session's record go and ends the stream.
            let mut txn = Txn::new()
                .when_same(&before)
                .delete(&key)
                .delete(&Key::<stored::SessionRecord>::of(&name))
                .delete(&Key::<stored::StatusRecord>::of(&name))
                .delete(&Key::<stored::AssignmentRecord>::of(&name))
                .delete(&Key::<stored::EventsRecord>::of(&EventSource::Node(name.clone())));
            if let Some(mark) = &mark {
                txn = txn.request(mark.clone());
            }
            match Tried::from_commit(self.store.commit(txn).await, |committed| committed)? {
                Tried::Done(committed) => {
                    self.catch_up(&committed).await?;
                    return Ok(pb::DeleteNodeResponse {});
                }
                Tried::Repeated => return Ok(pb::DeleteNodeResponse {}),
                Tried::Contended => tries.again(&name).await?,
            }
        }
    }

    fn list(&self, request: &pb::ListNodesRequest) -> Result<pb::ListNodesResponse, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let page = page_args(request.page_size, &request.page_token)?;
        let page = self.shared.nodes.list(&project, &selector, &page, PAGE_BYTES_MAX)?;
        Ok(pb::ListNodesResponse {
            nodes: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        })
    }

    async fn watch(
        &self,
        request: &pb::WatchNodesRequest,
    ) -> Result<ResponseStream<pb::WatchNodesResponse>, Fault> {
        let (project, selector) = parent_and_selector(&request.parent, &request.label_selector)?;
        let watcher =
            Watcher::start(Arc::clone(&self.shared.nodes), &project, selector, &request.resource_version)
                .await?;
        Ok(stream_of(watcher, told, self.shutdown.wait()))
    }
}

fn told(told: &Told<Node>) -> pb::WatchNodesResponse {
    let (node, resource_version) = told.parts();
    let change = match told {
        Told::Added(..) => ChangeType::Added,
        Told::Modified(..) => ChangeType::Modified,
        Told::Deleted(..) => ChangeType::Deleted,
        Told::Bookmark(_) => ChangeType::Bookmark,
    };
    pb::WatchNodesResponse {
        r#type: change.into(),
        node: node.map(|node| Node::clone(node)),
        resource_version,
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(
        &self,
        request: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let read = async { self.read(&NodeRef::parse(&request.get_ref().name)?).await };
        reply(read.await.map(|node| pb::GetNodeResponse { node: Some(node) }))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        reply(self.list(request.get_ref()))
    }

    type WatchNodesStream = ResponseStream<pb::WatchNodesResponse>;

    async fn watch_nodes(
        &self,
        request: Request<pb::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        reply(self.watch(request.get_ref()).await)
    }

    async fn update_node(
        &self,
        request: Request<pb::UpdateNodeRequest>,
    ) -> Result<Response<pb::UpdateNodeResponse>, Status> {
        reply(self.update(request.get_ref()).await.map(|node| pb::UpdateNodeResponse { node: Some(node) }))
    }

    async fn delete_node(
        &self,
        request: Request<pb::DeleteNodeRequest>,
    ) -> Result<Response<pb::DeleteNodeResponse>, Status> {
        reply(self.delete(request.get_ref()).await)
    }
}
