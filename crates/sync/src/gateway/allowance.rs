//! How many frames an agent may send: so many at once, and so many a second after that. An honest one stays far below it.

use std::time::Duration;

use crate::limits;
use crate::time::MonoTime;

/// The time in which one more is earned.
const EARNED_IN: Duration = Duration::from_nanos(1_000_000_000 / limits::FRAMES_PER_SECOND_MAX as u64);

#[derive(Debug, Clone)]
pub(super) struct Allowance {
    left: u32,
    /// What was earned up to here is counted.
    since: MonoTime,
}

impl Allowance {
    pub(super) fn new(now: MonoTime) -> Self {
        Self { left: limits::FRAMES_BURST_MAX, since: now }
    }

    /// Takes one. Whether there was one.
    pub(super) fn take(&mut self, now: MonoTime) -> bool {
        let earned = now.saturating_since(self.since).as_nanos() / EARNED_IN.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= limits::FRAMES_BURST_MAX - self.left {
            (self.left, self.since) = (limits::FRAMES_BURST_MAX, now);
        } else {
            self.left += earned;
            self.since = self.since + EARNED_IN * earned;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_may_be_sent_at_once_and_the_rate_after_it() {
        let start = MonoTime::from_origin(Duration::from_secs(100));
        let mut allowance = Allowance::new(start);
        let taken = |allowance: &mut Allowance, now, tries: u32| {
            (0..tries).map(|_| u32::from(allowance.take(now))).sum::<u32>()
        };
        assert_eq!(taken(&mut allowance, start, 1000), limits::FRAMES_BURST_MAX);
        // However finely it is asked.
        let ms = |ms| start + Duration::from_millis(ms);
        let in_a_second: u32 = (1..=1000).map(|at| taken(&mut allowance, ms(at), 3)).sum();
        assert_eq!(in_a_second, limits::FRAMES_PER_SECOND_MAX);
        assert_eq!(taken(&mut allowance, ms(100_000_000), 1000), limits::FRAMES_BURST_MAX);
    }
}
