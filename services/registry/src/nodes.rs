//! `NodeService`: what is observed of a node, what goes with it, and the handlers. What a node means is in `skerry-resources`.

use std::sync::Arc;
use std::time::SystemTime;

use skerry_api::{Call, Caused, Delete, Kind, ResponseStream, Told, Tries, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::registry::v1::node_service_server::NodeService;
use skerry_proto::registry::v1::{self as pb, ChangeType, Node};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_resources::NodeRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::keys::EventSource;
use skerry_store::{Key, Mirror, Prefix, Store, Txn, TxnError};
use tonic::{Request, Response, Status};

use crate::enrol::{Struck, strike_out};
use crate::follow::Shared;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Nodes {
    rules: NodeRules,
    shared: Arc<Shared>,
    store: Store,
    shutdown: Shutdown,
}

impl Nodes {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { rules: NodeRules::new(store.clone()), shared, store, shutdown }
    }
}

impl Nodes {
    /// Takes the key out of a node's record. The gateway sees the record change and ends the session.
    async fn strike_key(&self, name: &NodeRef, caused: &Caused) -> Result<(), Fault> {
        let key = Key::<stored::NodeRecord>::of(name);
        let mut tries = Tries::default();
        loop {
            let found = self.store.get(&key).await?.ok_or_else(|| Fault::not_found(name))?;
            let mut record = found.value.clone();
            match strike_out(&mut record, SystemTime::now()) {
                Struck::Keys => {}
                Struck::Before => return Ok(()),
                Struck::Nothing => return Err(no_key(name)),
            }
            let act = caused.of(name, AuditOutcome::Revoked);
            match self.store.commit(Txn::new().when_same(&found).put(&key, &record).audit(act)).await {
                Ok(_) => return Ok(()),
                Err(TxnError::Conflict(_)) => tries.again(name).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Said, so that nobody takes a stolen machine for one that is shut out.
fn no_key(name: &NodeRef) -> Fault {
    let message = format!(
        "{name} did not enrol here and has no key to strike out: a certificate of your own PKI is good until it ends, or until its root is taken out of --tls-ca"
    );
    Fault::new(Code::FailedPrecondition, "NO_KEY", message)
}

impl Kind for Nodes {
    type Rules = NodeRules;

    fn rules(&self) -> &NodeRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    /// With the node goes all that is kept as long as it. The gateway sees the session's record go and ends the stream.
    fn remove(&self, name: &NodeRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        Ok(txn
            .delete(&Key::<stored::SessionRecord>::of(name))
            .delete(&Key::<stored::StatusRecord>::of(name))
            .delete(&Key::<stored::AssignmentRecord>::of(name))
            .delete_prefix(&Prefix::<stored::SealedSecretRecord>::sealed_to(name))
            .delete(&Key::<stored::EventsRecord>::of(&EventSource::Node(name.clone()))))
    }

    fn observed(&self, name: &NodeRef, node: Node) -> Node {
        let status = self.shared.nodes.get(&name.to_string()).and_then(|node| node.status.clone());
        Node { status, ..node }
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
        let node = async { skerry_api::read(self, &NodeRef::parse(&request.get_ref().name)?).await };
        reply(node.await.map(|node| pb::GetNodeResponse { node: Some(node) }))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let pb::ListNodesRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shared.nodes, parent, label_selector, *page_size, page_token).await;
        reply(page.map(|page| pb::ListNodesResponse {
            nodes: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchNodesStream = ResponseStream<pb::WatchNodesResponse>;

    async fn watch_nodes(
        &self,
        request: Request<pb::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let pb::WatchNodesRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shared.nodes, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn update_node(
        &self,
        request: Request<pb::UpdateNodeRequest>,
    ) -> Result<Response<pb::UpdateNodeResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.NodeService/UpdateNode";
        let update = Update {
            resource: request.node.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: false,
            validate_only: false,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(node, _)| pb::UpdateNodeResponse { node: Some(node) }))
    }

    async fn revoke_node(
        &self,
        request: Request<pb::RevokeNodeRequest>,
    ) -> Result<Response<pb::RevokeNodeResponse>, Status> {
        let node = async {
            let name = NodeRef::parse(&request.get_ref().name)?;
            let caused = Caused::by("skerry.registry.v1.NodeService/RevokeNode", &request);
            self.strike_key(&name, &caused).await?;
            skerry_api::read(self, &name).await
        };
        reply(node.await.map(|node| pb::RevokeNodeResponse { node: Some(node) }))
    }

    async fn delete_node(
        &self,
        request: Request<pb::DeleteNodeRequest>,
    ) -> Result<Response<pb::DeleteNodeResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.NodeService/DeleteNode";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteNodeResponse {}))
    }
}
