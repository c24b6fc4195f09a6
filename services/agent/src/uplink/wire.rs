//! One connection to a gateway: dialling, the open stream, and its end. What is said on it is the machine's matter.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_service_client::SyncServiceClient;
use skerry_rpc::Endpoint;
use skerry_rpc::{ClientTls, ConnectError};
use skerry_sync::limits::{DIAL_TIMEOUT, FRAME_BYTES_MAX};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Uri};

/// Frames that wait to be sent. One Report and one heartbeat are under way at most, so a full queue means a dead link.
const FRAMES_MAX: usize = 16;
/// HTTP/2 windows: what a gateway may send ahead. One part of an Update fits in a few round trips; memory counts for more here.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 4 * 1024;
/// Calls that may wait inside the channel: there is one.
const CALLS_MAX: usize = 2;
/// How long what was sent last may take to go out.
const LINGER: Duration = Duration::from_secs(1);

/// What comes from a connection.
pub(super) enum FromWire {
    /// The channel is there: frames may be sent.
    Connected,
    /// A frame.
    Frame(pb::SyncResponse),
    /// It ended, or could not be opened.
    Ended(String),
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connection in whatever state.
#[derive(Default)]
pub(super) enum Wire {
    /// There is none.
    #[default]
    Off,
    /// The channel is being opened.
    Dialing(Boxed<Result<Channel, String>>),
    /// The channel is there, the stream's headers have not come back yet.
    Opening {
        out: mpsc::Sender<pb::SyncRequest>,
        opening: Boxed<Result<Streaming<pb::SyncResponse>, String>>,
    },
    /// The stream is there.
    Open { out: mpsc::Sender<pb::SyncRequest>, frames: Box<Streaming<pb::SyncResponse>> },
}

impl Wire {
    /// Begins to dial.
    pub(super) fn dial(uri: Uri, tls: Option<ClientTls>) -> Self {
        Self::Dialing(Box::pin(connect(uri, tls)))
    }

    /// What happens next. May be dropped and called again.
    pub(super) async fn next(&mut self) -> FromWire {
        loop {
            match self {
                Self::Off => return std::future::pending().await,
                Self::Dialing(dialing) => match dialing.await {
                    Ok(channel) => {
                        let (out, frames) = mpsc::channel(FRAMES_MAX);
                        *self = Self::Opening { out, opening: Box::pin(open(channel, frames)) };
                        return FromWire::Connected;
                    }
                    Err(why) => return self.ended(why),
                },
                Self::Opening { out, opening } => match opening.await {
                    Ok(frames) => *self = Self::Open { out: out.clone(), frames: Box::new(frames) },
                    Err(why) => return self.ended(why),
                },
                Self::Open { frames, .. } => {
                    let received = frames.message().await;
                    return self.received(received);
                }
            }
        }
    }

    fn received(&mut self, received: Result<Option<pb::SyncResponse>, tonic::Status>) -> FromWire {
        match received {
            Ok(Some(frame)) => FromWire::Frame(frame),
            Ok(None) => self.ended("the gateway ended the stream".to_owned()),
            Err(status) => self.ended(describe(&status)),
        }
    }

    fn ended(&mut self, why: String) -> FromWire {
        *self = Self::Off;
        FromWire::Ended(why)
    }

    /// Queues a frame. Fails where the link takes none. Where the gateway has ended the stream the frame is lost: what the gateway said last
    /// is still to be received, and then the end.
    pub(super) fn send(&self, frame: pb::SyncRequest) -> Result<(), String> {
        match self {
            Self::Opening { out, .. } | Self::Open { out, .. } => match out.try_send(frame) {
                Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
                Err(TrySendError::Full(_)) => Err("the link takes no more frames".to_owned()),
            },
            Self::Off | Self::Dialing(_) => Err("there is no link".to_owned()),
        }
    }

    /// Ends the connection after what was sent; the future is done when it is gone.
    pub(super) fn hang_up(&mut self) -> Option<Boxed<()>> {
        match std::mem::take(self) {
            Self::Off | Self::Dialing(_) => None,
            Self::Opening { out, opening } => {
                drop(out);
                Some(linger(async move {
                    if let Ok(mut frames) = opening.await {
                        while let Ok(Some(_)) = frames.message().await {}
                    }
                }))
            }
            Self::Open { out, mut frames } => {
                drop(out);
                Some(linger(async move { while let Ok(Some(_)) = frames.message().await {} }))
            }
        }
    }
}

/// The end of the requests tells the gateway; dropping the answers at once would cut off what is still being sent.
fn linger(ending: impl Future<Output = ()> + Send + 'static) -> Boxed<()> {
    Box::pin(async move {
        let _ = tokio::time::timeout(LINGER, ending).await;
    })
}

/// Opens a channel to a gateway.
pub(crate) async fn connect(uri: Uri, tls: Option<ClientTls>) -> Result<Channel, String> {
    let address = uri.to_string();
    // Heartbeats tell a dead link: HTTP/2 sends no pings of its own.
    let tuned = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(DIAL_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .buffer_size(CALLS_MAX)
    };
    match tokio::time::timeout(DIAL_TIMEOUT, skerry_rpc::open(uri, tuned, tls.as_ref())).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(ConnectError::Unreachable { source, .. })) => {
            Err(format!("cannot reach {address}: {}", root_cause(&source)))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{address} does not answer")),
    }
}

async fn open(
    channel: Channel,
    frames: mpsc::Receiver<pb::SyncRequest>,
) -> Result<Streaming<pb::SyncResponse>, String> {
    let mut client = SyncServiceClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    match client.sync(ReceiverStream::new(frames)).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(describe(&status)),
    }
}

fn describe(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        // Of the transport: its status says no more than that.
        Some(source) => root_cause(source),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
