//! What an agent counts.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    Meters {
        connected: meter.u64_gauge("skerry.agent.connected").with_description("1: a session is open").build(),
        acts: meter
            .u64_counter("skerry.agent.acts")
            .with_description("What the reconciler did to instances, by act and outcome")
            .build(),
        instances: meter
            .u64_gauge("skerry.agent.instances")
            .with_description("Instances that this node shall run")
            .build(),
    }
});

struct Meters {
    connected: Gauge<u64>,
    acts: Counter<u64>,
    instances: Gauge<u64>,
}

/// Whether a session is open.
pub(crate) fn connected(connected: bool) {
    METERS.connected.record(u64::from(connected), &[]);
}

/// An act ended.
pub(crate) fn acted(act: &'static str, ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    METERS.acts.add(1, &[KeyValue::new("act", act), KeyValue::new("outcome", outcome)]);
}

/// So many instances shall run here.
pub(crate) fn instances(wanted: usize) {
    METERS.instances.record(wanted as u64, &[]);
}
