//! The metrics as Prometheus reads them, in its text format 0.0.4. Names follow OpenTelemetry's rules: dots become underscores, the unit is
//! appended, and a counter ends in `_total`.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ScopeMetrics};

use super::Metrics;

/// Scope of metrics of hardware, which are for collectors: what is told of the same hardware on `/metrics` has names of its own ([`also_tell`]).
pub const HARDWARE_SCOPE: &str = "skerry.hardware";

/// What writes lines of its own.
type Source = Box<dyn Fn(&mut String) + Send + Sync>;

static SOURCES: Mutex<Vec<Source>> = Mutex::new(Vec::new());

/// Has `source` write whole metrics of its own behind all others, in the same format, whenever somebody asks for them. It lasts as long as the process.
pub fn also_tell(source: impl Fn(&mut String) + Send + Sync + 'static) {
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
}

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics as text.
pub(crate) fn text(metrics: &Metrics) -> String {
    let mut out = String::new();
    let Some(all) = metrics.collect() else { return out };
    let told = all.scope_metrics().filter(|metrics| metrics.scope().name() != HARDWARE_SCOPE);
    for metric in told.flat_map(ScopeMetrics::metrics) {
        match metric.data() {
            AggregatedMetrics::F64(data) => write(&mut out, metric, data, |value| value),
            AggregatedMetrics::U64(data) => write(&mut out, metric, data, |value| value as f64),
            AggregatedMetrics::I64(data) => write(&mut out, metric, data, |value| value as f64),
        }
    }
    for source in SOURCES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        source(&mut out);
    }
    out
}

fn write<T: Copy>(out: &mut String, metric: &Metric, data: &MetricData<T>, number: fn(T) -> f64) {
    match data {
        MetricData::Gauge(gauge) => {
            let name = head(out, metric, "gauge", "");
            for point in gauge.data_points() {
                sample(out, &name, point.attributes(), None, number(point.value()));
            }
        }
        MetricData::Sum(sum) => {
            let (kind, suffix) = if sum.is_monotonic() { ("counter", "_total") } else { ("gauge", "") };
            let name = head(out, metric, kind, suffix);
            for point in sum.data_points() {
                sample(out, &name, point.attributes(), None, number(point.value()));
            }
        }
        MetricData::Histogram(histogram) => {
            let name = head(out, metric, "histogram", "");
            for point in histogram.data_points() {
                let mut below = 0;
                let bounds = point.bounds().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(point.bucket_counts()) {
                    below += count;
                    sample(out, &format!("{name}_bucket"), point.attributes(), Some(&bound), below as f64);
                }
                sample(out, &format!("{name}_sum"), point.attributes(), None, number(point.sum()));
                sample(out, &format!("{name}_count"), point.attributes(), None, point.count() as f64);
            }
        }
        // Nothing here makes one.
        MetricData::ExponentialHistogram(_) => {}
    }
}

/// Writes what a metric is; answers its name.
fn head(out: &mut String, metric: &Metric, kind: &str, suffix: &str) -> String {
    let unit = match metric.unit() {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let name = format!("{}{unit}{suffix}", metric.name().replace(['.', '-', '/'], "_"));
    let help = metric.description().replace('\\', "\\\\").replace('\n', "\\n");
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string");
    name
}

fn sample<'a>(
    out: &mut String,
    name: &str,
    labels: impl Iterator<Item = &'a KeyValue>,
    bound: Option<&str>,
    value: f64,
) {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = labels.map(|label| {
        format!("{}=\"{}\"", label.key.as_str().replace(['.', '-'], "_"), escape(&label.value.as_str()))
    });
    let labels: Vec<String> = labels.chain(bound.map(|bound| format!("le=\"{bound}\""))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    writeln!(out, "{name}{labels} {value}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    #[test]
    fn each_kind_is_written_as_prometheus_reads_it() {
        let metrics = Metrics(std::sync::Arc::default());
        let provider = SdkMeterProvider::builder().with_reader(metrics.clone()).build();
        let meter = provider.meter("test");
        let label = KeyValue::new("grpc.code", "a\"b");
        meter.u64_counter("calls.handled").with_description("Calls").build().add(3, &[label]);
        meter.i64_up_down_counter("open").build().add(-1, &[]);
        let durations = meter.f64_histogram("took").with_unit("s").with_boundaries(vec![0.5, 1.0]).build();
        durations.record(0.75, &[]);
        durations.record(2.0, &[]);
        let text = text(&metrics);
        for line in [
            "# HELP calls_handled_total Calls\n# TYPE calls_handled_total counter\ncalls_handled_total{grpc_code=\"a\\\"b\"} 3\n",
            "# TYPE open gauge\nopen -1\n",
            "took_seconds_bucket{le=\"0.5\"} 0\ntook_seconds_bucket{le=\"1\"} 1\ntook_seconds_bucket{le=\"+Inf\"} 2\n",
            "took_seconds_sum 2.75\ntook_seconds_count 2\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
