//! The decision: from the outcomes of single tries to the health of an instance. Pure; the clock comes in as an argument.
//!
//! Before the first success it is tried often (100 ms, doubling up to one second), so that what waits for the service does not wait
//! longer than it must. Those extra tries find a success sooner and never a failure: failures count at most once per interval, so
//! that `retries * interval` stays what its writer meant by it.

use std::time::Duration;

use skerry_model::app::HealthCheck;
use tokio::time::Instant;

/// First wait before the first success. Doubles up to `EAGER_MAX`.
const EAGER_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries before the first success.
const EAGER_MAX: Duration = Duration::from_secs(1);

/// What is known of an instance's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing is known yet.
    Starting,
    /// The last try succeeded, or not enough have failed since one did.
    Healthy,
    /// So many tries in a row failed.
    Unhealthy {
        /// What the last one met with; for people.
        message: String,
    },
}

/// What one try came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Success,
    /// It does not.
    Failure {
        /// Why; for people.
        message: String,
    },
    /// It could not be tried (the runtime is away): says nothing about the instance.
    Unknown,
}

/// Folds outcomes into a state.
#[derive(Debug)]
pub struct Verdict {
    counts_from: Instant,
    interval: Duration,
    retries: u32,
    failures: u32,
    counted_at: Option<Instant>,
    succeeded: bool,
    eager: Duration,
    state: HealthState,
}

impl Verdict {
    /// For an instance that started at `started`.
    pub fn new(check: &HealthCheck, started: Instant) -> Self {
        Self {
            counts_from: started + check.start_period,
            interval: check.interval,
            retries: check.retries,
            failures: 0,
            counted_at: None,
            succeeded: false,
            eager: EAGER_MIN,
            state: HealthState::Starting,
        }
    }

    /// The state so far.
    pub fn state(&self) -> &HealthState {
        &self.state
    }

    /// Takes in the outcome of a try that ended at `now`: how long to wait before the next one.
    pub fn fold(&mut self, outcome: Outcome, now: Instant) -> Duration {
        match outcome {
            Outcome::Success => {
                self.succeeded = true;
                self.failures = 0;
                self.counted_at = None;
                self.state = HealthState::Healthy;
            }
            Outcome::Failure { message } if self.counts(now) => {
                self.failures = self.failures.saturating_add(1);
                self.counted_at = Some(now);
                if self.failures >= self.retries {
                    self.state = HealthState::Unhealthy { message };
                }
            }
            Outcome::Failure { .. } | Outcome::Unknown => {}
        }
        if self.succeeded {
            return self.interval;
        }
        let wait = self.eager.min(self.interval);
        self.eager = (self.eager * 2).min(EAGER_MAX);
        wait
    }

    fn counts(&self, now: Instant) -> bool {
        let spaced = self.succeeded || self.counted_at.is_none_or(|last| now >= last + self.interval);
        now >= self.counts_from && spaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use skerry_model::app::Probe;

    fn check(interval: u64, start_period: u64, retries: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(5),
            start_period: Duration::from_secs(start_period),
            retries,
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Success),
            Just(Outcome::Failure { message: "no".into() }),
            Just(Outcome::Failure { message: "no".into() }),
            Just(Outcome::Unknown),
        ]
    }

    proptest! {
        /// The plain reading of the contract, over the whole history, gives the same state as the fold.
        #[test]
        fn the_fold_agrees_with_the_history(
            outcomes in prop::collection::vec((outcome(), 0_u64..3000), 0..60),
            interval in 1_u64..5, start_period in 0_u64..10, retries in 1_u32..5,
        ) {
            let start = Instant::now();
            let check = check(interval, start_period, retries);
            let mut verdict = Verdict::new(&check, start);
            let mut now = start;
            let mut history = Vec::new();
            for (outcome, took_ms) in outcomes {
                now += Duration::from_millis(took_ms);
                history.push((outcome.clone(), now));
                let wait = verdict.fold(outcome, now);
                let succeeded = history.iter().any(|(o, _)| *o == Outcome::Success);
                prop_assert!(wait <= check.interval && (succeeded || wait <= EAGER_MAX));
                prop_assert!(wait > Duration::ZERO);
                now += wait;

                let last_success = history.iter().rposition(|(o, _)| *o == Outcome::Success);
                let since = &history[last_success.map_or(0, |at| at + 1)..];
                let mut failed: Vec<Instant> = Vec::new();
                for (outcome, at) in since {
                    let spaced = last_success.is_some() || failed.last().is_none_or(|last| *at >= *last + check.interval);
                    if matches!(outcome, Outcome::Failure { .. }) && *at >= start + check.start_period && spaced {
                        failed.push(*at);
                    }
                }
                let expected = if failed.len() >= retries as usize {
                    HealthState::Unhealthy { message: "no".into() }
                } else if last_success.is_some() {
                    HealthState::Healthy
                } else {
                    HealthState::Starting
                };
                prop_assert_eq!(verdict.state(), &expected);
            }
        }
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let start = Instant::now();
        let mut verdict = Verdict::new(&check(1, 10, 1), start);
        verdict.fold(Outcome::Failure { message: "early".into() }, start + Duration::from_secs(9));
        assert_eq!(verdict.state(), &HealthState::Starting);
        verdict.fold(Outcome::Failure { message: "late".into() }, start + Duration::from_secs(10));
        assert_eq!(verdict.state(), &HealthState::Unhealthy { message: "late".into() });
    }

    #[test]
    fn eager_tries_do_not_use_up_the_retries() {
        let start = Instant::now();
        let mut verdict = Verdict::new(&check(10, 0, 3), start);
        let mut now = start;
        while now < start + Duration::from_secs(20) {
            now += verdict.fold(Outcome::Failure { message: "no".into() }, now);
            if now < start + Duration::from_secs(20) {
                assert_eq!(verdict.state(), &HealthState::Starting);
            }
        }
        verdict.fold(Outcome::Failure { message: "no".into() }, now);
        assert_eq!(verdict.state(), &HealthState::Unhealthy { message: "no".into() });
    }
}
