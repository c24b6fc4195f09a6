//! Which GPUs there are, and what is booked on them.

use skerry_proto::gpu::v1 as pb;
use tonic::{Request, Response, Status};

use crate::Shared;
use crate::service::{Answers, missing};

pub(crate) async fn get(
    _: &Shared,
    _: Request<pb::GetGpuRequest>,
) -> Result<Response<pb::GetGpuResponse>, Status> {
    missing()
}

pub(crate) async fn list(
    _: &Shared,
    _: Request<pb::ListGpusRequest>,
) -> Result<Response<pb::ListGpusResponse>, Status> {
    missing()
}

pub(crate) async fn watch(
    _: &Shared,
    _: Request<pb::WatchGpusRequest>,
) -> Result<Response<Answers<pb::WatchGpusResponse>>, Status> {
    missing()
}

pub(crate) async fn allocations(
    _: &Shared,
    _: Request<pb::ListAllocationsRequest>,
) -> Result<Response<pb::ListAllocationsResponse>, Status> {
    missing()
}
