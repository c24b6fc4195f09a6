//! How often each of many may ask: so many at once after a quiet time, and then one more each time that one is earned.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Remembers who asked. One who has earned all back is as good as forgotten, and is where room is needed.
#[derive(Debug)]
pub struct Rate<K> {
    burst: u32,
    earned_in: Duration,
    keys_max: usize,
    /// When all will be earned back.
    full_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq> Rate<K> {
    /// `burst` at once, one more earned in `earned_in`; of at most `keys_max` askers at a time. Others wait while these have not earned all back.
    pub fn new(burst: u32, earned_in: Duration, keys_max: usize) -> Self {
        Self { burst, earned_in, keys_max, full_at: Mutex::default() }
    }

    /// Whether this one may ask now; or how long it shall wait.
    ///
    /// # Errors
    /// The wait.
    pub fn admit(&self, key: K, now: Instant) -> Result<(), Duration> {
        let all = self.earned_in * self.burst;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= self.keys_max && !full_at.contains_key(&key) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= self.keys_max {
                return Err(all);
            }
        }
        let at = full_at.entry(key).or_insert(now);
        let full = (*at).max(now) + self.earned_in;
        let wait = full.saturating_duration_since(now + all);
        if !wait.is_zero() {
            return Err(wait);
        }
        *at = full;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARNED_IN: Duration = Duration::from_millis(100);

    #[test]
    fn a_burst_at_once_and_the_rate_after_that() {
        let (rate, now) = (Rate::new(64, EARNED_IN, 10), Instant::now());
        let admitted = |at: Instant| (0..1000).filter(|_| rate.admit("a", at).is_ok()).count();
        assert_eq!(admitted(now), 64);
        assert_eq!(rate.admit("a", now), Err(EARNED_IN));
        assert_eq!(admitted(now + Duration::from_secs(1)), 10);
        assert!(rate.admit("b", now).is_ok(), "another is not held up by it");
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (rate, now) = (Rate::new(64, EARNED_IN, 100), Instant::now());
        for n in 0..100 {
            assert!(rate.admit(n, now).is_ok());
        }
        assert!(rate.admit(100, now).is_err());
        assert!(rate.admit(1, now).is_ok(), "one that is known may go on");
        assert!(rate.admit(100, now + EARNED_IN * 2).is_ok(), "room comes back");
    }
}
