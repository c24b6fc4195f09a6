//! How fast sessions may open: each gets the next free moment, and one whose moment is too far away is sent off to come back later.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest that an agent is left waiting: well below its own patience of 20 s for the Welcome.
const QUEUE_MAX: Duration = Duration::from_secs(8);
/// As much of a second may open at once after a quiet time.
const BURST: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Admission {
    /// Between two sessions.
    period: Duration,
    /// The next moment that nobody has.
    next: Mutex<Instant>,
}

impl Admission {
    pub(crate) fn new(sessions_per_second: u32) -> Self {
        Self { period: Duration::from_secs(1) / sessions_per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// When the caller may go on; or how long it shall stay away.
    pub(crate) fn reserve(&self, now: Instant) -> Result<Instant, Duration> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        let wait = mine.saturating_duration_since(now);
        if wait > QUEUE_MAX {
            return Err(wait);
        }
        *next = mine + self.period;
        Ok(mine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sessions_open_at_a_bounded_rate_and_the_rest_is_sent_off() {
        let admission = Admission::new(100);
        let now = Instant::now();
        let admitted: Vec<_> = (0..2000).map_while(|_| admission.reserve(now).ok()).collect();
        // The queue of 8 s, the burst of 200 ms, and the one at its end.
        assert!((801..=822).contains(&admitted.len()), "{}", admitted.len());
        assert!(admitted.windows(2).all(|pair| pair[1] >= pair[0] + Duration::from_millis(10)));
        assert!(admission.reserve(now).is_err());
        assert!(admission.reserve(now + Duration::from_secs(1)).is_ok());
    }
}
