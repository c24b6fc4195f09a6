//! `OfferService`: relays offer channels to agents whose sessions are here. What is said to the agent, and when its answer is given up, is
//! the session machine's.

use std::sync::Arc;
use std::time::Duration;

use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::offer_service_server::OfferService;
use skerry_rpc::status_of;
use skerry_sync::gateway::{NO_ANSWER, NO_SESSION, TOO_MANY};
use skerry_sync::{OfferRefusal, Version, limits};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::Shared;
use crate::live::Offer;

/// Largest request: names, a token, some addresses.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Longest name of a channel, in bytes.
const CHANNEL_BYTES_MAX: usize = 64;
/// Beyond the time that the machine gives the agent: what an actor may take that has much else to do.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Offers {
    shared: Arc<Shared>,
}

impl Offers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn offer(&self, request: pb::OfferChannelRequest) -> Result<(), Fault> {
        let node = NodeRef::parse(&request.node).map_err(|error| Fault::invalid_field("node", error))?;
        let epoch =
            request.epoch.ok_or_else(|| Fault::invalid_field("epoch", "say which session is meant"))?;
        let offer = request.offer.ok_or_else(|| Fault::invalid_field("offer", "say what is offered"))?;
        if offer.channel.is_empty() || offer.channel.len() > CHANNEL_BYTES_MAX {
            let why = format!("name the channel, in at most {CHANNEL_BYTES_MAX} bytes");
            return Err(Fault::invalid_field("offer.channel", why));
        }
        let (answer, answered) = oneshot::channel();
        let offer = Offer { epoch: Version::from(epoch), what: Box::new(offer), answer };
        self.shared.live.offer(&node, offer).map_err(|_| no_session(&node))?;
        match tokio::time::timeout(limits::OFFER_TIMEOUT + MARGIN, answered).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(refusal))) => Err(refused(&node, refusal)),
            Ok(Err(_)) => {
                Err(Fault::unavailable(format!("the session of {node} ended meanwhile: try again")))
            }
            Err(_) => Err(Fault::unavailable(format!("the session of {node} is not heard of: try again"))),
        }
    }
}

fn no_session(node: &NodeRef) -> Fault {
    Fault::new(Code::NotFound, "NO_SESSION", format!("no session of {node} that is meant is at this gateway"))
}

fn refused(node: &NodeRef, OfferRefusal { reason, message }: OfferRefusal) -> Fault {
    match reason.as_str() {
        NO_SESSION => no_session(node),
        NO_ANSWER => Fault::unavailable(format!("{node}: {message}")),
        TOO_MANY => Fault::new(Code::ResourceExhausted, "TOO_MANY_OFFERS", format!("{node}: {message}")),
        _ => Fault::new(Code::FailedPrecondition, "OFFER_REFUSED", format!("{node}: {message}"))
            .with("refusal", &reason),
    }
}

#[tonic::async_trait]
impl OfferService for Offers {
    async fn offer_channel(
        &self,
        request: Request<pb::OfferChannelRequest>,
    ) -> Result<Response<pb::OfferChannelResponse>, Status> {
        let offered = self.offer(request.into_inner()).await;
        offered.map(|()| Response::new(pb::OfferChannelResponse {})).map_err(|fault| status_of(&fault))
    }
}
