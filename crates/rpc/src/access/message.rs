//! Reads the one message of a request ahead of its handler, and hands on the very same bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use skerry_model::{Code, Fault};
use tonic::Status;
use tonic::body::Body;

use crate::MESSAGE_BYTES_MAX;
use crate::error::fault_of;
use crate::limit::too_large;

/// Before each message of gRPC: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// What was read of a body, and what is left of it.
#[derive(Debug)]
pub(crate) struct Read {
    /// From the beginning, the first message included.
    bytes: Bytes,
    message: std::ops::Range<usize>,
    rest: Body,
}

impl Read {
    /// The message, as it is encoded.
    pub(crate) fn message(&self) -> &[u8] {
        &self.bytes[self.message.clone()]
    }

    /// The body as it was.
    pub(crate) fn into_body(self) -> Body {
        Body::new(Replayed { read: Some(self.bytes), rest: self.rest })
    }
}

/// Reads the first message of `body`, of which handlers of one message take no other. One that came in one piece is not copied.
pub(crate) async fn read(mut body: Body) -> Result<Read, Fault> {
    let mut pieces = Pieces::None;
    loop {
        let so_far = pieces.bytes();
        if let Some(message) = whole(so_far)? {
            return Ok(Read { bytes: pieces.into_bytes(), message, rest: body });
        }
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    pieces = pieces.with(data);
                }
            }
            // The bound of the method.
            Some(Err(error)) if error.code() == tonic::Code::ResourceExhausted => {
                return Err(fault_of(&error));
            }
            Some(Err(error)) => {
                let message = format!("reading the request: {}", error.message());
                return Err(Fault::new(Code::Unavailable, "REQUEST_BROKEN", message));
            }
            None => {
                let message = "the request ended before its message did";
                return Err(Fault::new(Code::InvalidArgument, "REQUEST_MALFORMED", message));
            }
        }
    }
}

/// Where the first message is in `bytes`, if it is all there.
fn whole(bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, Fault> {
    let Some(([compressed, length @ ..], _)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    if *compressed != 0 {
        let message = "compressed messages are not taken";
        return Err(Fault::new(Code::Unimplemented, "COMPRESSED", message));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(too_large(MESSAGE_BYTES_MAX));
    }
    let end = HEAD_BYTES + length;
    Ok((bytes.len() >= end).then_some(HEAD_BYTES..end))
}

/// What has come: nothing, one piece as it came, or several joined. Holds at most a message and one piece more.
enum Pieces {
    None,
    One(Bytes),
    Joined(BytesMut),
}

impl Pieces {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::One(bytes) => bytes,
            Self::Joined(bytes) => bytes,
        }
    }

    fn with(self, more: Bytes) -> Self {
        match self {
            Self::None => Self::One(more),
            Self::One(first) if first.is_empty() => Self::One(more),
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity(2 * (first.len() + more.len()));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&more);
                Self::Joined(joined)
            }
            Self::Joined(mut joined) => {
                joined.extend_from_slice(&more);
                Self::Joined(joined)
            }
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Joined(bytes) => bytes.freeze(),
        }
    }
}

/// A body whose beginning was read already.
#[derive(Debug)]
struct Replayed {
    read: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.read.take() {
            Some(bytes) if bytes.has_remaining() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            _ => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
}

#[cfg(test)]
mod tests;
