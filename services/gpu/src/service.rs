//! The API: each call goes to the module whose matter it is.

use std::sync::Arc;

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gpu_service_server::GpuService;
use tonic::{Request, Response, Status};

use crate::{Shared, history, inventory, samples};

/// What a call answers over time.
pub(crate) type Answers<T> = skerry_api::ResponseStream<T>;

pub(crate) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl GpuService for Service {
    type WatchGpusStream = Answers<pb::WatchGpusResponse>;
    type StreamSamplesStream = Answers<pb::StreamSamplesResponse>;

    async fn get_gpu(
        &self,
        request: Request<pb::GetGpuRequest>,
    ) -> Result<Response<pb::GetGpuResponse>, Status> {
        inventory::get(&self.shared.inventory, &request)
    }

    async fn list_gpus(
        &self,
        request: Request<pb::ListGpusRequest>,
    ) -> Result<Response<pb::ListGpusResponse>, Status> {
        inventory::list(&self.shared.inventory, request).await
    }

    async fn watch_gpus(
        &self,
        request: Request<pb::WatchGpusRequest>,
    ) -> Result<Response<Self::WatchGpusStream>, Status> {
        inventory::watch(&self.shared.inventory, request).await
    }

    async fn list_allocations(
        &self,
        request: Request<pb::ListAllocationsRequest>,
    ) -> Result<Response<pb::ListAllocationsResponse>, Status> {
        inventory::allocations(&self.shared.inventory, request).await
    }

    async fn stream_samples(
        &self,
        request: Request<pb::StreamSamplesRequest>,
    ) -> Result<Response<Self::StreamSamplesStream>, Status> {
        samples::stream(&self.shared, request.into_inner()).await
    }

    async fn query_history(
        &self,
        request: Request<pb::QueryHistoryRequest>,
    ) -> Result<Response<pb::QueryHistoryResponse>, Status> {
        history::query(&self.shared, request.into_inner()).await
    }
}
