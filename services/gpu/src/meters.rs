//! What a gpu service counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};
use skerry_series::Stats;

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    let counter = |name, description| meter.u64_counter(name).with_description(description).build();
    Meters {
        frames: counter("skerry.gpu.frames", "Frames of nodes that came, by what became of them"),
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

/// What history lacks, since the start.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Batches that it had no room for.
    pub(crate) batches: AtomicU64,
    /// Samples that it did not take.
    pub(crate) samples: AtomicU64,
}

/// Has it told what these are whenever somebody asks, as long as they are there.
pub(crate) fn lacking(lacking: &Arc<Lacking>) {
    let meter = opentelemetry::global::meter("skerry");
    let tell = |name, description, count: fn(&Lacking) -> &AtomicU64| {
        let lacking = Arc::downgrade(lacking);
        // The meter keeps what it has built.
        let _ = meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(move |observer| {
                if let Some(lacking) = lacking.upgrade() {
                    observer.observe(count(&lacking).load(Ordering::Relaxed), &[]);
                }
            })
            .build();
    };
    tell("skerry.gpu.history.left_out", "Batches of samples that history had no room for", |all| {
        &all.batches
    });
    tell("skerry.gpu.history.refused", "Samples that history did not take", |all| &all.samples);
}

/// What history counts now, and what it counted when this was called last.
pub(crate) fn history(now: &Stats, before: &Stats) {
    METERS.values.add(now.sealed_values.saturating_sub(before.sealed_values), &[]);
    METERS.bytes.add(now.sealed_bytes.saturating_sub(before.sealed_bytes), &[]);
    let files = now.levels.iter().map(|level| level.file_bytes).sum();
    METERS.files.record(files, &[]);
    METERS.memory.record((now.head_bytes + now.index_bytes + now.pending_bytes) as u64, &[]);
}
