//! What a gpu service counts.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};
use skerry_series::Stats;

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    let counter = |name, description| meter.u64_counter(name).with_description(description).build();
    Meters {
        frames: counter("skerry.gpu.frames", "Frames of nodes that came, by what became of them"),
        left_out: counter("skerry.gpu.history.left_out", "Batches of samples that history had no room for"),
        refused: counter("skerry.gpu.history.refused", "Samples that history did not take"),
        values: counter("skerry.gpu.history.values", "Values in full blocks of samples"),
        bytes: meter
            .u64_counter("skerry.gpu.history")
            .with_unit("By")
            .with_description("Length of full blocks of samples")
            .build(),
        files: meter
            .u64_gauge("skerry.gpu.history.files")
            .with_unit("By")
            .with_description("Length of the files of history")
            .build(),
        memory: meter
            .u64_gauge("skerry.gpu.history.memory")
            .with_unit("By")
            .with_description("Memory of blocks that are not full or not written, and of the index")
            .build(),
    }
});

struct Meters {
    frames: Counter<u64>,
    left_out: Counter<u64>,
    refused: Counter<u64>,
    values: Counter<u64>,
    bytes: Counter<u64>,
    files: Gauge<u64>,
    memory: Gauge<u64>,
}

/// Frames came in one message.
pub(crate) fn frames(taken: u64, passed_over: u64) {
    for (outcome, count) in [("taken", taken), ("passed_over", passed_over)] {
        METERS.frames.add(count, &[KeyValue::new("outcome", outcome)]);
    }
}

/// History had no room for a batch.
pub(crate) fn left_out() {
    METERS.left_out.add(1, &[]);
}

/// History did not take a sample.
pub(crate) fn refused() {
    METERS.refused.add(1, &[]);
}

/// What history counts now, and what it counted when this was called last.
pub(crate) fn history(now: &Stats, before: &Stats) {
    METERS.values.add(now.sealed_values.saturating_sub(before.sealed_values), &[]);
    METERS.bytes.add(now.sealed_bytes.saturating_sub(before.sealed_bytes), &[]);
    let files = now.levels.iter().map(|level| level.file_bytes).sum();
    METERS.files.record(files, &[]);
    METERS.memory.record((now.head_bytes + now.index_bytes + now.pending_bytes) as u64, &[]);
}
