//! What a process tells of itself: logs to stderr (text on a terminal, JSON lines otherwise); and, where asked for, traces and metrics to
//! a collector by OTLP, and metrics to Prometheus. There is one model of metrics, which both read.
//!
//! What nobody asked for costs nothing: spans are then disabled, and instruments count into the void.

mod otlp;
mod own_log;
mod process;
pub(crate) mod prometheus;

use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    Instrument, InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Metadata;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::otlp::OtlpError;
use self::otlp::{Otlp, Queue};
pub use self::own_log::{OwnLine, OwnLog};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every long-lived process.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module as `info,skerry_gateway=debug`
    #[arg(long = "log", env = "SKERRY_LOG", default_value = "info", value_name = "FILTER", global = true, value_parser = parse_filter)]
    pub filter: Targets,

    /// How to log; absent: text on a terminal, else JSON
    #[arg(long = "log-format", env = "SKERRY_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub format: Option<LogFormat>,

    /// Send traces and metrics to this OpenTelemetry collector, by OTLP over gRPC: http://host:4317; the other OTEL_*
    /// variables count too [env: OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long = "otlp-endpoint", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

fn parse_filter(text: &str) -> Result<Targets, String> {
    text.parse().map_err(|error| format!("{error}; write for example info or info,skerry_gateway=debug"))
}

impl Default for LogArgs {
    fn default() -> Self {
        let filter = Targets::new().with_default(LevelFilter::INFO);
        Self { filter, format: None, otlp_endpoint: None }
    }
}

/// What was begun by [`LogArgs::init`]. Traces and metrics flow while [`Telemetry::during`] does.
#[derive(Debug, Default)]
pub struct Telemetry {
    otlp: Option<Otlp>,
    without_metrics: bool,
}

/// Series of one instrument of hardware.
const HARDWARE_SERIES_MAX: usize = 200_000;

/// Of this process, as the instruments are.
static METRICS: OnceLock<Metrics> = OnceLock::new();

/// The one model of metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<ManualReader>);

impl Metrics {
    /// Those of this process, if they are counted.
    pub(crate) fn of_process() -> Option<Self> {
        METRICS.get().cloned()
    }

    /// All metrics as they are now.
    fn collect(&self) -> Option<ResourceMetrics> {
        let mut all = ResourceMetrics::default();
        self.0.collect(&mut all).is_ok().then_some(all)
    }
}

impl MetricReader for Metrics {
    fn register_pipeline(&self, pipeline: std::sync::Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }
    fn collect(&self, rm: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(rm)
    }
    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }
    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }
    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Devices of a fleet are more than the 2,000 series that an instrument has by default.
fn of_hardware(instrument: &Instrument) -> Option<Stream> {
    let is_hardware = instrument.scope().name() == prometheus::HARDWARE_SCOPE;
    is_hardware.then(|| Stream::builder().with_cardinality_limit(HARDWARE_SERIES_MAX).build().ok())?
}

impl LogArgs {
    /// Begins to log and, where asked for, to trace and to count, as the service `name` (`OTEL_SERVICE_NAME` says otherwise).
    /// `scraped`: somebody will ask for the metrics. A second call in one process changes nothing.
    ///
    /// # Errors
    /// The endpoint that the flag names is none that can be dialled. One that only the environment names may be meant for other programs: it is
    /// logged, and nothing is exported.
    pub fn init(&self, name: &'static str, scraped: bool) -> Result<Telemetry, OtlpError> {
        let (otlp, foreign) = match &self.otlp_endpoint {
            Some(flag) => (otlp::target(Some(flag))?, None),
            None => match otlp::target(otlp::of_environment().as_deref()) {
                Ok(target) => (target, None),
                Err(error) => (None, Some(error)),
            },
        };
        let resource = || resource(name);
        if otlp.is_some() || scraped {
            METRICS.get_or_init(|| {
                let metrics = Metrics(Arc::default());
                let reader = metrics.clone();
                let provider = SdkMeterProvider::builder()
                    .with_reader(reader)
                    .with_resource(resource())
                    .with_view(of_hardware)
                    .build();
                opentelemetry::global::set_meter_provider(provider);
                process::register();
                metrics
            });
        }
        let (traces, otlp) = match otlp {
            Some(target) => {
                let (queue, spans) = Queue::new();
                let provider = SdkTracerProvider::builder()
                    .with_span_processor(queue.clone())
                    .with_resource(resource())
                    .build();
                (Some(provider.tracer("skerry")), Some(Otlp::new(target, queue, spans, provider, resource())))
            }
            None => (None, None),
        };
        self.subscribe(traces);
        if let Some(error) = foreign {
            tracing::warn!(%error, "traces and metrics are not exported");
        }
        Ok(Telemetry { otlp, without_metrics: false })
    }

    fn subscribe(&self, traces: Option<opentelemetry_sdk::trace::SdkTracer>) {
        let terminal = std::io::stderr().is_terminal();
        let format = self.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
        let traced = traces.is_some();
        // A span is there to be exported. Where it is, log lines within it say of which trace. Those of libraries are not even made: one of a
        // connection would hold the call's that opened it open for as long as it lives.
        let is_ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("skerry");
        let filter = self.filter.clone();
        let logged = filter_fn(move |metadata| {
            if metadata.is_span() {
                traced && is_ours(metadata)
            } else {
                filter.would_enable(metadata.target(), metadata.level())
            }
        });
        let exported = filter_fn(is_ours);
        let otel = traces.map(|tracer| {
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(exported)
        });
        let registry = tracing_subscriber::registry().with(otel);
        let layer = tracing_subscriber::fmt::layer().with_writer(own_log::Tee);
        // An error means that somebody began before, as tests in one process do.
        let _ = match format {
            LogFormat::Text => {
                registry.with(layer.with_ansi(terminal).with_target(false).with_filter(logged)).try_init()
            }
            LogFormat::Json => registry
                .with(layer.json().flatten_event(true).with_current_span(false).with_filter(logged))
                .try_init(),
        };
    }
}

/// What all traces and metrics of this process have in common. The environment has the last word.
fn resource(name: &'static str) -> Resource {
    let mut builder = Resource::builder();
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    if !named {
        builder = builder.with_service_name(name);
    }
    builder.with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

impl Telemetry {
    /// Of a command that ends soon: no logs, no metrics, and traces where the environment says where to.
    ///
    /// # Errors
    /// The endpoint is none that can be dialled: the command goes on with [`Telemetry::default`].
    pub fn of_client(name: &'static str) -> Result<Self, OtlpError> {
        let otlp_endpoint = otlp::of_environment();
        if otlp_endpoint.is_none() {
            return Ok(Self::default());
        }
        let silent = LogArgs { filter: Targets::new(), format: None, otlp_endpoint };
        Ok(Self { without_metrics: true, ..silent.init(name, false)? })
    }

    /// Runs `work` and exports meanwhile; then exports what is left, for a bounded time.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> T {
        match self.otlp {
            Some(otlp) if self.without_metrics => {
                otlp.during(None, otlp::LAST_DEADLINE_OF_CLIENT, work).await
            }
            Some(otlp) => otlp.during(Metrics::of_process(), otlp::LAST_DEADLINE, work).await,
            None => work.await,
        }
    }
}
