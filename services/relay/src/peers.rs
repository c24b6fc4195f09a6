//! Between relays: a channel whose agent dialled another replica than its owner is passed on frame by frame, and what is open anywhere can be
//! listed and cut from everywhere.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use skerry_api::Replica;
use skerry_model::{Code, Fault, NodeRef, ProjectName};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::forward_request::Body;
use skerry_proto::relay::v1::peer_service_client::PeerServiceClient;
use skerry_proto::relay::v1::peer_service_server::PeerService;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced, status_of};
use tonic::{Request, Response, Status, Streaming};

use crate::door::{self, Answers};
use crate::{FRAME_BYTES_MAX, Shared};

/// How long the first frame may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another relay may take for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Who relays are, to each other.
const NAMES: [&str; 2] = ["relay", "skerry"];

#[derive(Clone)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
}

impl Peers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Passes an agent's stream on to the relay that holds its channel. Nothing is buffered here: each frame is asked for by who reads it, and the
/// end of either half ends the other's.
pub(crate) async fn forward(
    shared: &Arc<Shared>,
    hello: pb::ChannelHello,
    frames: Streaming<pb::OpenRequest>,
) -> Result<Answers, Status> {
    let found = shared.reach.relay(&hello.owner).await.map_err(|fault| status_of(&fault))?;
    let Some(address) = found else {
        let message = "the relay that holds this channel is gone: whoever asked for it asks again";
        return Err(status_of(&Fault::new(Code::NotFound, "NO_SUCH_RELAY", message)));
    };
    let connection = shared.reach.connect(&address, &NAMES).await.map_err(|fault| status_of(&fault))?;
    let mut client = PeerServiceClient::new(connection.channel.clone())
        .max_encoding_message_size(FRAME_BYTES_MAX)
        .max_decoding_message_size(FRAME_BYTES_MAX);
    let mut gone = Gone { shared: Arc::clone(shared), address: address.clone(), name: channel_name(&hello) };
    let first = pb::ForwardRequest { body: Some(Body::Hello(hello)) };
    // An agent that broke off ends this half; the owner sees that no end was said.
    let rest = frames
        .take_while(|frame| std::future::ready(frame.is_ok()))
        .filter_map(|frame| std::future::ready(frame.ok()))
        .map(|frame| pb::ForwardRequest { body: Some(Body::Frame(frame)) });
    let sent = stream::once(std::future::ready(first)).chain(rest);
    match client.forward(sent).await {
        Ok(answer) => {
            // The connection counts as used until the stream has ended.
            let held = answer.into_inner().map(move |frame| {
                let _held = &connection;
                frame
            });
            // Nothing comes last where the owner has ended it; else nobody here takes any more.
            let held = held.map(Some).chain(stream::once(std::future::ready(None)));
            let held = held.scan(gone, |gone, frame| {
                if frame.is_none() {
                    gone.name.clear();
                }
                std::future::ready(frame)
            });
            Ok(held.boxed())
        }
        Err(status) => {
            gone.name.clear();
            shared.reach.failed(&address, &status);
            Err(status)
        }
    }
}

/// Tells the owner of a channel when its agent is gone from here: frames that nobody takes hide the end of their stream.
struct Gone {
    shared: Arc<Shared>,
    /// Of the owner.
    address: String,
    /// Of the channel. Empty: it has ended, and there is nothing to tell.
    name: String,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let (shared, address) = (Arc::clone(&self.shared), std::mem::take(&mut self.address));
        let request =
            pb::CutOwnChannelRequest { name: std::mem::take(&mut self.name), caller: String::new() };
        self.shared.shutdown.spawn(async move {
            let owner = Replica { id: String::new(), address };
            // It may have ended meanwhile.
            let _ =
                ask(&shared, &owner, |mut client| async move { client.cut_own_channel(request).await }).await;
        });
    }
}

fn channel_name(hello: &pb::ChannelHello) -> String {
    let project = hello.node.split("/nodes/").next().unwrap_or_default();
    format!("{project}/channels/{}", hello.channel)
}

/// The channels of a project at all relays, and those relays that did not answer.
pub(crate) async fn list_all(
    shared: &Shared,
    project: &ProjectName,
) -> Result<pb::ListChannelsResponse, Fault> {
    let mut channels = shared.channels.list(project, &shared.id);
    let mut unreachable = Vec::new();
    for member in others(shared).await? {
        let request = pb::ListOwnChannelsRequest { parent: project.parent() };
        let asked = ask(shared, &member, |mut client| async move { client.list_own_channels(request).await });
        match asked.await {
            Ok(answer) => channels.extend(answer.channels),
            Err(status) => {
                unreachable.push(format!("{} at {}: {}", member.id, member.address, status.message()));
            }
        }
    }
    channels.sort_by(|a, b| a.name.cmp(&b.name));
    // A relay that was started again is known by its former id too, for some seconds.
    channels.dedup_by(|a, b| a.name == b.name);
    Ok(pb::ListChannelsResponse { channels, unreachable })
}

