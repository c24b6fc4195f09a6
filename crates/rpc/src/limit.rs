//! A message that is larger than is taken: tonic calls it OUT_OF_RANGE, which here means "list again". Callers are told
//! RESOURCE_EXHAUSTED, with the bound.

use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::Map;
use skerry_model::{Code, Fault};
use tonic::Status;
use tower::{Layer, Service};

use crate::MESSAGE_BYTES_MAX;
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

impl<S, B, R> Service<http::Request<B>> for LimitService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Map<S::Future, Renamed<R, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request).map(|answer| answer.map(renamed) as Result<_, S::Error>)
    }
}

/// A refusal has its status in the header of the answer, for want of a body.
fn renamed<R: Default>(response: http::Response<R>) -> http::Response<R> {
    match Status::from_header_map(response.headers()) {
        Some(status) if is_too_large(&status) => status_of(&too_large()).into_http(),
        _ => response,
    }
}

/// What a caller is told whose message is larger than is taken.
pub(crate) fn too_large() -> Fault {
    let message = format!("the message is larger than the {MESSAGE_BYTES_MAX} bytes that are taken");
    Fault::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message).with("bytes_max", MESSAGE_BYTES_MAX)
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
}
