//! The clocks and the chance that the pure parts are given.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::SystemTime;

use skerry_sync::{MonoTime, Now, WallTime};
use tokio::time::Instant;

/// Counts from the start of the agent. Follows tokio's paused time in tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock {
    /// Monotonic time.
    pub(crate) fn mono(&self) -> MonoTime {
        MonoTime::from_origin(self.origin.elapsed())
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono(), wall: WallTime::from(SystemTime::now()) }
    }

    /// When `time` is, for a timer.
    pub(crate) fn instant(&self, time: MonoTime) -> Instant {
        self.origin + time.since_origin()
    }
}

/// 64 bits that differ between processes and between calls; good for jitter, not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Between 0 and 1.
pub(crate) fn random_unit() -> f64 {
    f64::from(u32::try_from(random() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}
