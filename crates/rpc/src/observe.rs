//! What every call to a server leaves behind: a span that continues the caller's trace, and the counts and durations that dashboards
//! for gRPC know by name (`grpc_server_started_total`, `grpc_server_handled_total`, `grpc_server_handling_seconds`).
//!
//! Labels are bounded: a method that no descriptor knows counts as `unknown`.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use crate::door::Place;
use crate::error::status_of;
use crate::tls::Caller;
use crate::trace::{TRACE_PARENT, follow};

/// Bounds of the buckets of durations, in seconds.
const BUCKETS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// What a method that nobody serves is called.
const UNKNOWN: &str = "unknown";
/// Services of gRPC itself are counted, and are no part of any trace.
const PLUMBING: &str = "grpc.";

/// The methods that are known, by path.
static METHODS: LazyLock<HashMap<Box<str>, Arc<Method>>> = LazyLock::new(methods);
static METERS: LazyLock<Meters> = LazyLock::new(Meters::new);

#[derive(Debug)]
struct Method {
    /// `skerry.registry.v1.NodeService/GetNode`.
    name: String,
    labels: [KeyValue; 3],
    unary: bool,
}

impl Method {
    fn new(service: &str, method: &str, kind: &'static str) -> Self {
        Self {
            name: format!("{service}/{method}"),
            labels: [
                KeyValue::new("grpc_service", service.to_owned()),
                KeyValue::new("grpc_method", method.to_owned()),
                KeyValue::new("grpc_type", kind),
            ],
            unary: kind == "unary",
        }
    }
}

fn methods() -> HashMap<Box<str>, Arc<Method>> {
    let sets = [
        skerry_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = HashMap::new();
    for set in sets {
        let set = FileDescriptorSet::decode(set).expect("the build made it");
        for file in &set.file {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => "unary",
                        (false, true) => "server_stream",
                        (true, false) => "client_stream",
                        (true, true) => "bidi_stream",
                    };
                    let path = format!("/{full}/{}", method.name());
                    methods.insert(path.into(), Arc::new(Method::new(&full, method.name(), kind)));
                }
            }
        }
    }
    methods.insert(UNKNOWN.into(), Arc::new(Method::new(UNKNOWN, UNKNOWN, "unary")));
    methods
}

struct Meters {
    started: Counter<u64>,
    handled: Counter<u64>,
    handling: Histogram<f64>,
}

impl Meters {
    fn new() -> Self {
        let meter = opentelemetry::global::meter("skerry");
        Self {
            started: meter
                .u64_counter("grpc.server.started")
                .with_description("Calls that began, by method")
                .build(),
            handled: meter
                .u64_counter("grpc.server.handled")
                .with_description("Calls that ended, by method and code")
                .build(),
            handling: meter
                .f64_histogram("grpc.server.handling")
                .with_unit("s")
                .with_description("How long unary calls took, by method")
                .with_boundaries(BUCKETS_SECONDS.to_vec())
                .build(),
        }
    }
}

/// One call, until its answer has gone out or been given up.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    began: Instant,
    code: Option<Code>,
    /// Its place on its connection.
    place: Option<Place>,
}

impl Call {
    fn begin(path: &str) -> Self {
        let method = METHODS.get(path).or_else(|| METHODS.get(UNKNOWN)).expect("`unknown` is always known");
        METERS.started.add(1, &method.labels);
        Self { method: Arc::clone(method), began: Instant::now(), code: None, place: None }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Method { labels: [service, method, kind], unary, .. } = &*self.method;
        // Dropped before its end: the caller went away.
        if let (None, Some(place)) = (self.code, &self.place) {
            place.was_reset();
        }
        let code = KeyValue::new("grpc_code", name_of(self.code.unwrap_or(Code::Cancelled)));
        let labels = [service.clone(), method.clone(), kind.clone(), code];
        METERS.handled.add(1, &labels);
        if *unary {
            METERS.handling.record(self.began.elapsed().as_secs_f64(), &labels[..3]);
        }
    }
}

/// A code as the metrics of gRPC write it: `OK`, `NotFound`.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Observes all calls of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObserveLayer;

/// The service that [`ObserveLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct ObserveService<S>(S);

impl<S> Layer<S> for ObserveLayer {
    type Service = ObserveService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ObserveService(inner)
    }
}

impl<S, B> Service<http::Request<B>> for ObserveService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut call = Call::begin(request.uri().path());
        let span = span_of(&call.method, request.headers());
        let line = request.extensions().get::<Caller>().map(|caller| caller.line.enter(call.method.unary));
        let answer = match line.transpose() {
            Ok(place) => {
                call.place = place;
                Ok(span.in_scope(|| self.0.call(request)))
            }
            Err(fault) => Err(status_of(&fault).into_http()),
        };
        let handling = async move {
            let response = match answer {
                Ok(answer) => answer.await?,
                Err(refusal) => refusal,
            };
            // A refusal has its status in the header, for want of a body.
            call.code = Status::from_header_map(response.headers()).map(|status| status.code());
            let code = call.code.unwrap_or(Code::Ok);
            let current = Span::current();
            current.record("rpc.grpc.status_code", i32::from(code));
            if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable) {
                current.record("otel.status_code", "ERROR");
            }
            Ok(response.map(|body| Body::new(Observed { body, call: Some(call) })))
        };
        Box::pin(handling.instrument(span))
    }
}

/// The span of a call until it is answered: of a stream, until that begins.
fn span_of(method: &Method, headers: &http::HeaderMap) -> Span {
    if method.name.starts_with(PLUMBING) {
        return Span::none();
    }
    let span = tracing::info_span!(
        "rpc",
        otel.name = method.name,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        rpc.system = "grpc",
        rpc.grpc.status_code = tracing::field::Empty,
        trace_id = tracing::field::Empty
    );
    let parent = headers.get(TRACE_PARENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    follow(&span, parent);
    span
}

/// The body of an answer: its trailers say how the call ended.
#[derive(Debug)]
struct Observed {
    body: Body,
    call: Option<Call>,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            Some(Ok(frame)) => frame
                .trailers_ref()
                .map(|trailers| Status::from_header_map(trailers).map_or(Code::Ok, |status| status.code())),
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Ok),
        };
        if let (Some(code), Some(mut call)) = (ended, self.call.take_if(|_| ended.is_some())) {
            call.code.get_or_insert(code);
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

impl Drop for Observed {
    fn drop(&mut self) {
        // Hyper does not poll a body that says that it has ended: that of a refusal.
        if self.body.is_end_stream()
            && let Some(call) = &mut self.call
        {
            call.code.get_or_insert(Code::Ok);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_contract_have_labels_of_their_own() {
        let name = |path: &str| Call::begin(path).method.name.clone();
        assert_eq!(name("/skerry.registry.v1.NodeService/GetNode"), "skerry.registry.v1.NodeService/GetNode");
        assert_eq!(name("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        assert_eq!(name("/made.up/Name"), "unknown/unknown");
        let sync = Call::begin("/skerry.gateway.v1.SyncService/Sync");
        assert!(!sync.method.unary);
    }
}
