//! Connections of a listener, plain or after a TLS handshake.
//!
//! Handshakes are tasks of their own beside the accepting, so that a slow one holds up nobody. One that fails is told at debug level and its
//! connection dropped: whoever scans ports must not fill logs, and the listener goes on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use skerry_identity::certificate::{Client, Nobody};
use skerry_identity::{PeerCertificate, Trust};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpIncoming};

use super::ServerTls;

/// Longest that a handshake may take: two round trips and two signatures. On the worst line that is a second or two.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once. Each holds some 30 KiB and a file, so these cost 15 MiB at most; what comes beyond waits in the kernel's queue.
const HANDSHAKES_MAX: usize = 512;
/// When there are as many as may be, one that has lasted so long gives way to who waits: an honest one takes milliseconds, so the oldest is
/// most likely to be one that is stalled on purpose.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// After a failure to accept, for example for want of files.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// An accepted connection.
pub(crate) enum Connection {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>, Caller),
    /// Of a trusted proxy, which has ended its caller's TLS.
    Forwarded(TcpStream, Caller),
}

/// Who is at the other end of a connection, found out once for it and put beside each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) address: Option<SocketAddr>,
    /// `None` where the connection proves nothing.
    pub(crate) certificate: Option<Result<Arc<PeerCertificate>, Nobody>>,
    /// By which trust a proxy is believed that says who its caller is. `None` where that is believed of nobody.
    pub(crate) forwards: Option<Arc<Trust>>,
}

/// What `listener` accepts: after a handshake if there is `tls`. Never ends.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<ServerTls>,
) -> BoxStream<'static, io::Result<Connection>> {
    let Some(tls) = tls else {
        let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
        return accepted.map(|accepted| accepted.map(Connection::Plain)).boxed();
    };
    let accepting = Accepting { listener, tls, handshakes: JoinSet::new(), oldest: VecDeque::new() };
    stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
    .boxed()
}

struct Accepting {
    listener: TcpListener,
    tls: ServerTls,
    handshakes: JoinSet<Option<Connection>>,
    /// The same handshakes with when they began, in that order; some may have ended.
    oldest: VecDeque<(Instant, AbortHandle)>,
}

impl Accepting {
    /// The next connection whose handshake succeeded.
    async fn next(&mut self) -> Connection {
        loop {
            let room = self.room_at();
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
                accepted = self.listener.accept(), if room.is_none() => match accepted {
                    Ok((stream, address)) => self.begin(stream, address),
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_WAIT).await;
                    }
                },
                () = async { tokio::time::sleep_until(room.unwrap_or_else(Instant::now)).await }, if room.is_some() => {
                    if let Some((_, oldest)) = self.oldest.pop_front() {
                        tracing::debug!("a slow TLS handshake gives way to others");
                        oldest.abort();
                    }
                }
            }
        }
    }

    /// When the oldest handshake gives way; nothing while there is room.
    fn room_at(&mut self) -> Option<Instant> {
        while self.oldest.front().is_some_and(|(_, handshake)| handshake.is_finished()) {
            self.oldest.pop_front();
        }
        if self.handshakes.len() < HANDSHAKES_MAX {
            return None;
        }
        // None is unfinished where they have ended and were not taken yet, which happens at once.
        self.oldest.front().map(|(began, _)| *began + HANDSHAKE_PATIENCE)
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        // Behind a slow one, those that have ended stay in the queue; each keeps its task's memory.
        if self.oldest.len() >= 2 * HANDSHAKES_MAX {
            self.oldest.retain(|(_, handshake)| !handshake.is_finished());
        }
        let task = self.handshakes.spawn(handshake(self.tls.clone(), stream, address));
        self.oldest.push_back((Instant::now(), task));
    }
}

async fn handshake(tls: ServerTls, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
    // An error means that it has ended already, which the handshake will say.
    let _ = stream.set_nodelay(true);
    if tls.is_proxy(address.ip()) && !begins_with_tls(&stream).await {
        let forwards = Some(Arc::clone(&tls.trust));
        return Some(Connection::Forwarded(
            stream,
            Caller { address: Some(address), certificate: None, forwards },
        ));
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
            // Whether it is valid now is for each request to find out: connections are kept for days.
            let client = tls.trust.client(presented, SystemTime::now());
            let certificate = client.map(|(Client::Valid(peer) | Client::OutOfTime(peer))| Arc::new(peer));
            let certificate = Some(certificate);
            Some(Connection::Secured(
                Box::new(stream),
                Caller { address: Some(address), certificate, forwards: None },
            ))
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a TLS handshake did not end within {HANDSHAKE_TIMEOUT:?}");
            None
        }
    }
}

/// Whether a proxy passes a caller's TLS through: the first byte of a TLS record that opens a handshake is 22 (RFC 8446, section 5.1), and of
/// HTTP/2 it is `P`. Who says nothing in time is taken to speak TLS, and is told off there.
async fn begins_with_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) => first == [22],
        _ => true,
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        match self {
            Self::Plain(stream) => {
                Caller { address: stream.peer_addr().ok(), certificate: None, forwards: None }
            }
            Self::Secured(_, caller) | Self::Forwarded(_, caller) => caller.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Forwarded(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Secured(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Forwarded(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Secured(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Forwarded(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Forwarded(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Forwarded(stream, _) => {
                Pin::new(stream).poll_write_vectored(cx, bufs)
            }
            Self::Secured(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) | Self::Forwarded(stream, _) => stream.is_write_vectored(),
            Self::Secured(stream, _) => stream.is_write_vectored(),
        }
    }
}