/// Ends a channel wherever it is. `false`: no relay that answered has it.
pub(crate) async fn cut_anywhere(
    shared: &Shared,
    project: &ProjectName,
    id: &str,
    caller: &str,
) -> Result<bool, Fault> {
    if shared.channels.cut(project, id) {
        return Ok(true);
    }
    let name = format!("{}/channels/{id}", project.parent());
    for member in others(shared).await? {
        let request = pb::CutOwnChannelRequest { name: name.clone(), caller: caller.to_owned() };
        let asked = ask(shared, &member, |mut client| async move { client.cut_own_channel(request).await });
        match asked.await {
            Ok(_) => return Ok(true),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => tracing::warn!(relay = member.id, %status, "this relay could not be asked"),
        }
    }
    Ok(false)
}

async fn others(shared: &Shared) -> Result<Vec<Replica>, Fault> {
    let mut members = shared.reach.members("relay").await?;
    members.retain(|member| *member.id != *shared.id);
    Ok(members)
}

async fn ask<T, F>(
    shared: &Shared,
    member: &Replica,
    call: impl FnOnce(PeerServiceClient<Traced>) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let connection =
        shared.reach.connect(&member.address, &NAMES).await.map_err(|fault| status_of(&fault))?;
    let client = PeerServiceClient::new(Traced::new(connection.channel.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = tokio::time::timeout(DEADLINE, call(client)).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time")));
    answer.map(Response::into_inner).inspect_err(|status| shared.reach.failed(&member.address, status))
}

/// `projects/<project>/channels/<id>`, taken apart.
pub(crate) fn parse_name(name: &str) -> Result<(ProjectName, &str), Fault> {
    let form = || {
        Fault::invalid_field(
            "name",
            "write projects/<project>/channels/<id>, as `skerry channel list` shows it",
        )
    };
    let (parent, id) = name.split_once("/channels/").ok_or_else(form)?;
    let project = ProjectName::parse_parent(parent).map_err(|error| Fault::invalid_field("name", error))?;
    if id.is_empty() || id.contains('/') {
        return Err(form());
    }
    Ok((project, id))
}

#[tonic::async_trait]
impl PeerService for Peers {
    type ForwardStream = Answers;

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Body::Hello(hello)) = first.and_then(|frame| frame.body) else {
            return Err(Status::failed_precondition("the first frame must be a hello"));
        };
        // The other relay has held the node against its identity.
        let node =
            NodeRef::parse(&hello.node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let frames = frames.filter_map(|frame| {
            std::future::ready(match frame {
                Ok(pb::ForwardRequest { body: Some(Body::Frame(frame)) }) => Some(Ok(frame)),
                Ok(_) => None,
                Err(status) => Some(Err(status)),
            })
        });
        door::accept(&self.shared, &hello, Some(&node), Box::pin(frames)).map(Response::new)
    }

    async fn list_own_channels(
        &self,
        request: Request<pb::ListOwnChannelsRequest>,
    ) -> Result<Response<pb::ListOwnChannelsResponse>, Status> {
        let project = ProjectName::parse_parent(&request.get_ref().parent)
            .map_err(|error| status_of(&Fault::invalid_field("parent", error)))?;
        let channels = self.shared.channels.list(&project, &self.shared.id);
        Ok(Response::new(pb::ListOwnChannelsResponse { channels }))
    }

    async fn cut_own_channel(
        &self,
        request: Request<pb::CutOwnChannelRequest>,
    ) -> Result<Response<pb::CutOwnChannelResponse>, Status> {
        let request = request.into_inner();
        let (project, id) = parse_name(&request.name).map_err(|fault| status_of(&fault))?;
        if request.caller.is_empty() && self.shared.channels.agent_gone(&project, id) {
            return Ok(Response::new(pb::CutOwnChannelResponse {}));
        }
        if !request.caller.is_empty() && self.shared.channels.cut(&project, id) {
            tracing::info!(channel = id, caller = request.caller, "a channel was cut");
            return Ok(Response::new(pb::CutOwnChannelResponse {}));
        }
        Err(status_of(&Fault::not_found(&request.name)))
    }
}
