//! Why somebody was turned away, as `/metrics` counts it: `skerry_door_turned_away_total{reason}`.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

static TURNED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    opentelemetry::global::meter("skerry")
        .u64_counter("skerry.door.turned_away")
        .with_description("Connections and calls that were refused or ended for a bound, by reason")
        .build()
});

/// A bound that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The process has as many connections as it may.
    Full,
    /// There is little room left, and this address has many connections.
    AddressConnections,
    /// This address opens connections too fast.
    AddressRate,
    /// This address has too many handshakes under way.
    AddressHandshakes,
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long, or gave way to others.
    HandshakeTime,
    /// The HTTP/2 preface did not come.
    PrefaceTime,
    /// Nothing was asked for long.
    Idle,
    /// Too many calls were begun and given up.
    Resets,
    /// An answer was not read for long.
    Unread,
    /// The identity has too many calls open.
    Calls,
    /// A request is too large.
    Size,
}

impl Turned {
    /// Counts it.
    pub(crate) fn count(self) {
        TURNED.add(1, &[KeyValue::new("reason", self.name())]);
    }

    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::AddressConnections => "address_connections",
            Self::AddressRate => "address_rate",
            Self::AddressHandshakes => "address_handshakes",
            Self::Handshake => "handshake",
            Self::HandshakeTime => "handshake_time",
            Self::PrefaceTime => "preface_time",
            Self::Idle => "idle",
            Self::Resets => "resets",
            Self::Unread => "unread",
            Self::Calls => "calls",
            Self::Size => "size",
        }
    }
}
