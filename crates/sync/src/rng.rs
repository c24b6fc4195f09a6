//! Jitter from a seed, and the waits that are made of it.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): enough for jitter, no dependency, the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between nothing and `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next() % nanos.saturating_add(1).max(1))
    }
}

/// Exponential backoff with full jitter: the n-th wait is anywhere between nothing and `base` times two to the n, at most `cap`.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    pub(crate) fn next(&mut self, rng: &mut Rng) -> Duration {
        let most = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        rng.up_to(most)
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_and_capped() {
        let mut rng = Rng::new(7);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let waits: Vec<_> = (0..2000).map(|_| backoff.next(&mut rng)).collect();
        assert!(waits[0] <= Duration::from_millis(500));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)));
        let late = &waits[10..];
        let mean = late.iter().sum::<Duration>() / u32::try_from(late.len()).unwrap();
        assert!(mean > Duration::from_secs(13) && mean < Duration::from_secs(17), "{mean:?}");
    }
}
