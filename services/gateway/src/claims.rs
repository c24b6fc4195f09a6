//! How often agents' word raises the store's term. A restore is rare, and each raise sends every session away: agents that lie, or of which
//! one is broken, must not do so again and again.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::clock::jitter;

/// Between two raises of the term by what agents say, at one gateway. What the store itself shows raises it at any time.
const INTERVAL: Duration = Duration::from_secs(30);
/// The span over which those come back who had to wait.
const SPREAD: Duration = Duration::from_secs(5);
/// A claimed revision that is further ahead is a lie: at ten thousand writes a second the store counts so far in three years.
const REVISIONS_AHEAD_MAX: i64 = 1 << 40;

/// When an agent was believed last.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    believed: Mutex<Option<Instant>>,
}

impl Claims {
    /// The turn of one claim; those of others wait, and find the term raised.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn { believed: self.believed.lock().await }
    }
}

/// See [`Claims::turn`].
pub(crate) struct Turn<'a> {
    believed: MutexGuard<'a, Option<Instant>>,
}

impl Turn<'_> {
    /// Whether an agent may be believed now; or how long it shall stay away.
    pub(crate) fn may_raise(&self, now: Instant) -> Result<(), Duration> {
        let wait = self.believed.map_or(Duration::ZERO, |at| (at + INTERVAL).saturating_duration_since(now));
        if wait.is_zero() { Ok(()) } else { Err(wait + jitter(SPREAD)) }
    }

    /// The term was raised.
    pub(crate) fn raised(mut self, now: Instant) {
        *self.believed = Some(now);
    }
}

/// Whether a store that stands at `stored` can ever have given out `claimed`.
pub(crate) fn is_plausible(claimed: i64, stored: i64) -> bool {
    claimed.saturating_sub(stored) <= REVISIONS_AHEAD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn agents_are_believed_once_in_an_interval() {
        let claims = Claims::default();
        let now = Instant::now();
        assert_eq!(claims.turn().await.may_raise(now), Ok(()));
        claims.turn().await.raised(now);
        let wait = claims.turn().await.may_raise(now + Duration::from_secs(10)).expect_err("too early");
        assert!((Duration::from_secs(20)..=Duration::from_secs(25)).contains(&wait), "{wait:?}");
        assert_eq!(claims.turn().await.may_raise(now + INTERVAL), Ok(()));
    }

    #[test]
    fn a_revision_that_no_store_ever_counts_to_is_a_lie() {
        assert!(is_plausible(REVISIONS_AHEAD_MAX, 0));
        assert!(!is_plausible(i64::MAX, 1));
        assert!(is_plausible(1, i64::MAX));
    }
}
