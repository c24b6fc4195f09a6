//! Laws of the journal: workers that die, lose their claims and come late, steps that fail, people who cancel and retry, in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skerry_model::time::{from_timestamp, to_timestamp};

use super::*;

/// What is kept in the store.
#[derive(Debug, Clone)]
struct Kept {
    wanted: Wanted,
    journal: Option<Journal>,
    /// Whose claim it is, and which one.
    claim: Option<(usize, u64)>,
    claims: u64,
}

/// A worker has in memory what it read when it claimed, and what became of it since.
#[derive(Debug, Clone)]
struct Worker {
    claim: u64,
    journal: Journal,
}

/// What may happen.
#[derive(Debug, Clone)]
enum Happens {
    /// A worker claims the task if nobody has it and it is due.
    Claims(usize),
    /// A worker does the next thing; a step may fail, and its last write may be lost with the worker.
    Works {
        worker: usize,
        fails: Option<bool>,
        dies: bool,
    },
    /// The lease of the claim ends, whatever its worker thinks.
    Expires,
    Cancels,
    Retries,
    /// Time passes until the next try.
    Waits,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Happens::Claims),
        20 => (0..3_usize, proptest::option::weighted(0.2, any::<bool>()), proptest::bool::weighted(0.1))
            .prop_map(|(worker, fails, dies)| Happens::Works { worker, fails, dies }),
        1 => Just(Happens::Expires),
        1 => Just(Happens::Cancels),
        2 => Just(Happens::Retries),
        3 => Just(Happens::Waits),
    ]
}

struct World {
    kept: Kept,
    workers: BTreeMap<usize, Worker>,
    steps: BTreeSet<String>,
    /// How often each step was done.
    did: BTreeMap<String, u32>,
    now: SystemTime,
    /// All that was ever written.
    written: Vec<Journal>,
}

