//! The gRPC face: each stream gets its actor, and is answered by what the actor sends.

use std::sync::Arc;

use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_service_server::SyncService;
use skerry_rpc::{Peer, status_of};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Shared;
use crate::actor::{Actor, EGRESS_MAX, Egress, STOPS};

#[derive(Clone)]
pub(crate) struct Sync {
    shared: Arc<Shared>,
}

impl Sync {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl SyncService for Sync {
    type SyncStream =
        tokio_stream::adapters::Map<ReceiverStream<Egress>, fn(Egress) -> Result<pb::SyncResponse, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        if self.shared.shutdown.is_ending() {
            return Err(Status::unavailable(STOPS));
        }
        let (sender, receiver) = mpsc::channel(EGRESS_MAX);
        let actor = Actor::new(Arc::clone(&self.shared), peer, request.into_inner(), sender);
        self.shared.shutdown.spawn(actor.run());
        let unbox: fn(Egress) -> Result<pb::SyncResponse, Status> = |frame| *frame;
        Ok(Response::new(ReceiverStream::new(receiver).map(unbox)))
    }
}
