//! What a scheduler counts.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    Meters {
        leader: meter
            .u64_gauge("skerry.scheduler.leader")
            .with_description("1: this scheduler leads")
            .build(),
        assignments: meter
            .u64_counter("skerry.scheduler.assignments_written")
            .with_description("Assignments of nodes that the leader wrote, by outcome")
            .build(),
    }
});

struct Meters {
    leader: Gauge<u64>,
    assignments: Counter<u64>,
}

/// Whether this scheduler leads.
pub(crate) fn leads(leads: bool) {
    METERS.leader.record(u64::from(leads), &[]);
}

/// So many assignments were written, and so many could not be.
pub(crate) fn assigned(written: usize, failed: usize) {
    for (count, outcome) in [(written, "ok"), (failed, "failed")] {
        if count > 0 {
            METERS.assignments.add(count as u64, &[KeyValue::new("outcome", outcome)]);
        }
    }
}