impl World {
    fn new(steps: usize) -> Self {
        Self {
            kept: Kept { wanted: Wanted { run: 1, cancel: false }, journal: None, claim: None, claims: 0 },
            workers: BTreeMap::new(),
            steps: (0..steps).map(|number| format!("n{number:03}")).collect(),
            did: BTreeMap::new(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            written: Vec::new(),
        }
    }

    fn is_due(&self) -> bool {
        let journal = self.kept.journal.as_ref();
        let next_try = journal.and_then(|journal| journal.next_try_time).and_then(|at| from_timestamp(&at));
        ended(journal, self.kept.wanted).is_none()
            && (self.kept.wanted.cancel || next_try.is_none_or(|at| at <= self.now))
    }

    /// A write of whoever has `claim`: of another one nothing is written.
    fn write(&mut self, claim: u64, journal: &Journal, gives_up: bool) -> bool {
        if self.kept.claim.is_none_or(|(_, held)| held != claim) {
            return false;
        }
        self.kept.journal = Some(journal.clone());
        self.written.push(journal.clone());
        if gives_up {
            self.kept.claim = None;
        }
        true
    }

    fn happen(&mut self, what: &Happens) {
        match *what {
            Happens::Claims(worker) => {
                if self.kept.claim.is_some() || !self.is_due() {
                    return;
                }
                self.kept.claims += 1;
                let claim = self.kept.claims;
                self.kept.claim = Some((worker, claim));
                let journal = take_up(self.kept.journal.clone(), self.kept.wanted, "w", self.now);
                self.write(claim, &journal, false);
                self.workers.insert(worker, Worker { claim, journal });
            }
            Happens::Works { worker, fails, dies } => self.work(worker, fails, dies),
            Happens::Expires => self.kept.claim = None,
            Happens::Cancels => {
                if ended(self.kept.journal.as_ref(), self.kept.wanted).is_none() {
                    self.kept.wanted.cancel = true;
                }
            }
            Happens::Retries => {
                let ended = ended(self.kept.journal.as_ref(), self.kept.wanted);
                if matches!(ended, Some(TaskPhase::Failed | TaskPhase::Cancelled)) {
                    self.kept.wanted = Wanted { run: self.kept.wanted.run + 1, cancel: false };
                }
            }
            Happens::Waits => self.now += WAIT_MAX,
        }
    }

    fn work(&mut self, index: usize, fails: Option<bool>, dies: bool) {
        let Some(Worker { claim, journal }) = self.workers.get(&index).cloned() else { return };
        let (after, gives_up) = match next(&journal, self.kept.wanted, &self.steps) {
            Next::Step(step) => {
                let after = match fails {
                    Some(permanent) => failed(&journal, &step, "no", permanent),
                    None => done(&journal, &step),
                };
                // Done with its journal in one transaction, or not at all.
                if fails.is_none() && !dies && self.kept.claim.is_some_and(|(_, held)| held == claim) {
                    *self.did.entry(step).or_default() += 1;
                }
                (after, false)
            }
            Next::Again => (again(&journal, self.now, 0.5), true),
            Next::End(phase) => (end(&journal, phase, self.now), true),
        };
        let stays = !dies && self.write(claim, &after, gives_up) && !gives_up;
        if stays {
            self.workers.insert(index, Worker { claim, journal: after });
        } else {
            self.workers.remove(&index);
        }
    }

    /// Left alone, with a worker that lives and steps that work.
    fn settle(&mut self) {
        for _ in 0..10 * (self.steps.len() + 10) {
            if ended(self.kept.journal.as_ref(), self.kept.wanted).is_some() {
                return;
            }
            if !self.workers.contains_key(&9) {
                self.happen(&Happens::Expires);
                self.happen(&Happens::Waits);
                self.happen(&Happens::Claims(9));
            }
            self.work(9, None, false);
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_steps_are_done_once_and_it_ends_in_one_of_three_ways(
        steps in 0..70_usize,
        what in proptest::collection::vec(happens(), 0..400),
    ) {
        let mut world = World::new(steps);
        for happens in &what {
            world.happen(happens);
        }
        world.settle();
        let journal = world.kept.journal.clone().expect("somebody began with it");
        let how = ended(Some(&journal), world.kept.wanted);
        prop_assert!(how.is_some(), "{journal:?}");

        let mut before = Journal::default();
        for journal in &world.written {
            prop_assert!(journal.steps_done >= before.steps_done, "{before:?} {journal:?}");
            prop_assert!(journal.run >= before.run);
            prop_assert!(journal.cursor >= before.cursor);
            prop_assert!(journal.attempt <= ATTEMPTS_MAX && journal.failures.len() <= FAILURES_MAX);
            let total = count(journal, &world.steps);
            prop_assert_eq!(total, u64::try_from(steps).unwrap(), "{:?}", journal);
            before = journal.clone();
        }
        // A step and its place in the journal are written together: so it is at least once, and at most once as well.
        prop_assert!(world.did.values().all(|times| *times == 1));
        prop_assert_eq!(journal.steps_done, u64::try_from(world.did.len()).unwrap());
        if how == Some(TaskPhase::Succeeded) {
            prop_assert_eq!(world.did.len(), steps);
            prop_assert!(journal.failures.is_empty());
        }
    }

    #[test]
    fn what_failed_or_was_cancelled_can_be_gone_on_with_to_the_end(
        steps in 0..70_usize,
        what in proptest::collection::vec(happens(), 0..200),
    ) {
        let mut world = World::new(steps);
        for happens in &what {
            world.happen(happens);
        }
        world.settle();
        world.happen(&Happens::Retries);
        world.settle();
        prop_assert_eq!(ended(world.kept.journal.as_ref(), world.kept.wanted), Some(TaskPhase::Succeeded));
        prop_assert_eq!(world.did.len(), steps);
    }

    #[test]
    fn waits_grow_and_stay_within_their_bounds(attempt in 1..ATTEMPTS_MAX, share in 0.0..=1.0_f64) {
        let now = SystemTime::UNIX_EPOCH;
        let wait = |attempt| {
            let after = again(&Journal { attempt, ..Journal::default() }, now, share);
            from_timestamp(&after.next_try_time.unwrap()).unwrap().duration_since(now).unwrap()
        };
        prop_assert!(wait(attempt) >= WAIT_MIN / 2 && wait(attempt) <= WAIT_MAX);
        prop_assert!(wait(attempt) <= wait(attempt + 1));
    }
}

#[test]
fn a_step_that_would_fail_again_is_not_tried_again_before_somebody_asks() {
    let steps: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
    let wanted = Wanted { run: 1, cancel: false };
    let now = SystemTime::UNIX_EPOCH;
    let journal = take_up(None, wanted, "w", now);
    assert_eq!(next(&journal, wanted, &steps), Next::Step("a".to_owned()));
    let journal = done(&failed(&journal, "a", "never", true), "b");
    assert_eq!(next(&journal, wanted, &steps), Next::End(TaskPhase::Failed));
    let journal = end(&journal, TaskPhase::Failed, now);
    let wanted = Wanted { run: 2, cancel: false };
    assert_eq!(ended(Some(&journal), wanted), None);
    let journal = take_up(Some(journal), wanted, "w", now);
    assert_eq!(next(&journal, wanted, &steps), Next::Step("a".to_owned()));
    let journal = done(&journal, "a");
    assert_eq!((journal.steps_done, next(&journal, wanted, &steps)), (2, Next::End(TaskPhase::Succeeded)));
}

#[test]
fn what_was_begun_stays_begun_for_the_next_worker_and_not_for_the_next_run() {
    let now = SystemTime::UNIX_EPOCH;
    let wanted = Wanted { run: 1, cancel: false };
    let journal = begun(&take_up(None, wanted, "w1", now), "a");
    let other = take_up(Some(journal.clone()), wanted, "w2", now);
    assert_eq!((other.begun.as_str(), other.worker.as_str(), other.attempt), ("a", "w2", 1));
    assert_eq!(other.start_time, Some(to_timestamp(now)));
    let anew =
        take_up(Some(end(&journal, TaskPhase::Cancelled, now)), Wanted { run: 2, cancel: false }, "w", now);
    assert_eq!(anew.begun, "");
}

#[test]
fn a_long_error_is_cut_where_a_letter_ends() {
    let journal = take_up(None, Wanted { run: 1, cancel: false }, "w", SystemTime::UNIX_EPOCH);
    let journal = failed(&journal, "a", &"é".repeat(1000), false);
    assert_eq!(journal.failures[0].error.len(), ERROR_BYTES_MAX);
}
