//! The bytes go on as they came, and what is no message of one piece is refused.

use std::collections::VecDeque;

use super::*;

/// A body that comes in these pieces.
struct Pieced(VecDeque<Bytes>);

impl http_body::Body for Pieced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn body(pieces: &[Bytes]) -> Body {
    Body::new(Pieced(pieces.iter().cloned().collect()))
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

async fn drained(mut body: Body) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        all.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
    }
    all
}

#[tokio::test]
async fn the_very_same_bytes_go_on_however_they_came() {
    let whole = [framed(b"a message"), framed(b"and one that nobody takes")].concat();
    for size in 1..=whole.len() {
        let pieces: Vec<Bytes> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        let read = read(body(&pieces)).await.expect("read");
        assert_eq!(read.message(), b"a message");
        assert_eq!(drained(read.into_body()).await, whole, "in pieces of {size}");
    }
}

#[tokio::test]
async fn a_message_in_one_piece_is_not_copied() {
    let piece = framed(b"a message");
    let at = piece.as_ptr();
    let read = read(body(&[piece])).await.expect("read");
    assert_eq!(read.bytes.as_ptr(), at);
}

#[tokio::test]
async fn what_cannot_be_judged_is_refused() {
    let mut compressed = framed(b"x").to_vec();
    compressed[0] = 1;
    let huge = [&[0][..], &u32::MAX.to_be_bytes()].concat();
    for (bytes, reason) in [
        (Vec::new(), "REQUEST_MALFORMED"),
        (vec![0, 0, 0], "REQUEST_MALFORMED"),
        (framed(b"cut off")[..9].to_vec(), "REQUEST_MALFORMED"),
        (compressed, "COMPRESSED"),
        (huge, "MESSAGE_TOO_LARGE"),
    ] {
        let fault = read(body(&[bytes.into()])).await.expect_err("refused");
        assert_eq!(fault.reason, reason);
    }
    assert_eq!(read(body(&[framed(b"")])).await.expect("an empty one is one").message(), b"");
}
