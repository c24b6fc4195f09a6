//! One channel, from the dial to its end.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::gateway::v1::ChannelOffer;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_service_client::ChannelServiceClient;
use skerry_proto::relay::v1::channel_start::Verb;
use skerry_proto::relay::v1::open_request::Body as Up;
use skerry_proto::relay::v1::open_response::Body as Down;
use skerry_rpc::ClientTls;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;
use tonic::{Status, Streaming};

use super::forbidden::{self, Forbidden};
use super::relays::Relays;
use super::{act, bundle, copy, exec, forward, logs, usage};
use crate::hand::Ask;
use crate::runtime::{Runtime, RuntimeError};

/// Frames that gRPC has not taken yet.
pub(super) const FRAMES_MAX: usize = 1;
/// Largest frame.
const FRAME_BYTES_MAX: usize = 256 * 1024;
/// How long a relay may take to say what is wanted.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last word may take to go out.
const LINGER: Duration = Duration::from_secs(2);

/// What a channel is made of.
pub(super) struct Parts {
    pub(super) node: String,
    pub(super) offer: ChannelOffer,
    /// Where to dial.
    pub(super) places: Vec<Uri>,
    pub(super) tls: Option<ClientTls>,
    pub(super) relays: Arc<Relays>,
    pub(super) runtimes: Arc<[Arc<dyn Runtime>]>,
    pub(super) forbidden: Arc<Forbidden>,
    pub(super) desk: mpsc::Sender<Ask>,
    pub(super) sources: Arc<bundle::Sources>,
    /// Fires when the session is over.
    pub(super) session: CancellationToken,
}

/// Serves the channel until its end. Whatever it held is given back then.
pub(super) async fn run(parts: Parts) {
    let channel = parts.offer.channel.clone();
    let session = parts.session.clone();
    let opened = tokio::select! {
        opened = open(&parts) => opened,
        () = session.cancelled() => return,
    };
    let (out, mut frames, _connection) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            tracing::warn!(channel, why, "a channel that was offered could not be opened");
            return;
        }
    };
    let end = tokio::select! {
        served = serve(&parts, &out, &mut frames) => served,
        () = session.cancelled() => {
            Some(end_of("SessionLost", "the session to its gateway ended, and its channels with it"))
        }
    };
    // Nothing: the relay has ended it.
    if let Some(end) = end {
        let last = async {
            if out.send(pb::OpenRequest { body: Some(Up::End(end)) }).await.is_ok() {
                drop(out);
                while let Ok(Some(_)) = frames.message().await {}
            }
        };
        let _ = timeout(LINGER, last).await;
    }
    tracing::debug!(channel, "a channel has ended");
}

type Opened = (mpsc::Sender<pb::OpenRequest>, Streaming<pb::OpenResponse>, Arc<super::relays::Connection>);

async fn open(parts: &Parts) -> Result<Opened, String> {
    let connection = parts.relays.connect(&parts.places, parts.tls.as_ref()).await?;
    let mut client = ChannelServiceClient::new(connection.channel.clone())
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let (out, frames) = mpsc::channel(FRAMES_MAX);
    let ChannelOffer { channel, token, owner, .. } = parts.offer.clone();
    let hello = pb::ChannelHello { channel, token, owner, node: parts.node.clone() };
    let said = out.try_send(pb::OpenRequest { body: Some(Up::Hello(hello)) });
    said.map_err(|_| "there is no room for the hello".to_owned())?;
    match timeout(START_TIMEOUT, client.open(ReceiverStream::new(frames))).await {
        Ok(Ok(answer)) => Ok((out, answer.into_inner(), connection)),
        Ok(Err(status)) => {
            parts.relays.failed(&connection).await;
            Err(describe(&status))
        }
        Err(_) => {
            parts.relays.failed(&connection).await;
            Err("the relay did not answer".to_owned())
        }
    }
}

/// Does what is wanted; nothing where the relay has ended the stream.
async fn serve(
    parts: &Parts,
    out: &mpsc::Sender<pb::OpenRequest>,
    frames: &mut Streaming<pb::OpenResponse>,
) -> Option<pb::ChannelEnd> {
    let first = timeout(START_TIMEOUT, frames.message()).await;
    let verb = match first {
        Ok(Ok(Some(pb::OpenResponse { body: Some(Down::Start(start)) }))) => start.verb,
        Ok(Ok(Some(_))) | Err(_) => return Some(end_of("NoStart", "the relay did not say what is wanted")),
        Ok(Ok(None) | Err(_)) => return None,
    };
    // Also where it was offered as something else.
    let word = match &verb {
        Some(Verb::Exec(start)) if start.instance.is_empty() => "node-shell",
        Some(Verb::Exec(_)) => "exec",
        Some(Verb::Forward(_)) => "port-forward",
        Some(Verb::CopyTo(_) | Verb::CopyFrom(_)) => "copy",
        Some(Verb::Act(_)) => "act",
        Some(Verb::Bundle(_)) => "bundle",
        Some(Verb::Usage(_)) => "usage",
        Some(Verb::Logs(_)) | None => "logs",
    };
    if let Some(why) = parts.forbidden.why(word) {
        return Some(end_of(forbidden::REASON, &why));
    }
    let runtimes = &parts.runtimes;
    match verb {
        Some(Verb::Logs(start)) => alone(logs::serve(runtimes, &start, out), frames).await,
        Some(Verb::CopyFrom(start)) => alone(copy::from(runtimes, &start, out), frames).await,
        Some(Verb::CopyTo(start)) => Some(ended(copy::to(runtimes, &start, out, frames).await)),
        Some(Verb::Forward(start)) => Some(ended(forward::serve(runtimes, &start, out, frames).await)),
        Some(Verb::Bundle(_)) => alone(bundle::serve(runtimes, &parts.sources, out), frames).await,
        Some(Verb::Usage(start)) => {
            alone(usage::serve(runtimes, &start, parts.sources.data_dir(), out), frames).await
        }
        Some(Verb::Act(start)) => alone(act::serve(&parts.desk, &start, out), frames).await,
        Some(Verb::Exec(start)) => exec::serve(runtimes, &start, &parts.node, out, frames).await.map(ended),
        None => Some(end_of("VerbUnknown", "this agent does not know what is wanted: update it")),
    }
}

/// Serves a verb to which what comes down means nothing but its end.
async fn alone(
    served: impl Future<Output = Result<(), RuntimeError>>,
    frames: &mut Streaming<pb::OpenResponse>,
) -> Option<pb::ChannelEnd> {
    tokio::select! {
        served = served => Some(ended(served)),
        () = over(frames) => None,
    }
}

fn ended(served: Result<(), RuntimeError>) -> pb::ChannelEnd {
    match served {
        Ok(()) => pb::ChannelEnd::default(),
        Err(RuntimeError { reason, message, .. }) => end_of(reason, &message),
    }
}

/// Waits until the relay has ended its half. What else it says to a log means nothing to this agent.
async fn over(frames: &mut Streaming<pb::OpenResponse>) {
    while let Ok(Some(frame)) = frames.message().await {
        if matches!(frame.body, Some(Down::End(_))) {
            return;
        }
    }
}

fn end_of(reason: &str, message: &str) -> pb::ChannelEnd {
    pb::ChannelEnd { reason: reason.to_owned(), message: message.to_owned() }
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
