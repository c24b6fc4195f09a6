//! A channel whose calls are spans and carry their trace context to the server.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;
use tracing::Instrument as _;

use crate::trace::{TRACE_PARENT, trace_parent};

/// See the module. In a process that exports no traces it adds nothing to a call.
#[derive(Debug, Clone)]
pub struct Traced(Channel);

impl Traced {
    /// Traces the calls on `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<http::Request<Body>> for Traced {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let name = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("call", otel.name = name, otel.kind = "client", rpc.system = "grpc");
        if let Ok(context) = http::HeaderValue::try_from(trace_parent(&span))
            && !context.is_empty()
        {
            request.headers_mut().insert(TRACE_PARENT, context);
        }
        Box::pin(self.0.call(request).instrument(span))
    }
}
