//! Connections that Docker gives over to a command: its input one way, its output the other, and nothing else.
//!
//! Not by bollard, which takes what a terminal writes for frames where it happens to begin like one.

use std::io;
use std::path::Path;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::error::{Failure, Kind, classify};
use crate::runtime::exec::PIECE_BYTES_MAX;

/// Longest head of an answer, and longest complaint.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Before each piece of output without a terminal: which stream, three zeros, and how long it is.
const HEADER_BYTES: usize = 8;
const STDERR: u8 = 2;

/// What a command writes.
pub(super) struct Output {
    from: OwnedReadHalf,
    came: BytesMut,
    /// One stream, as it comes: that of a terminal.
    is_raw: bool,
    /// Of the present piece: its stream, and how much is to come.
    piece: (u8, usize),
}

/// Output, where it was written to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) is_stderr: bool,
    pub(super) bytes: Bytes,
}

/// Asks for `path`, of which the answer is such a connection. `is_raw`: the command has a terminal.
pub(super) async fn open(
    socket: &Path,
    path: &str,
    body: &str,
    is_raw: bool,
) -> Result<(Output, OwnedWriteHalf), Failure> {
    let away = |error: io::Error| Failure { kind: Kind::Unavailable, message: error.to_string() };
    let mut stream = UnixStream::connect(socket).await.map_err(away)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.map_err(away)?;
    let mut came = BytesMut::new();
    let head = loop {
        if let Some(end) = find(&came, b"\r\n\r\n") {
            break came.split_to(end + 4);
        }
        let count = stream.read_buf(&mut came).await.map_err(away)?;
        if count == 0 || came.len() > HEAD_BYTES_MAX {
            return Err(away(io::Error::other("the answer ends before it has begun")));
        }
    };
    let head = String::from_utf8_lossy(&head).into_owned();
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    if !matches!(status, 101 | 200) {
        return Err(refused(status, &head, came, stream).await);
    }
    let (from, to) = stream.into_split();
    Ok((Output { from, came, is_raw, piece: (0, 0) }, to))
}

async fn refused(status: u16, head: &str, mut came: BytesMut, mut stream: UnixStream) -> Failure {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let length = head.lines().find_map(header).unwrap_or(0).min(HEAD_BYTES_MAX);
    while came.len() < length && matches!(stream.read_buf(&mut came).await, Ok(count) if count > 0) {}
    let told: Option<serde_json::Value> = serde_json::from_slice(&came).ok();
    let message = told.as_ref().and_then(|told| told.get("message")?.as_str());
    let message = message.unwrap_or("Docker does not say why").to_owned();
    Failure { kind: classify(status, &message), message }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Output {
    /// What comes next. Nothing: that was all. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.take() {
                return Ok(Some(piece));
            }
            self.came.reserve(PIECE_BYTES_MAX);
            if self.from.read_buf(&mut self.came).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Of what came, the next.
    fn take(&mut self) -> Option<Piece> {
        if !self.is_raw {
            while self.piece.1 == 0 {
                if self.came.len() < HEADER_BYTES {
                    return None;
                }
                let stream = self.came.get_u8();
                self.came.advance(3);
                self.piece = (stream, self.came.get_u32() as usize);
            }
        }
        let count = if self.is_raw { self.came.len() } else { self.piece.1.min(self.came.len()) };
        let count = count.min(PIECE_BYTES_MAX);
        if count == 0 {
            return None;
        }
        if !self.is_raw {
            self.piece.1 -= count;
        }
        let bytes = self.came.split_to(count).freeze();
        Some(Piece { is_stderr: !self.is_raw && self.piece.0 == STDERR, bytes })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Answers one request so.
    async fn answered(answer: &'static [u8], is_raw: bool) -> Result<Vec<Piece>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            assert!(request[..count].starts_with(b"POST /exec/x/start HTTP/1.1\r\n"));
            for byte in answer.chunks(7) {
                stream.write_all(byte).await.unwrap();
            }
        };
        let asking = async {
            let (mut output, _input) = open(&path, "/exec/x/start", "{}", is_raw).await?;
            let mut pieces: Vec<Piece> = Vec::new();
            while let Some(piece) = output.next().await.unwrap() {
                pieces.push(piece);
            }
            Ok(pieces)
        };
        tokio::join!(serving, asking).1
    }

    fn text(pieces: &[Piece], is_stderr: bool) -> Vec<u8> {
        pieces
            .iter()
            .filter(|piece| piece.is_stderr == is_stderr)
            .flat_map(|piece| piece.bytes.to_vec())
            .collect()
    }

    #[tokio::test]
    async fn both_streams_are_told_apart_however_they_come() {
        let answer = b"HTTP/1.1 101 UPGRADED\r\nA: b\r\n\r\n\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x03bad\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!";
        let pieces = answered(answer, false).await.unwrap();
        assert_eq!(text(&pieces, false), b"hello!");
        assert_eq!(text(&pieces, true), b"bad");
    }

    #[tokio::test]
    async fn what_a_terminal_writes_is_never_taken_for_a_frame() {
        let answer = b"HTTP/1.1 200 OK\r\n\r\n\x01\0\0\0\xff\xff\xff\xff\x02\0";
        let pieces = answered(answer, true).await.unwrap();
        assert_eq!(text(&pieces, false), b"\x01\0\0\0\xff\xff\xff\xff\x02\0");
    }

    #[tokio::test]
    async fn a_refusal_says_why() {
        let answer =
            b"HTTP/1.1 409 Conflict\r\ncontent-length: 38\r\n\r\n{\"message\":\"Container is not running\"}";
        let failure = answered(answer, false).await.map(drop).unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (Kind::NotRunning, "Container is not running"));
    }
}
