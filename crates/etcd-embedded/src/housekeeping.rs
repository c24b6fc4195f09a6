//! What happens by the clock: ending leases, forgetting old history, and noticing that the process stood still.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::AutoCompaction;
use crate::mvcc::Command;
use crate::shared::Shared;
use crate::writer::{Request, Work};

/// How late a lease may end, as in etcd.
const TICK: Duration = Duration::from_millis(500);
/// A gap between ticks beyond which nobody could have kept a lease alive: all live on, as after an election.
const STALL: Duration = Duration::from_secs(3);
/// How often the history's age is noted and old history is forgotten.
const COMPACTION_PERIOD: Duration = Duration::from_secs(10);
/// Smallest number of revisions worth a compaction.
const COMPACTION_STEP: i64 = 100;

/// Runs until the store stops or nobody uses it any more.
pub(crate) async fn run(shared: Arc<Shared>, queue: mpsc::WeakSender<Request>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut compactor =
        Compactor { next: Instant::now() + COMPACTION_PERIOD, ages: VecDeque::new(), old_enough: 0 };
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let stalled = now.duration_since(last) > TICK + STALL;
        if stalled {
            warn!(gap = ?now.duration_since(last), "this process stood still; every lease lives for its whole time again");
        }
        last = now;

        let due = shared.read().next_expiry().is_some_and(|expiry| expiry <= shared.now());
        let mut work = Vec::new();
        if stalled {
            work.push(Work::Command(Command::LeaseKeepAll));
        } else if due {
            work.push(Work::Tick);
        }
        if let Some(auto) = shared.config.auto_compaction
            && let Some(revision) = compactor.target(State::of(&shared), auto, now)
        {
            info!(revision, "compacting the history");
            work.push(Work::Command(Command::Compact { revision }));
        }
        for work in work {
            let Some(queue) = queue.upgrade() else { return };
            let (reply, done) = oneshot::channel();
            if queue.send(Request { work, reply }).await.is_err() {
                return;
            }
            drop(queue);
            // A disk that fails is the writer's business, and the next tick asks again.
            let _ = done.await;
        }
    }
}

/// Remembers which revision was current when.
struct Compactor {
    next: Instant,
    /// Younger than the time that history is kept.
    ages: VecDeque<(Instant, i64)>,
    /// Newest revision known to be older.
    old_enough: i64,
}

/// What a compaction is decided on.
#[derive(Clone, Copy)]
struct State {
    committed: i64,
    compacted: i64,
    size_bytes: usize,
    quota_bytes: usize,
}

impl State {
    fn of(shared: &Shared) -> Self {
        let core = shared.read();
        Self {
            committed: core.committed(),
            compacted: core.compacted(),
            size_bytes: core.size_bytes(),
            quota_bytes: shared.config.quota_bytes,
        }
    }
}

impl Compactor {
    /// The revision to compact at now, if there is one worth it.
    fn target(&mut self, state: State, auto: AutoCompaction, now: Instant) -> Option<i64> {
        let State { committed, compacted, size_bytes, quota_bytes } = state;
        // Short of memory: no history is worth a refused write.
        if size_bytes / 3 > quota_bytes / 4 && committed > compacted {
            return Some(committed);
        }
        if now < self.next {
            return None;
        }
        self.next = now + COMPACTION_PERIOD;
        self.ages.push_back((now, committed));
        while let Some((at, revision)) = self.ages.front().copied() {
            if now.duration_since(at) < auto.keep_for {
                break;
            }
            self.old_enough = revision;
            self.ages.pop_front();
        }
        let target = self.old_enough.min(committed - auto.keep_revisions);
        (target >= compacted.max(0) + COMPACTION_STEP).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: AutoCompaction = AutoCompaction { keep_revisions: 1000, keep_for: Duration::from_secs(60) };

    fn state(committed: i64) -> State {
        State { committed, compacted: -1, size_bytes: 0, quota_bytes: 1 << 30 }
    }

    fn compactor(start: Instant) -> Compactor {
        Compactor { next: start, ages: VecDeque::new(), old_enough: 0 }
    }

    #[test]
    fn history_goes_when_it_is_both_old_and_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut compactor = compactor(start);
        assert_eq!(compactor.target(state(5000), AUTO, at(0)), None, "long, and young");
        assert_eq!(compactor.target(state(5500), AUTO, at(30)), None);
        assert_eq!(compactor.target(state(5500), AUTO, at(60)), Some(4500), "the newest thousand stay");
        assert_eq!(compactor.target(state(9000), AUTO, at(70)), Some(5000), "the last minute stays");
        let done = State { compacted: 5000, ..state(9000) };
        assert_eq!(compactor.target(done, AUTO, at(80)), None, "nothing worth it");
    }

    #[test]
    fn history_goes_at_once_when_memory_is_short() {
        let start = Instant::now();
        let full = State { size_bytes: 800, quota_bytes: 1000, ..state(50) };
        assert_eq!(compactor(start).target(full, AUTO, start), Some(50));
        let gone = State { compacted: 50, ..full };
        assert_eq!(compactor(start).target(gone, AUTO, start), None);
    }
}
