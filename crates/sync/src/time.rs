//! Wall time and monotonic time, as two types that cannot be mixed up. Reading a clock is the driver's.

use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point of a clock that never jumps, counted from an origin of the driver's choice. What every timer runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(Duration);

impl MonoTime {
    /// `since_origin` after the driver's origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How long after the driver's origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// How long after `earlier`; nothing if it is not.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `before` it; the origin where that is later.
    #[must_use]
    pub const fn saturating_sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(before))
    }
}

impl Add<Duration> for MonoTime {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

/// What a wall clock shows: may be wrong, may jump either way. Only written down, never waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(Duration);

impl WallTime {
    /// `since_epoch` after 1970.
    pub const fn from_epoch(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// How long after 1970.
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// As it travels.
    pub fn to_proto(self) -> prost_types::Timestamp {
        skerry_model::time::to_timestamp(UNIX_EPOCH + self.0)
    }

    /// From what travelled, if it is a valid time after 1970.
    pub fn from_proto(timestamp: &prost_types::Timestamp) -> Option<Self> {
        skerry_model::time::from_timestamp(timestamp).map(Self::from)
    }
}

impl From<SystemTime> for WallTime {
    /// Before 1970: the epoch.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For timers.
    pub mono: MonoTime,
    /// For what is written down.
    pub wall: WallTime,
}
