//! One connection between its socket and its requests: how many calls are open on it, since when none is, how many were given up.
//!
//! The socket asks at each read whether it has come to its end. It needs no timer for that: the server pings a silent connection once a
//! minute, and the answer is a read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Longest that a call of one answer may be open. The answer takes milliseconds to make, and seconds to go over a slow line: after that nobody reads it, and
/// the server holds it for nothing.
const ANSWER_MAX: Duration = Duration::from_secs(120);

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
    /// When each call of one answer that is open began, with a number that is its own.
    answering: Mutex<BTreeSet<(u64, u64)>>,
    entered: AtomicU64,
    idle_since_ms: AtomicU64,
    /// When its burst of resets is whole again.
    rested_ms: AtomicU64,
    flooded: AtomicBool,
}

/// That a call is open on a line.
#[derive(Debug)]
pub(crate) struct Place {
    line: Arc<Line>,
    /// Its entry in `answering`, unless it streams.
    answering: Option<(u64, u64)>,
}

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
            answering: Mutex::default(),
            entered: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(0),
            rested_ms: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
        })
    }

    /// A call more, with one answer (`unary`) or with a stream of them; or the fault that its caller is told.
    pub(crate) fn enter(self: &Arc<Self>, unary: bool) -> Result<Place, Fault> {
        let max = self.holder.max;
        if self.holder.calls.fetch_add(1, Ordering::Relaxed) >= max {
            self.holder.calls.fetch_sub(1, Ordering::Relaxed);
            Turned::Calls.count();
            let why = format!("the caller has {max} calls open, which is as many as it may: end some");
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_CALLS", why).with("calls_max", max));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let answering = unary.then(|| (self.now_ms(), self.entered.fetch_add(1, Ordering::Relaxed)));
        self.answering().extend(answering);
        Ok(Place { line: Arc::clone(self), answering })
    }

    fn answering(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection shall end, if it shall.
    pub(crate) fn end(&self) -> Option<Turned> {
        if self.flooded.load(Ordering::Relaxed) {
            return Some(Turned::Resets);
        }
        let waits = self.answering().first().map(|(began, _)| self.now_ms().saturating_sub(*began));
        if waits.is_some_and(|waits| Duration::from_millis(waits) > ANSWER_MAX) {
            return Some(Turned::Unread);
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
        let line = &self.line;
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
        let line = &self.line;
        if let Some(answering) = &self.answering {
            line.answering().remove(answering);
        }
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
        let place = line.enter(false).expect("the first");
        tokio::time::advance(10 * IDLE_MAX).await;
        assert_eq!(line.end(), None, "an agent's stream may be silent for days");
        drop(place);
        tokio::time::advance(IDLE_MAX).await;
        assert_eq!(line.end(), None);
        tokio::time::advance(STEP).await;
        assert_eq!(line.end(), Some(Turned::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_ends_the_line() {
        let line = Line::new(Door::unknown());
        let first = line.enter(true).expect("one");
        tokio::time::advance(ANSWER_MAX).await;
        let second = line.enter(true).expect("two");
        assert_eq!(line.end(), None);
        drop(first);
        tokio::time::advance(STEP).await;
        assert_eq!(line.end(), None, "the first one went out");
        tokio::time::advance(ANSWER_MAX).await;
        assert_eq!(line.end(), Some(Turned::Unread));
        drop(second);
        assert_eq!(line.end(), None);
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
        let place = line.enter(false).expect("the first");
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
        let places = (line.enter(false).expect("one"), line.enter(false).expect("two"));
        let fault = line.enter(false).expect_err("three");
        assert_eq!((fault.code, fault.reason), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
        drop(places.0);
        assert!(line.enter(false).is_ok());
    }
}
