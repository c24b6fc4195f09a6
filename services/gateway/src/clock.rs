//! The clocks and the dice that the session machines do not have.

use std::time::{Duration, SystemTime};

use skerry_sync::{MonoTime, Now};
use tokio::time::Instant;

/// The process's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        Now { mono: MonoTime::from_origin(self.origin.elapsed()), wall: SystemTime::now().into() }
    }

    /// When a deadline of a machine is.
    pub(crate) fn instant(self, at: MonoTime) -> Instant {
        self.origin + at.since_origin()
    }
}

/// Random bits.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 ^ uuid::Uuid::new_v4().as_u64_pair().1
}

/// A wait anywhere between nothing and `most`.
pub(crate) fn jitter(most: Duration) -> Duration {
    let part = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    most.mul_f64(part)
}
