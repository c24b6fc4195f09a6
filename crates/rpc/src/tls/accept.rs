//! Connections of a listener, plain or after a TLS handshake, as far as the door lets them in.
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

use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use skerry_identity::certificate::{Client, Nobody};
use skerry_identity::{PeerCertificate, Trust};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::ServerTls;
use crate::door::{Door, Line, PREFACE_TIMEOUT, Pass, Turned};

/// Longest that a handshake may take: two round trips and two signatures. On the worst line that is a second or two.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once. Each holds some 30 KiB and a file, so these cost 15 MiB at most; what comes beyond waits in the kernel's queue.
const HANDSHAKES_MAX: usize = 512;
/// When there are as many as may be, one that has lasted so long gives way to who waits: an honest one takes milliseconds, so the oldest is
/// most likely to be one that is stalled on purpose.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// After a failure to accept, for example for want of files.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// What an HTTP/2 connection begins with.
const PREFACE_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// An accepted connection.
pub(crate) struct Connection {
    io: Socket,
    caller: Caller,
    /// Until it is there.
    preface: Option<Preface>,
    _pass: Pass,
}

struct Preface {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

/// Who is at the other end of a connection, found out once for it and put beside each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) address: Option<SocketAddr>,
    /// `None` where the connection proves nothing.
    pub(crate) certificate: Option<Result<Arc<PeerCertificate>, Nobody>>,
    /// By which trust a proxy is believed that says who its caller is. `None` where that is believed of nobody.
    pub(crate) forwards: Option<Arc<Trust>>,
    /// What is open on the connection.
    pub(crate) line: Arc<Line>,
}

/// What `listener` accepts and `door` lets in: after a handshake if there is `tls`. Never ends.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<ServerTls>,
    door: Door,
) -> BoxStream<'static, io::Result<Connection>> {
    let accepting = Accepting { listener, tls, door, handshakes: JoinSet::new(), oldest: VecDeque::new() };
    stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
    .boxed()
}

/// What `listener` accepts, as far as a listener bears it that serves no method of ours: bounded by number, by address and until the preface
/// is there. What is asked on it is not looked at, so that it never counts as idle. Never ends.
pub fn bounded(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<impl AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static>> + Send {
    incoming(listener, None, Door::of_process()).map(|connection| {
        let mut connection = connection?;
        connection.caller.line = Line::new_unwatched();
        Ok::<_, io::Error>(connection)
    })
}

struct Accepting {
    listener: TcpListener,
    tls: Option<ServerTls>,
    door: Door,
    handshakes: JoinSet<Option<Connection>>,
    /// The same handshakes with when they began, in that order; some may have ended.
    oldest: VecDeque<(Instant, AbortHandle)>,
}

impl Accepting {
    /// The next connection that is open: where there is TLS, whose handshake succeeded.
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
                    Ok((stream, address)) => {
                        if let Some(connection) = self.begin(stream, address) {
                            return connection;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_WAIT).await;
                    }
                },
                () = async { tokio::time::sleep_until(room.unwrap_or_else(Instant::now)).await }, if room.is_some() => {
                    if let Some((_, oldest)) = self.oldest.pop_front() {
                        tracing::debug!("a slow TLS handshake gives way to others");
                        Turned::HandshakeTime.count();
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

    /// Lets a connection in. One without TLS is open at once.
    fn begin(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        let pass = self.door.enter(address.ip(), self.tls.is_some())?;
        // An error means that it has ended already, which the first read will say.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            let line = Line::new(Door::unknown());
            let caller = Caller { address: Some(address), certificate: None, forwards: None, line };
            return Some(Connection::new(Either::Left(stream), caller, pass));
        };
        // Behind a slow one, those that have ended stay in the queue; each keeps its task's memory.
        if self.oldest.len() >= 2 * HANDSHAKES_MAX {
            self.oldest.retain(|(_, handshake)| !handshake.is_finished());
        }
        let handshake = handshake(tls.clone(), self.door.clone(), pass, stream, address);
        let task = self.handshakes.spawn(handshake);
        self.oldest.push_back((Instant::now(), task));
        None
    }
}

async fn handshake(
    tls: ServerTls,
    door: Door,
    mut pass: Pass,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<Connection> {
    if tls.is_proxy(address.ip()) && !begins_with_tls(&stream).await {
        // Its callers are many: they are told apart by each request.
        pass.shaken();
        let forwards = Some(Arc::clone(&tls.trust));
        let line = Line::new(Door::unknown());
        let caller = Caller { address: Some(address), certificate: None, forwards, line };
        return Some(Connection::new(Either::Left(stream), caller, pass));
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            pass.shaken();
            let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
            // Whether it is valid now is for each request to find out: connections are kept for days.
            let client = tls.trust.client(presented, SystemTime::now());
            let certificate = client.map(|(Client::Valid(peer) | Client::OutOfTime(peer))| Arc::new(peer));
            let holder = match &certificate {
                Ok(peer) => door.holder(&peer.identity),
                Err(_) => Door::unknown(),
            };
            let certificate = Some(certificate);
            let line = Line::new(holder);
            let caller = Caller { address: Some(address), certificate, forwards: None, line };
            Some(Connection::new(Either::Right(Box::new(stream)), caller, pass))
        }
        Ok(Err(error)) => {
            Turned::Handshake.count();
            tracing::debug!(%address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            Turned::HandshakeTime.count();
            tracing::debug!(%address, "a TLS handshake did not end within {HANDSHAKE_TIMEOUT:?}");
            None
        }
    }
}

impl Connection {
    fn new(io: Socket, caller: Caller, pass: Pass) -> Self {
        let preface = Preface { bytes: 0, deadline: Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)) };
        Self { io, caller, preface: Some(preface), _pass: pass }
    }

    /// Whether the preface is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.preface.as_mut().is_some_and(|preface| preface.deadline.as_mut().poll(cx).is_ready())
    }

    /// So many bytes came.
    fn heard(&mut self, bytes: usize) {
        if let Some(preface) = &mut self.preface {
            preface.bytes += bytes;
            if preface.bytes >= PREFACE_BYTES {
                self.preface = None;
            }
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
        self.caller.clone()
    }
}

