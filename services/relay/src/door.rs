//! `ChannelService`: agents that dial. The first frame says which channel; it is handed to who waits for it here, or passed on to the relay
//! that holds it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use skerry_identity::Identity;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_service_server::ChannelService;
use skerry_proto::relay::v1::open_request::Body;
use skerry_rpc::{Peer, status_of};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Shared;
use crate::channels::{Dialled, Frames};
use crate::peers;

/// How long the first frame may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames to an agent that gRPC has not taken yet.
const TO_AGENT_MAX: usize = 2;

/// Frames to an agent.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<pb::OpenResponse, Status>> + Send>>;

#[derive(Clone)]
pub(crate) struct Door {
    shared: Arc<Shared>,
}

impl Door {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn take(&self, peer: &Peer, mut frames: Streaming<pb::OpenRequest>) -> Result<Answers, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Body::Hello(hello)) = first.and_then(|frame| frame.body) else {
            return Err(Status::failed_precondition("the first frame must be a hello"));
        };
        let node = peer.identity().and_then(Identity::node);
        if node.as_ref().is_some_and(|node| node.to_string() != hello.node) {
            let fault = Fault::new(
                Code::PermissionDenied,
                "CHANNEL_DENIED",
                format!("this caller may not speak for {}", hello.node),
            );
            return Err(status_of(&fault));
        }
        if *hello.owner != *self.shared.id {
            return peers::forward(&self.shared, hello, frames).await;
        }
        accept(&self.shared, &hello, node.as_ref(), Box::pin(frames))
    }
}

/// Hands an agent that dialled to who waits for it.
pub(crate) fn accept(
    shared: &Shared,
    hello: &pb::ChannelHello,
    peer: Option<&NodeRef>,
    frames: Frames,
) -> Result<Answers, Status> {
    let waiting = shared.channels.take(hello, peer).map_err(|fault| status_of(&fault))?;
    let (out, answers) = mpsc::channel(TO_AGENT_MAX);
    if waiting.send(Dialled { frames, out }).is_err() {
        return Err(status_of(&Fault::unavailable("nobody waits for this channel any more")));
    }
    Ok(ReceiverStream::new(answers).boxed())
}

#[tonic::async_trait]
impl ChannelService for Door {
    type OpenStream = Answers;

    async fn open(
        &self,
        request: Request<Streaming<pb::OpenRequest>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        self.take(&peer, request.into_inner()).await.map(Response::new)
    }
}
