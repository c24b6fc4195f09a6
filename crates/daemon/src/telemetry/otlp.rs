//! Traces and metrics to an OpenTelemetry collector, by OTLP over gRPC, on the runtime that the process has anyway: no thread of its own.
//!
//! Everything is bounded. A collector that is away costs a try a period and is told once, and once more when it is back; what
//! does not fit into the queue meanwhile is dropped and counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as _, SpanProcessor};
use skerry_rpc::Endpoint;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Metrics;

/// The variable that turns all of this on.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Spans that wait to be exported; more are dropped.
const QUEUE_MAX: usize = 2048;
/// Spans in one message.
const BATCH_MAX: usize = 256;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// Between two exports of metrics, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const METRICS_PERIOD: Duration = Duration::from_secs(60);
/// The shortest such period.
const METRICS_PERIOD_MIN: Duration = Duration::from_secs(1);
/// Longest that one export may take.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that the last exports of a process may take together.
pub(super) const LAST_DEADLINE: Duration = Duration::from_secs(2);
/// The same of a command, for which somebody waits.
pub(super) const LAST_DEADLINE_OF_CLIENT: Duration = Duration::from_millis(500);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[error(
    "the OTLP endpoint `{endpoint}` cannot be used: {why}; write --otlp-endpoint (or {ENDPOINT}) as http://host:4317"
)]
pub struct OtlpError {
    endpoint: String,
    why: String,
}

/// What the environment names, which may be meant for other programs.
pub(super) fn of_environment() -> Option<String> {
    std::env::var(ENDPOINT).ok()
}

/// Where to export to. Nothing: nowhere.
pub(super) fn target(endpoint: Option<&str>) -> Result<Option<String>, OtlpError> {
    let off = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty() && !off) else { return Ok(None) };
    let wrong = |why: &str| OtlpError { endpoint: endpoint.to_owned(), why: why.to_owned() };
    if endpoint.starts_with("https://") {
        return Err(wrong(
            "there is no TLS here yet: use a collector on this machine or in a trusted network",
        ));
    }
    let uri: http::Uri = endpoint.parse().map_err(|_| wrong("it is no URL"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(wrong("it is no http:// URL"));
    }
    Ok(Some(endpoint.to_owned()))
}

/// Where spans wait. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn new() -> (Self, mpsc::Receiver<SpanData>) {
        let (spans, receiver) = mpsc::channel(QUEUE_MAX);
        (Self { spans, dropped: Arc::default() }, receiver)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What will export, once there is a runtime.
#[derive(Debug)]
pub(super) struct Otlp {
    endpoint: String,
    queue: Queue,
    spans: mpsc::Receiver<SpanData>,
    /// Held: spans end with it.
    _provider: SdkTracerProvider,
    resource: Resource,
}

impl Otlp {
    pub(super) fn new(
        endpoint: String,
        queue: Queue,
        spans: mpsc::Receiver<SpanData>,
        provider: SdkTracerProvider,
        resource: Resource,
    ) -> Self {
        Self { endpoint, queue, spans, _provider: provider, resource }
    }

    /// Runs `work`, exporting meanwhile and afterwards until `last_deadline`.
    pub(super) async fn during<T>(
        self,
        metrics: Option<Metrics>,
        last_deadline: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let Self { endpoint, queue, mut spans, resource, .. } = self;
        let mut exporter = match Exporter::new(&endpoint, queue, &resource) {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(endpoint, %error, "traces and metrics cannot be exported");
                return work.await;
            }
        };
        tracing::info!(endpoint, "traces and metrics are exported");
        let mut period = interval(metrics_period());
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Not of `exporting`, which ends with the work whatever it is at.
        let mut batch = Vec::new();
        let done = {
            let exporting = async {
                loop {
                    tokio::select! {
                        Some(span) = spans.recv() => {
                            batch.push(span);
                            sleep(GATHER).await;
                            exporter.spans(&mut batch, &mut spans).await;
                        }
                        _ = period.tick() => exporter.metrics(metrics.as_ref()).await,
                    }
                }
            };
            tokio::select! {
                biased;
                done = work => done,
                () = exporting => unreachable!("it never ends by itself"),
            }
        };
        let last = async {
            exporter.spans(&mut batch, &mut spans).await;
            exporter.metrics(metrics.as_ref()).await;
        };
        // What is not taken by then is lost: nobody waits for a collector.
        let _ = timeout(last_deadline, last).await;
        done
    }
}

fn metrics_period() -> Duration {
    let asked = std::env::var("OTEL_METRIC_EXPORT_INTERVAL").ok().and_then(|text| text.parse().ok());
    asked.map_or(METRICS_PERIOD, Duration::from_millis).max(METRICS_PERIOD_MIN)
}

