//! What the store's connection counts, and the spans of its calls where they are part of somebody's trace.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use tracing::{Instrument as _, Span};

use crate::failure::Failure;

/// Bounds of the buckets of durations, in seconds.
const BUCKETS_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    let seconds = |name, text| {
        let histogram = meter.f64_histogram(name).with_unit("s").with_description(text);
        histogram.with_boundaries(BUCKETS_SECONDS.to_vec()).build()
    };
    Meters {
        requests: meter
            .u64_counter("skerry.store.requests")
            .with_description("Calls to the store, by operation and outcome")
            .build(),
        durations: seconds("skerry.store.request", "How long calls to the store took, by operation"),
        lag: seconds(
            "skerry.store.watch_lag",
            "How long after its commit a write of this process came back by the watch",
        ),
        ready: meter
            .u64_gauge("skerry.store.ready")
            .with_description("1: the store answers and all that is mirrored follows it")
            .build(),
    }
});

struct Meters {
    requests: Counter<u64>,
    durations: Histogram<f64>,
    lag: Histogram<f64>,
    ready: Gauge<u64>,
}

/// Counts one call and, within a trace, makes it a span.
pub(crate) fn call<'a, T: 'a>(
    operation: &'static str,
    call: impl Future<Output = Result<T, Failure>> + Send + 'a,
) -> impl Future<Output = Result<T, Failure>> + Send + 'a {
    // Boxed: who awaits it would else hold it twice, and a gateway holds many.
    observed(operation, Box::pin(call))
}

async fn observed<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let span = if Span::current().is_none() {
        Span::none()
    } else {
        tracing::info_span!("store", otel.name = operation, otel.kind = "client", db.system.name = "etcd")
    };
    let began = Instant::now();
    let answer = call.instrument(span).await;
    let operation = KeyValue::new("operation", operation);
    METERS.durations.record(began.elapsed().as_secs_f64(), std::slice::from_ref(&operation));
    let outcome = match &answer {
        Ok(_) => "ok",
        Err(Failure::NotSent(_)) => "unreachable",
        Err(Failure::Unclear(_)) => "unclear",
        Err(Failure::Overloaded(_)) => "overloaded",
        Err(Failure::Full(_)) => "full",
        Err(_) => "refused",
    };
    METERS.requests.add(1, &[operation, KeyValue::new("outcome", outcome)]);
    answer
}

/// A write of this process came back by the watch.
pub(crate) fn seen_after(lag: Duration) {
    METERS.lag.record(lag.as_secs_f64(), &[]);
}

/// Whether the store can be used.
pub(crate) fn ready(is_ready: bool) {
    METERS.ready.record(u64::from(is_ready), &[]);
}
