//! The smallest HTTP client that a test needs: one GET, no TLS, read to the end.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The longest that one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Takes an answer to an HTTP/1.0 request apart, where the body ends with the connection.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .context("the answer has no end of head")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("the answer has no status: {head}"))?;
        Ok(Self { status, body: bytes[end + 4..].to_vec() })
    }
}

/// GETs `path` from `address` (`127.0.0.1:8080`), within 10 s.
pub async fn http_get(address: &str, path: &str) -> Result<Response> {
    let exchange = async {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("sending the request")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.context("reading the answer")?;
        Response::parse(&answer)
    };
    timeout(DEADLINE, exchange)
        .await
        .with_context(|| format!("no answer from {address}{path} within {DEADLINE:?}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_an_answer_apart() {
        let response =
            Response::parse(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\ngone\r\n\r\n").expect("an answer");
        assert_eq!(response, Response { status: 404, body: b"gone\r\n\r\n".to_vec() });
        assert!(Response::parse(b"HTTP/1.1 200").is_err());
    }
}
