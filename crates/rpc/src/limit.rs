//! A message that is larger than is taken: refused as soon as it says so, by the bound of its method. Callers are told RESOURCE_EXHAUSTED,
//! with the bound; what tonic finds itself it calls OUT_OF_RANGE, which here means "list again", and that is renamed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Map;
use http_body::{Frame, SizeHint};
use skerry_model::{Code, Fault};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::MESSAGE_BYTES_MAX;
use crate::door::{Turned, request_bytes_max};
use crate::error::{is_too_large, status_of};

/// Renames the refusal of what is too large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitLayer;

/// The service that [`LimitLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct LimitService<S>(S);

impl<S> Layer<S> for LimitLayer {
    type Service = LimitService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        LimitService(inner)
    }
}

type Renamed<R, E> = fn(Result<http::Response<R>, E>) -> Result<http::Response<R>, E>;

impl<S, R> Service<http::Request<Body>> for LimitService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Map<S::Future, Renamed<R, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let request = match request_bytes_max(request.uri().path()) {
            Some(max) => {
                request.map(|body| Body::new(Limited { body, max, taken: 0, head: [0; HEAD_BYTES] }))
            }
            None => request,
        };
        self.0.call(request).map(|answer| answer.map(renamed) as Result<_, S::Error>)
    }
}

/// The head of a gRPC message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// A body that fails once it is larger than it may be, or says that it will be: the decoder makes room for what the head of a message
/// announces.
struct Limited {
    body: Body,
    max: usize,
    taken: usize,
    head: [u8; HEAD_BYTES],
}

impl Limited {
    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        for (to, from) in self.head.iter_mut().skip(self.taken).zip(data) {
            *to = *from;
        }
        let headless = self.taken < HEAD_BYTES;
        self.taken += data.len();
        let announced = match self.head {
            [_, length @ ..] if headless && self.taken >= HEAD_BYTES => {
                usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX).saturating_add(HEAD_BYTES)
            }
            _ => 0,
        };
        if self.taken.max(announced) > self.max {
            Turned::Size.count();
            return Err(status_of(&too_large(self.max)));
        }
        Ok(())
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.take(data)?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A refusal has its status in the header of the answer, for want of a body.
fn renamed<R: Default>(response: http::Response<R>) -> http::Response<R> {
    match Status::from_header_map(response.headers()) {
        Some(status) if is_too_large(&status) => status_of(&too_large(MESSAGE_BYTES_MAX)).into_http(),
        _ => response,
    }
}

/// What a caller is told whose message is larger than is taken.
pub(crate) fn too_large(max: usize) -> Fault {
    let message = format!("the message is larger than the {max} bytes that are taken");
    Fault::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message).with("bytes_max", max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_large_gets_another_name() {
        let code = |status: Status| {
            let response: http::Response<()> = renamed(status.into_http());
            Status::from_header_map(response.headers()).map(|status| status.code())
        };
        let large = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        assert_eq!(code(Status::out_of_range(large)), Some(tonic::Code::ResourceExhausted));
        assert_eq!(code(status_of(&Fault::version_gone("list again"))), Some(tonic::Code::OutOfRange));
    }

    fn limited(max: usize) -> Limited {
        Limited { body: Body::empty(), max, taken: 0, head: [0; HEAD_BYTES] }
    }

    #[test]
    fn a_message_that_announces_too_much_is_refused_before_it_comes_however_its_head_is_cut() {
        for cut in 0..=HEAD_BYTES {
            for (length, taken) in [(95u32, true), (96, false), (u32::MAX, false)] {
                let mut head = vec![0];
                head.extend(length.to_be_bytes());
                let (first, second) = head.split_at(cut);
                let mut limited = limited(100);
                let outcome = limited.take(first).and_then(|()| limited.take(second));
                assert_eq!(outcome.is_ok(), taken, "{length} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_body_that_goes_on_is_refused_where_it_passes_the_bound() {
        let mut limited = limited(100);
        assert!(limited.take(&[0, 0, 0, 0, 1, 7]).is_ok());
        assert!(limited.take(&[9; 94]).is_ok());
        let status = limited.take(&[9]).expect_err("101 bytes");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().contains("100 bytes"), "{status:?}");
    }
}
