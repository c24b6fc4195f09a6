//! Clusters as the server gives them.

use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::cluster_service_client::ClusterServiceClient;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{CallError, Client, Service, request, request_id};
use crate::commands::send::{Sending, mask, outcome};
use crate::item::Item;

fn clusters(channel: Channel) -> ClusterServiceClient<Traced> {
    ClusterServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn item(cluster: pb::Cluster) -> Item {
    Item::Cluster(Box::new(cluster))
}

impl Client {
    /// The cluster of that full name.
    pub(crate) async fn get_cluster(&self, name: String) -> Result<Item, CallError> {
        let message = pb::GetClusterRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { clusters(channel).get_cluster(request(message, left)).await }
        });
        Ok(item(answer.await?.cluster.unwrap_or_default()))
    }

    /// A page of clusters, the token of the next, and where a watch continues.
    pub(crate) async fn page_of_clusters(
        &self,
        page_size: i32,
        page_token: String,
        label_selector: String,
    ) -> Result<(Vec<Item>, String, String), CallError> {
        let parent = self.project().parent();
        let message = pb::ListClustersRequest { parent, label_selector, page_size, page_token };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { clusters(channel).list_clusters(request(message, left)).await }
        });
        let page = answer.await?;
        Ok((page.clusters.into_iter().map(item).collect(), page.next_page_token, page.resource_version))
    }

    /// Changes of clusters after a version.
    pub(crate) async fn cluster_changes(
        &self,
        resource_version: String,
        label_selector: String,
    ) -> Result<Streaming<pb::WatchClustersResponse>, CallError> {
        let parent = self.project().parent();
        let message = pb::WatchClustersRequest { parent, resource_version, label_selector };
        let stream = self.call(Service::Registry, |channel, _| {
            let message = message.clone();
            async move { clusters(channel).watch_clusters(message).await }
        });
        stream.await
    }

    /// Creates a cluster.
    pub(crate) async fn create_cluster(&self, cluster: pb::Cluster) -> Result<(), CallError> {
        let message = pb::CreateClusterRequest {
            parent: self.project().parent(),
            cluster: Some(cluster),
            request_id: request_id(),
            validate_only: false,
        };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { clusters(channel).create_cluster(request(message, left)).await }
        });
        answer.await.map(drop)
    }

    /// Creates or changes a cluster; answers what it is then.
    pub(crate) async fn send_cluster(
        &self,
        cluster: pb::Cluster,
        how: &Sending,
    ) -> Result<(Item, Outcome), CallError> {
        let message = pb::UpdateClusterRequest {
            cluster: Some(pb::Cluster { status: None, ..cluster }),
            update_mask: mask(how),
            request_id: request_id(),
            allow_missing: how.create,
            validate_only: how.dry_run,
        };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { clusters(channel).update_cluster(request(message, left)).await }
        });
        let answer = answer.await?;
        let came = outcome(answer.outcome());
        Ok((item(answer.cluster.unwrap_or_default()), came))
    }

    /// Deletes the cluster of that full name.
    pub(crate) async fn delete_cluster(&self, name: String, request_id: String) -> Result<(), CallError> {
        let message = pb::DeleteClusterRequest { name, etag: String::new(), request_id };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { clusters(channel).delete_cluster(request(message, left)).await }
        });
        answer.await.map(drop)
    }
}
