//! The API: each call goes to the module whose matter it is.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gpu_service_server::GpuService;
use tonic::{Request, Response, Status};

use crate::{Shared, inventory};

/// What a call answers over time.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

pub(crate) fn missing<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not yet"))
}

#[tonic::async_trait]
impl GpuService for Service {
    type WatchGpusStream = Answers<pb::WatchGpusResponse>;
    type StreamSamplesStream = Answers<pb::StreamSamplesResponse>;

    async fn get_gpu(
        &self,
        request: Request<pb::GetGpuRequest>,
    ) -> Result<Response<pb::GetGpuResponse>, Status> {
        inventory::get(&self.shared, request).await
    }

    async fn list_gpus(
        &self,
        request: Request<pb::ListGpusRequest>,
    ) -> Result<Response<pb::ListGpusResponse>, Status> {
        inventory::list(&self.shared, request).await
    }

    async fn watch_gpus(
        &self,
        request: Request<pb::WatchGpusRequest>,
    ) -> Result<Response<Self::WatchGpusStream>, Status> {
        inventory::watch(&self.shared, request).await
    }

    async fn list_allocations(
        &self,
        request: Request<pb::ListAllocationsRequest>,
    ) -> Result<Response<pb::ListAllocationsResponse>, Status> {
        inventory::allocations(&self.shared, request).await
    }

    async fn stream_samples(
        &self,
        _: Request<pb::StreamSamplesRequest>,
    ) -> Result<Response<Self::StreamSamplesStream>, Status> {
        missing()
    }

    async fn query_history(
        &self,
        _: Request<pb::QueryHistoryRequest>,
    ) -> Result<Response<pb::QueryHistoryResponse>, Status> {
        missing()
    }
}
