//! What a relay counts.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, UpDownCounter};

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    Meters {
        channels: meter
            .i64_up_down_counter("skerry.relay.channels")
            .with_description("Channels that are open or being opened, by verb")
            .build(),
        opened: meter
            .u64_counter("skerry.relay.channels.opened")
            .with_description("Channels whose agent came, and those whose did not, by verb")
            .build(),
        moved: meter
            .u64_counter("skerry.relay.io")
            .with_unit("By")
            .with_description("Bytes of frames from agents and to them, by verb")
            .build(),
    }
});

struct Meters {
    channels: UpDownCounter<i64>,
    opened: Counter<u64>,
    moved: Counter<u64>,
}

fn verb(verb: &'static str) -> KeyValue {
    KeyValue::new("verb", verb)
}

/// A channel was begun (1), or has ended (-1).
pub(crate) fn channel(of: &'static str, change: i64) {
    METERS.channels.add(change, &[verb(of)]);
}

/// A channel was opened, or could not be.
pub(crate) fn opened(of: &'static str, ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    METERS.opened.add(1, &[verb(of), KeyValue::new("outcome", outcome)]);
}

/// What moved on a channel, once it has ended.
pub(crate) fn moved(of: &'static str, (received, sent): (u64, u64)) {
    for (direction, bytes) in [("receive", received), ("transmit", sent)] {
        METERS.moved.add(bytes, &[verb(of), KeyValue::new("network.io.direction", direction)]);
    }
}
