//! `ClusterService`: what is observed of a cluster, when it may go, and the handlers. What a cluster means is in `skerry-resources`.
//!
//! Who is in a cluster is said by the nodes: by their label `skerry.dev/cluster` (the rules of nodes see that it names one).

mod view;

use std::sync::Arc;

use skerry_api::{Call, Caused, Create, Delete, Kind, ResponseStream, Told, Update, reply};
use skerry_daemon::Shutdown;
use skerry_model::{ClusterRef, Code, Fault};
use skerry_proto::registry::v1::cluster_service_server::ClusterService;
use skerry_proto::registry::v1::{self as pb, ChangeType, Cluster};
use skerry_resources::ClusterRules;
use skerry_rpc::{Peer, status_of as status};
use skerry_store::{Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use crate::access::outcome;
use crate::follow::Shared;

/// Members that are named to who would delete a cluster.
const MEMBERS_NAMED: usize = 5;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Clusters {
    rules: ClusterRules,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

impl Clusters {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, shutdown: Shutdown) -> Self {
        Self { rules: ClusterRules::new(store), shared, shutdown }
    }

    /// With what is observed now.
    fn observe(&self, clusters: Vec<Cluster>) -> Vec<Cluster> {
        let (nodes, snapshot) = (self.shared.nodes.snapshot(), self.shared.mirror.snapshot());
        let mut members = view::Members::new();
        let mut of = None;
        let observe = |mut cluster: Cluster| {
            let name = cluster.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
            let Ok(name) = ClusterRef::parse(name) else { return cluster };
            // A page is of one project: its nodes are gone through once.
            if of.as_ref() != Some(&name.project) {
                members = view::members(&nodes, &name.project);
                of = Some(name.project.clone());
            }
            let of_it = members.get(name.cluster.as_str()).map_or(&[][..], Vec::as_slice);
            cluster.status = Some(view::status_of(&name, of_it, &snapshot));
            cluster
        };
        clusters.into_iter().map(observe).collect()
    }
}

impl Kind for Clusters {
    type Rules = ClusterRules;

    fn rules(&self) -> &ClusterRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    fn remove(&self, name: &ClusterRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let nodes = self.shared.nodes.snapshot();
        let members = view::members(&nodes, &name.project);
        let Some(members) = members.get(name.cluster.as_str()) else { return Ok(txn) };
        let names = members.iter().filter_map(|node| node.metadata.as_ref()?.name.rsplit('/').next());
        let named: Vec<&str> = names.take(MEMBERS_NAMED).collect();
        let more = if members.len() > named.len() { " and others" } else { "" };
        let message = format!(
            "{name} has members, whose instances would all be others without it: {}{more} (skerry cluster leave NODE takes one out)",
            named.join(", ")
        );
        Err(Fault::new(Code::FailedPrecondition, "HAS_MEMBERS", message).with("members", members.len()))
    }

    fn observed(&self, _: &ClusterRef, cluster: Cluster) -> Cluster {
        self.observe(vec![cluster]).remove(0)
    }
}

fn told(told: &Told<Cluster>) -> pb::WatchClustersResponse {
    let (cluster, resource_version) = told.parts();
    let change = match told {
        Told::Added(..) => ChangeType::Added,
        Told::Modified(..) => ChangeType::Modified,
        Told::Deleted(..) => ChangeType::Deleted,
        Told::Bookmark(_) => ChangeType::Bookmark,
    };
    let cluster = cluster.map(|cluster| Cluster::clone(cluster));
    pb::WatchClustersResponse { r#type: change.into(), cluster, resource_version }
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn create_cluster(
        &self,
        request: Request<pb::CreateClusterRequest>,
    ) -> Result<Response<pb::CreateClusterResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ClusterService/CreateCluster";
        let pb::CreateClusterRequest { parent, cluster, validate_only, .. } = request;
        let create = Create { parent, resource: cluster.as_ref(), validate_only: *validate_only };
        let made =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(made.map(|cluster| pb::CreateClusterResponse { cluster: Some(cluster) }))
    }

    async fn get_cluster(
        &self,
        request: Request<pb::GetClusterRequest>,
    ) -> Result<Response<pb::GetClusterResponse>, Status> {
        let cluster = async { skerry_api::read(self, &ClusterRef::parse(&request.get_ref().name)?).await };
        reply(cluster.await.map(|cluster| pb::GetClusterResponse { cluster: Some(cluster) }))
    }

    async fn list_clusters(
        &self,
        request: Request<pb::ListClustersRequest>,
    ) -> Result<Response<pb::ListClustersResponse>, Status> {
        let pb::ListClustersRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let hub = &self.shared.clusters;
        let page = skerry_api::list(self, hub, parent, label_selector, *page_size, page_token).await;
        reply(page.map(|page| pb::ListClustersResponse {
            clusters: self.observe(page.items),
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchClustersStream = ResponseStream<pb::WatchClustersResponse>;

    async fn watch_clusters(
        &self,
        request: Request<pb::WatchClustersRequest>,
    ) -> Result<Response<Self::WatchClustersStream>, Status> {
        let pb::WatchClustersRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shared.clusters, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn update_cluster(
        &self,
        request: Request<pb::UpdateClusterRequest>,
    ) -> Result<Response<pb::UpdateClusterResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ClusterService/UpdateCluster";
        let update = Update {
            resource: request.cluster.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(cluster, came)| pb::UpdateClusterResponse {
            cluster: Some(cluster),
            outcome: outcome(came),
        }))
    }

    async fn delete_cluster(
        &self,
        request: Request<pb::DeleteClusterRequest>,
    ) -> Result<Response<pb::DeleteClusterResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.ClusterService/DeleteCluster";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteClusterResponse {}))
    }
}