/// A connection that the door ends reads as one that its peer has closed: then HTTP/2 ends in order.
impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(turned) = this.caller.line.end() {
            turned.count();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_ready() {
            this.heard(buf.filled().len() - before);
        } else if this.poll_late(cx) {
            Turned::PrefaceTime.count();
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::door::{Bounds, IDLE_MAX};

    const BOUNDS: Bounds = Bounds { connections: 64, burst: 64, per_second: 64, handshakes: 64, local: true };

    /// Both ends of a connection, and the listener.
    async fn pair(bounds: Bounds) -> (TcpStream, Connection, BoxStream<'static, io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut incoming = incoming(listener, None, Door::new(bounds));
        let (client, server) = tokio::join!(TcpStream::connect(address), incoming.next());
        (client.expect("connected"), server.expect("never ends").expect("accepted"), incoming)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_whose_preface_does_not_come_in_time() {
        for sent in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, mut server, _incoming) = pair(BOUNDS).await;
            client.write_all(sent).await.expect("sent");
            let began = Instant::now();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.expect("it reads as closed");
            assert_eq!(heard, sent);
            assert!(began.elapsed() >= PREFACE_TIMEOUT && began.elapsed() < 2 * PREFACE_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_begun_ends_only_when_it_is_idle_and_is_looked_at() {
        let (mut client, mut server, _incoming) = pair(BOUNDS).await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        server.read_exact(&mut [0; PREFACE_BYTES]).await.expect("there");
        let place = server.connect_info().line.enter(false).expect("a call");
        let silent = tokio::time::timeout(2 * IDLE_MAX, server.read(&mut [0; 1])).await;
        assert!(silent.is_err(), "its stream is open");
        drop(place);
        tokio::time::advance(IDLE_MAX + PREFACE_TIMEOUT).await;
        client.write_all(b"pong").await.expect("sent");
        assert_eq!(server.read(&mut [0; 4]).await.expect("it reads as closed"), 0);
    }

    #[tokio::test]
    async fn what_is_turned_away_is_closed_and_the_next_one_in_line_comes_in() {
        let (mut first, server, mut incoming) = pair(Bounds { connections: 1, ..BOUNDS }).await;
        let address = first.peer_addr().expect("connected");
        let mut second = TcpStream::connect(address).await.expect("the kernel takes it");
        let mut byte = [0; 1];
        let ended = tokio::select! {
            ended = second.read(&mut byte) => ended,
            _ = incoming.next() => panic!("there is no room"),
        };
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        drop(server);
        assert!(matches!(first.read(&mut [0; 1]).await, Ok(0)));
        let (third, server) = tokio::join!(TcpStream::connect(address), incoming.next());
        assert!(third.is_ok() && server.is_some_and(|server| server.is_ok()));
    }
}
