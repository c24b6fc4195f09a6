//! One connection between its socket and its requests: how many calls are open on it, since when none is, how many were given up.
//!
//! The socket asks at each read whether it has come to its end. It needs no timer for that: the server pings a silent connection once a
//! minute, and the answer is a read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use skerry_model::{Code, Fault};
use tokio::time::Instant;

use super::{Door, IDLE_MAX, Turned};

/// Calls that a connection may begin and give up at once, and a second after that. Who ends its watches gives up some; who does
/// nothing else makes the server work for nothing (the "rapid reset" of HTTP/2).
const RESETS_BURST: u64 = 1024;
const RESETS_PER_SECOND: u64 = 50;
/// What one costs.
const RESET_COST_MS: u64 = 1000 / RESETS_PER_SECOND;

/// A bound on calls at once, and how many there are.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(super) calls: Arc<AtomicU32>,
    pub(super) max: u32,
}

/// See the module. Times are milliseconds since it began.
#[derive(Debug)]
pub(crate) struct Line {
    began: Instant,
    holder: Holder,
    /// Whether anybody says what is asked on it.
    watched: bool,
    open: AtomicU32,
    idle_since_ms: AtomicU64,
    /// When its burst of resets is whole again.
    rested_ms: AtomicU64,
    flooded: AtomicBool,
}

/// That a call is open on a line.
#[derive(Debug)]
pub(crate) struct Place(Arc<Line>);

impl Line {
    pub(crate) fn new(holder: Holder) -> Arc<Self> {
        Self::made(holder, true)
    }

    /// A line of which nobody says what is asked on it: it never counts as idle.
    pub(crate) fn new_unwatched() -> Arc<Self> {
        Self::made(Door::unknown(), false)
    }

    fn made(holder: Holder, watched: bool) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            holder,
            watched,
            open: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            rested_ms: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
        })
    }

    /// A call more, or the fault that its caller is told.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Place, Fault> {
        let max = self.holder.max;
        if self.holder.calls.fetch_add(1, Ordering::Relaxed) >= max {
            self.holder.calls.fetch_sub(1, Ordering::Relaxed);
            Turned::Calls.count();
            let why = format!("the caller has {max} calls open, which is as many as it may: end some");
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_CALLS", why).with("calls_max", max));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Place(Arc::clone(self)))
    }

    /// Why the connection shall end, if it shall.
    pub(crate) fn end(&self) -> Option<Turned> {
        if self.flooded.load(Ordering::Relaxed) {
            return Some(Turned::Resets);
        }
        if !self.watched || self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let idle = self.now_ms().saturating_sub(self.idle_since_ms.load(Ordering::Relaxed));
        (Duration::from_millis(idle) > IDLE_MAX).then_some(Turned::Idle)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Place {
    /// The caller has given the call up before it was answered.
    pub(crate) fn was_reset(&self) {
        let line = &self.0;
        let now = line.now_ms();
        let rested = line.rested_ms.load(Ordering::Relaxed).max(now) + RESET_COST_MS;
        // Two at once may count as one: it is a rate, not a ledger.
        line.rested_ms.store(rested, Ordering::Relaxed);
        if rested > now + RESETS_BURST * RESET_COST_MS {
            line.flooded.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = &self.0;
        line.idle_since_ms.store(line.now_ms(), Ordering::Relaxed);
        line.open.fetch_sub(1, Ordering::Relaxed);
        line.holder.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_line_with_a_call_is_never_idle_and_one_without_is_after_its_time() {
        let line = Line::new(Door::unknown());
        let place = line.enter().expect("the first");
        tokio::time::advance(10 * IDLE_MAX).await;
        assert_eq!(line.end(), None, "an agent's stream may be silent for days");
        drop(place);
        tokio::time::advance(IDLE_MAX).await;
        assert_eq!(line.end(), None);
        tokio::time::advance(STEP).await;
        assert_eq!(line.end(), Some(Turned::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_nobody_watches_is_never_idle() {
        let line = Line::new_unwatched();
        tokio::time::advance(10 * IDLE_MAX).await;
        assert_eq!(line.end(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_given_up_by_the_thousand_end_the_line() {
        let line = Line::new(Door::unknown());
        let place = line.enter().expect("the first");
        for _ in 0..RESETS_BURST {
            place.was_reset();
        }
        assert_eq!(line.end(), None);
        tokio::time::advance(STEP).await;
        for _ in 0..RESETS_PER_SECOND {
            place.was_reset();
        }
        assert_eq!(line.end(), None, "some are forgiven each second");
        place.was_reset();
        assert_eq!(line.end(), Some(Turned::Resets));
    }

    #[test]
    fn a_call_too_many_is_refused_and_one_that_ends_makes_room() {
        let line = Line::new(Holder { calls: Arc::default(), max: 2 });
        let places = (line.enter().expect("one"), line.enter().expect("two"));
        let fault = line.enter().expect_err("three");
        assert_eq!((fault.code, fault.reason), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
        drop(places.0);
        assert!(line.enter().is_ok());
    }
}
