//! What comes next of a task, and what its journal says then: pure. The journal is the task's progress record.
//!
//! A task has steps, which are gone through in the order of their names: `cursor` is the last that was come by, `failures` are those of them
//! that are not done. An attempt goes through the failures of the attempt before, then on from the cursor. What is left failed at its end is
//! tried again after a while, a bounded number of times; what would fail again is not.
//!
//! So the journal is small however many steps there are, it says exactly what is done, and whoever reads it can go on.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use skerry_model::time;
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::TaskPhase;

/// How often the failed steps of one run are tried.
pub(super) const ATTEMPTS_MAX: u32 = 8;
/// Failed steps that are remembered; at so many an attempt ends early.
pub(super) const FAILURES_MAX: usize = 50;
/// The first wait before an attempt is at most this long; it doubles.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest text of a failure that is kept.
const ERROR_BYTES_MAX: usize = 400;

/// The progress record.
pub(super) type Journal = stored::TaskProgressRecord;

/// What somebody wants of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which run.
    pub(super) run: u32,
    /// It shall end.
    pub(super) cancel: bool,
}

impl Wanted {
    /// As the record says.
    pub(super) fn of(record: &stored::TaskRecord) -> Self {
        Self { run: record.run, cancel: record.cancel }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// This step.
    Step(String),
    /// Nothing before some time has passed: [`again`].
    Again,
    /// Nothing more: [`end`] with this.
    End(TaskPhase),
}

/// Whether the run that is wanted has ended, and how.
pub(super) fn ended(journal: Option<&Journal>, wanted: Wanted) -> Option<TaskPhase> {
    let journal = journal.filter(|journal| journal.run == wanted.run)?;
    match journal.phase() {
        phase @ (TaskPhase::Succeeded | TaskPhase::Failed | TaskPhase::Cancelled) => Some(phase),
        TaskPhase::Unspecified | TaskPhase::Running | TaskPhase::Waiting => None,
    }
}

/// The journal of a worker that begins with what is wanted, or goes on with it.
pub(super) fn take_up(before: Option<Journal>, wanted: Wanted, worker: &str, now: SystemTime) -> Journal {
    let mut journal = before.unwrap_or_default();
    if journal.run != wanted.run {
        journal.run = wanted.run;
        journal.attempt = 1;
        journal.begun = String::new();
        journal.last_error = String::new();
        journal.end_time = None;
        for failure in &mut journal.failures {
            failure.attempt = 0;
            failure.permanent = false;
        }
    } else if journal.phase() == TaskPhase::Waiting {
        journal.attempt = journal.attempt.saturating_add(1);
    }
    journal.start_time.get_or_insert_with(|| time::to_timestamp(now));
    journal.next_try_time = None;
    journal.message = String::new();
    worker.clone_into(&mut journal.worker);
    journal.set_phase(TaskPhase::Running);
    journal
}

/// What comes next. `steps`: all that there are now, those that are done too as far as they are still to be seen.
pub(super) fn next(journal: &Journal, wanted: Wanted, steps: &BTreeSet<String>) -> Next {
    if wanted.cancel {
        return Next::End(TaskPhase::Cancelled);
    }
    let due = |failure: &&stored::TaskFailureRecord| !failure.permanent && failure.attempt < journal.attempt;
    if let Some(failure) = journal.failures.iter().find(due) {
        return Next::Step(failure.step.clone());
    }
    if journal.failures.len() < FAILURES_MAX
        && let Some(step) = ahead(journal, steps).next()
    {
        return Next::Step(step.clone());
    }
    if journal.failures.is_empty() {
        Next::End(TaskPhase::Succeeded)
    } else if journal.attempt >= ATTEMPTS_MAX || journal.failures.iter().all(|failure| failure.permanent) {
        Next::End(TaskPhase::Failed)
    } else {
        Next::Again
    }
}

/// The steps that were not come by yet.
fn ahead<'a>(journal: &'a Journal, steps: &'a BTreeSet<String>) -> impl Iterator<Item = &'a String> {
    steps.range::<str, _>((Bound::Excluded(journal.cursor.as_str()), Bound::Unbounded))
}

/// A step is under way, and its end is waited for.
pub(super) fn begun(journal: &Journal, step: &str) -> Journal {
    Journal { begun: step.to_owned(), ..journal.clone() }
}

/// A step is done. Told again it changes nothing.
pub(super) fn done(journal: &Journal, step: &str) -> Journal {
    let mut journal = journal.clone();
    let failed = journal.failures.iter().position(|failure| failure.step == step);
    if let Some(place) = failed {
        journal.failures.remove(place);
        journal.steps_done += 1;
    } else if *step > *journal.cursor {
        step.clone_into(&mut journal.cursor);
        journal.steps_done += 1;
    }
    journal.begun = String::new();
    journal.message = String::new();
    journal
}

/// A step has failed. `permanent`: it would fail again.
pub(super) fn failed(journal: &Journal, step: &str, error: &str, permanent: bool) -> Journal {
    let mut journal = journal.clone();
    let error = error[..error.floor_char_boundary(ERROR_BYTES_MAX)].to_owned();
    journal.last_error = format!("{step}: {error}");
    journal.begun = String::new();
    let failure =
        stored::TaskFailureRecord { step: step.to_owned(), error, permanent, attempt: journal.attempt };
    match journal.failures.iter_mut().find(|failure| failure.step == step) {
        Some(before) => *before = failure,
        None if *step > *journal.cursor => {
            step.clone_into(&mut journal.cursor);
            journal.failures.push(failure);
        }
        // It is done.
        None => {}
    }
    journal
}

/// The attempt is over, and there is another one later. `share`, from 0 to 1, is by chance: so that those who failed together do not come back
/// together.
pub(super) fn again(journal: &Journal, now: SystemTime, share: f64) -> Journal {
    let doublings = journal.attempt.saturating_sub(1).min(16);
    let longest = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX);
    let wait = longest.mul_f64(0.5 + share.clamp(0.0, 1.0) / 2.0);
    let mut journal = journal.clone();
    journal.next_try_time = Some(time::to_timestamp(now + wait));
    journal.message = String::new();
    journal.set_phase(TaskPhase::Waiting);
    journal
}

/// It has ended.
pub(super) fn end(journal: &Journal, phase: TaskPhase, now: SystemTime) -> Journal {
    let mut journal = journal.clone();
    journal.set_phase(phase);
    journal.end_time = Some(time::to_timestamp(now));
    journal.begun = String::new();
    journal
}

/// Counts how many steps there are, as far as is known now.
pub(super) fn count(journal: &Journal, steps: &BTreeSet<String>) -> u64 {
    let open = journal.failures.len() + ahead(journal, steps).count();
    journal.steps_done + u64::try_from(open).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
