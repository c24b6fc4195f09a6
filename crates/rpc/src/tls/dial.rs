//! Opening a connection to a server, plain or with TLS, so that who spoke the wrong one of the two is told.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{ClientTls, TlsFailure};

/// How long a server's first word is waited for after the handshake. In TLS 1.3 a client has finished before the server has looked at its
/// certificate, so only this word shows that it was let in. Our servers say it at once. One that waits for the client instead holds it up
/// for so long and no longer.
const FIRST_WORD_WAIT: Duration = Duration::from_secs(1);

/// What is said of a server that answers a plain client with TLS: it comes as the cause of a call's failure.
pub const SPEAKS_TLS: &str = "it speaks TLS: write https://";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsFailure),
}

/// Connects to `uri`, which has a host and a port.
pub(crate) async fn dial(uri: Uri, tls: Option<ClientTls>) -> Result<TokioIo<Dialled>, DialError> {
    let host = uri.host().unwrap_or_default();
    // An IPv6 address has brackets in an URI and nowhere else.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = uri.port_u16().unwrap_or(443);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(TokioIo::new(Dialled::Plain(Plain { stream, heard: false }))) };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsFailure::Name)?;
    let failed = |error| TlsFailure::of(error).map_or_else(DialError::Io, DialError::Tls);
    let connected = tls.connector.connect(name, stream).await;
    let mut stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => TlsFailure::HungUp.into(),
        _ => failed(error),
    })?;
    if let Some(presented) = &tls.presented {
        presented.note(stream.get_ref().1.peer_certificates());
    }
    match tokio::time::timeout(FIRST_WORD_WAIT, stream.fill_buf()).await {
        Ok(Ok([])) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(Err(error)) => return Err(failed(error)),
        // Heard, and kept for who reads it.
        Ok(Ok(_)) | Err(_) => {}
    }
    Ok(TokioIo::new(Dialled::Secured(Box::new(stream))))
}

/// An open connection.
pub(crate) enum Dialled {
    Plain(Plain),
    Secured(Box<TlsStream<TcpStream>>),
}

/// A connection without TLS. Its first bytes are looked at: a server that wants TLS answers with an alert and hangs up. Writing to it may fail
/// before the alert was read, so until something was heard a failure is left to the reading, which says why.
pub(crate) struct Plain {
    stream: TcpStream,
    heard: bool,
}

/// Whether a server begins with a TLS alert. As the head of an HTTP/2 frame it would name a length that nobody may send.
fn is_alert(first: &[u8]) -> bool {
    first.starts_with(&[0x15, 0x03])
}

impl Plain {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if !self.heard && buf.filled().len() > before {
            self.heard = true;
            if is_alert(&buf.filled()[before..]) {
                return Poll::Ready(Err(io::Error::other(SPEAKS_TLS)));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn written(&self, outcome: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Err(_)) if !self.heard => Poll::Ready(Ok(length)),
            outcome => outcome,
        }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => plain.poll_read(cx, buf),
            Self::Secured(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => {
                let outcome = Pin::new(&mut plain.stream).poll_write(cx, buf);
                plain.written(outcome, buf.len())
            }
            Self::Secured(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => {
                let outcome = Pin::new(&mut plain.stream).poll_write_vectored(cx, bufs);
                plain.written(outcome, bufs.iter().map(|buf| buf.len()).sum())
            }
            Self::Secured(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.stream.is_write_vectored(),
            Self::Secured(stream) => stream.is_write_vectored(),
        }
    }
}
