//! Between replicas: each answers for the nodes that it has.

use std::sync::Arc;

use futures_util::StreamExt as _;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::peer_service_server::PeerService;
use skerry_rpc::status_of;
use tonic::{Request, Response, Status};

use crate::service::Answers;
use crate::{Shared, history, samples};

/// Who gpu services are, to each other.
pub(crate) const NAMES: [&str; 2] = ["gpu", "skerry"];

/// See the module.
pub(crate) struct Peers {
    shared: Arc<Shared>,
}

impl Peers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl PeerService for Peers {
    type StreamOwnSamplesStream = Answers<pb::StreamSamplesResponse>;

    async fn stream_own_samples(
        &self,
        request: Request<pb::StreamOwnSamplesRequest>,
    ) -> Result<Response<Self::StreamOwnSamplesStream>, Status> {
        let told = samples::own(&self.shared, request.get_ref()).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(told.boxed()))
    }

    async fn query_own_history(
        &self,
        request: Request<pb::QueryOwnHistoryRequest>,
    ) -> Result<Response<pb::QueryHistoryResponse>, Status> {
        let series = history::own(&self.shared, request.into_inner()).await;
        series
            .map(|series| Response::new(pb::QueryHistoryResponse { series }))
            .map_err(|fault| status_of(&fault))
    }
}