struct Exporter {
    endpoint: String,
    spans: Option<SpanExporter>,
    metrics: Option<MetricExporter>,
    queue: Queue,
    /// Whether the collector is known to be away.
    away: bool,
}

impl Exporter {
    fn new(endpoint: &str, queue: Queue, resource: &Resource) -> Result<Self, ExporterBuildError> {
        // One connection for both.
        let address = Endpoint::from_shared(endpoint.to_owned());
        let address = address.map_err(|error| ExporterBuildError::InvalidConfiguration(error.to_string()))?;
        let channel =
            skerry_rpc::open_lazy(&address.connect_timeout(EXPORT_DEADLINE).timeout(EXPORT_DEADLINE));
        let wanted = |variable: &str| std::env::var(variable).map_or(true, |value| value != "none");
        let mut spans = None;
        if wanted("OTEL_TRACES_EXPORTER") {
            let mut exporter = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_DEADLINE)
                .with_channel(channel.clone())
                .build()?;
            exporter.set_resource(resource);
            spans = Some(exporter);
        }
        let mut metrics = None;
        if wanted("OTEL_METRICS_EXPORTER") {
            let builder = MetricExporter::builder().with_tonic().with_endpoint(endpoint);
            metrics = Some(builder.with_timeout(EXPORT_DEADLINE).with_channel(channel).build()?);
        }
        Ok(Self { endpoint: endpoint.to_owned(), spans, metrics, queue, away: false })
    }

    /// Exports what waits, batch by batch; what a collector does not take is lost. What is on its way stays in `batch`: where this is given up
    /// meanwhile, it is told once more rather than not at all.
    async fn spans(&mut self, batch: &mut Vec<SpanData>, waiting: &mut mpsc::Receiver<SpanData>) {
        loop {
            while batch.len() < BATCH_MAX {
                let Ok(span) = waiting.try_recv() else { break };
                batch.push(span);
            }
            if batch.is_empty() {
                // What a burst took is given back.
                *batch = Vec::new();
                return;
            }
            let Some(exporter) = &self.spans else {
                batch.clear();
                continue;
            };
            let sent = timeout(EXPORT_DEADLINE, exporter.export(batch.clone())).await;
            batch.clear();
            if !self.tell(sent) {
                return;
            }
        }
    }

    async fn metrics(&mut self, metrics: Option<&Metrics>) {
        let Some((exporter, all)) = self.metrics.as_ref().zip(metrics.and_then(Metrics::collect)) else {
            return;
        };
        let sent = timeout(EXPORT_DEADLINE, exporter.export(&all)).await;
        self.tell(sent);
    }

    /// Says once that the collector is away, and once that it is back. Whether it took what was sent.
    fn tell(&mut self, sent: Result<OTelSdkResult, tokio::time::error::Elapsed>) -> bool {
        let why = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {EXPORT_DEADLINE:?}")),
        };
        let was_away = std::mem::replace(&mut self.away, why.is_some());
        let endpoint = &self.endpoint;
        match &why {
            Some(why) if !was_away => {
                tracing::warn!(endpoint, why, "the collector takes no traces and metrics; this is said once");
            }
            Some(why) => tracing::debug!(endpoint, why, "the collector takes no traces and metrics"),
            None if was_away => {
                let dropped = self.queue.dropped.swap(0, Ordering::Relaxed);
                tracing::info!(endpoint, dropped, "the collector takes traces and metrics again");
            }
            None => {}
        }
        why.is_none()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_says_nothing_holds_a_command_up_for_a_moment_only() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
        let (queue, spans) = Queue::new();
        let provider = SdkTracerProvider::builder().with_span_processor(queue.clone()).build();
        provider.tracer("test").start("a command").end();
        let otlp = Otlp::new(endpoint, queue, spans, provider, Resource::builder().build());
        let begun = Instant::now();
        otlp.during(None, LAST_DEADLINE_OF_CLIENT, async {}).await;
        let waited = begun.elapsed();
        assert!(waited >= LAST_DEADLINE_OF_CLIENT && waited < Duration::from_secs(1), "{waited:?}");
    }

    #[test]
    fn only_what_can_be_dialled_is_an_endpoint() {
        assert!(matches!(target(None), Ok(None)));
        assert!(matches!(target(Some("")), Ok(None)));
        assert!(matches!(target(Some("http://collector:4317")), Ok(Some(_))));
        for bad in ["https://collector:4317", "collector:4317", "unix:/run/x", "http://", "x y"] {
            let error = target(Some(bad)).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("http://host:4317"), "{error}");
        }
    }
}
