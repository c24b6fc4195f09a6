//! Waiting longer after each failure, with full jitter.

use std::time::Duration;

/// The first wait is at most this long.
const FIRST: Duration = Duration::from_millis(100);

/// Counts failures in a row.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Backoff {
    /// Waits grow up to `longest`.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed once more: how long to wait.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // Never quite nothing: a loop of instant failures shall not spin.
        ceiling.mul_f64(rand::random_range(0.1..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_a_little_and_the_longest() {
        let mut backoff = Backoff::up_to(Duration::from_secs(2));
        for _ in 0..40 {
            let wait = backoff.next();
            assert!(wait >= FIRST / 10 && wait <= Duration::from_secs(2), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
