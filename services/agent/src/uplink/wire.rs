//! One connection to a gateway: dialling, the open stream, and its end. What is said on it is the machine's matter.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::time::Duration;

use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_service_client::SyncServiceClient;
use skerry_rpc::Endpoint;
use skerry_rpc::{ClientTls, ConnectError};
use skerry_sync::limits::{DIAL_TIMEOUT, FRAME_BYTES_MAX, OFFERS_MAX};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Uri};

use crate::machine::is_reachable;

/// Frames that wait to be sent. One Report and one heartbeat are under way at most, and an answer to each offer of a channel, so a full queue
/// means a dead link.
const FRAMES_MAX: usize = 16 + OFFERS_MAX;
/// HTTP/2 windows: what a gateway may send ahead. One part of an Update fits in a few round trips; memory counts for more here.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 4 * 1024;
/// Calls that may wait inside the channel: there is one.
const CALLS_MAX: usize = 2;
/// How long looking up the gateway's name once more may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// An address for documentation, which is nobody's: the way to it is that to everywhere.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
/// How long what was sent last may take to go out.
const LINGER: Duration = Duration::from_secs(1);

/// What comes from a connection.
pub(super) enum FromWire {
    /// The channel is there: frames may be sent. With this machine's own address on the way to the gateway, where other machines could reach it at that.
    Connected(Option<IpAddr>),
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
    Dialing(Boxed<Result<(Channel, Option<IpAddr>), String>>),
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
        Self::Dialing(Box::pin(async move {
            let channel = connect(uri.clone(), tls).await?;
            Ok((channel, own_address(&uri).await))
        }))
    }

    /// What happens next. May be dropped and called again.
    pub(super) async fn next(&mut self) -> FromWire {
        loop {
            match self {
                Self::Off => return std::future::pending().await,
                Self::Dialing(dialing) => match dialing.await {
                    Ok((channel, own)) => {
                        let (out, frames) = mpsc::channel(FRAMES_MAX);
                        *self = Self::Opening { out, opening: Box::pin(open(channel, frames)) };
                        return FromWire::Connected(own);
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

/// The address that this machine has on its way to a gateway; where that is on this machine too, the one that it has on its way anywhere.
async fn own_address(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let looked_up = tokio::net::lookup_host((host, uri.port_u16()?));
    let gateways = tokio::time::timeout(LOOKUP_TIMEOUT, looked_up).await.ok()?.ok()?;
    gateways.chain([ANYWHERE]).find_map(own_address_to)
}

/// The address that this machine would send from, where other machines could reach it at that. Asks the kernel for the way; nothing is sent.
fn own_address_to(there: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(there).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| is_reachable(*address))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_own_address_is_never_one_that_only_this_machine_has() {
        assert_eq!(own_address_to(SocketAddr::from(([127, 0, 0, 1], 7770))), None);
        let uri: Uri = "http://127.0.0.1:7770".parse().unwrap();
        // A machine that is in no network has none at all.
        assert_eq!(own_address(&uri).await, own_address_to(ANYWHERE));
        assert!(own_address(&uri).await.is_none_or(is_reachable));
    }
}
