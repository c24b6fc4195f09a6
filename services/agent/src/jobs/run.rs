//! One run of a job: what of it ended how, whose turn it is, and when it is over. Pure.
//!
//! Laws (tested in `tests.rs`): at most so many run at once as may; it is started at most as often as it must succeed and failures are borne; what
//! succeeded is never started again; once failures end, it ends. They hold since an end is counted once, by the copy and the time of it, and
//! since a copy that ended is left as it is until its end is on disk: what is not on disk is found by looking.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use skerry_model::app::Job;
use skerry_model::time::to_timestamp;
use skerry_proto::types::v1::Termination;

use crate::memory::termination;
use crate::runtime::{Observed, RunState};

/// Too many failures.
pub(crate) const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
/// It took too long.
pub(crate) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// Between the fingerprint of a service and the time that a run was due.
const RUN_MARK: char = '@';

/// A run, as it is kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Run {
    /// Of what it runs.
    #[prost(string, tag = "1")]
    pub(crate) fingerprint: String,
    /// When it was due, in seconds since 1970. 0: it is the only run of a job.
    #[prost(int64, tag = "2")]
    pub(crate) due: i64,
    /// Which of those that there may be at once.
    #[prost(uint32, tag = "3")]
    pub(crate) slot: u32,
    /// When the first instance was first started.
    #[prost(message, optional, tag = "4")]
    pub(crate) started: Option<Timestamp>,
    /// When it was over.
    #[prost(message, optional, tag = "5")]
    pub(crate) finished: Option<Timestamp>,
    /// Why it failed. Empty: it did not.
    #[prost(string, tag = "6")]
    pub(crate) reason: String,
    /// Of all instances together.
    #[prost(uint32, tag = "7")]
    pub(crate) failures: u32,
    /// The last that is known of each instance that was started.
    #[prost(message, repeated, tag = "8")]
    pub(crate) copies: Vec<LastSeen>,
}

/// The last that is known of an instance.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LastSeen {
    /// Which: its place among the instances of the run.
    #[prost(uint32, tag = "1")]
    pub(crate) index: u32,
    /// Which copy.
    #[prost(string, tag = "2")]
    pub(crate) runtime_id: String,
    /// How it ended. Absent: it ran.
    #[prost(message, optional, tag = "3")]
    pub(crate) end: Option<Termination>,
    /// It ended with exit code 0.
    #[prost(bool, tag = "4")]
    pub(crate) succeeded: bool,
}

/// How a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Complete,
    Failed(&'static str),
}

/// The fingerprint that a copy of a service has in the run that was `due`.
pub(crate) fn mark(fingerprint: &str, due: i64) -> String {
    if due == 0 { fingerprint.to_owned() } else { format!("{fingerprint}{RUN_MARK}{due}") }
}

/// The fingerprint of the service, and when the run was due.
pub(crate) fn unmark(fingerprint: &str) -> (&str, i64) {
    let marked = fingerprint.split_once(RUN_MARK);
    marked.and_then(|(base, due)| Some((base, due.parse().ok()?))).unwrap_or((fingerprint, 0))
}

impl Run {
    pub(crate) fn new(fingerprint: &str, due: i64, slot: u32) -> Self {
        Self { fingerprint: fingerprint.to_owned(), due, slot, ..Self::default() }
    }

    /// Whether it is under way.
    pub(crate) fn is_open(&self) -> bool {
        self.finished.is_none()
    }

    fn last_mut(&mut self, index: u32) -> &mut LastSeen {
        let at = self.copies.iter().position(|copy| copy.index == index).unwrap_or_else(|| {
            self.copies.push(LastSeen { index, ..LastSeen::default() });
            self.copies.len() - 1
        });
        &mut self.copies[at]
    }

    /// How an instance succeeded, if it did.
    pub(crate) fn success(&self, index: u32) -> Option<&Termination> {
        self.copies.iter().find(|copy| copy.index == index && copy.succeeded)?.end.as_ref()
    }

    /// How many of the first `completions` succeeded.
    pub(crate) fn succeeded(&self, completions: u32) -> u32 {
        let count = self.copies.iter().filter(|copy| copy.succeeded && copy.index < completions).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Takes in what is seen of an instance. Answers whether there is something that has to be on disk before it is started again.
    pub(crate) fn see(&mut self, index: u32, observed: &Observed) -> bool {
        if unmark(&observed.fingerprint) != (self.fingerprint.as_str(), self.due) {
            return false;
        }
        let open = self.is_open();
        let (code, at, out_of_memory) = match observed.state {
            RunState::Created => return false,
            RunState::Running { since } => {
                self.began(since);
                let last = self.last_mut(index);
                if !last.succeeded {
                    *last = LastSeen {
                        index,
                        runtime_id: observed.runtime_id.clone(),
                        end: None,
                        succeeded: false,
                    };
                }
                return false;
            }
            RunState::Exited { code, at, out_of_memory } => (code, at, out_of_memory),
        };
        let end = termination(code, out_of_memory, observed.started, at);
        let last = self.last_mut(index);
        let known = last.end.as_ref().map(|end| &end.finish_time) == Some(&end.finish_time)
            && last.runtime_id == observed.runtime_id;
        if known || last.succeeded {
            return false;
        }
        // What is stopped because it is over is no failure, and what it says of itself then is no success.
        let succeeded = open && code == Some(0);
        *last = LastSeen { index, runtime_id: observed.runtime_id.clone(), end: Some(end), succeeded };
        self.began(observed.started.unwrap_or(at));
        self.failures = self.failures.saturating_add(u32::from(open && !succeeded));
        true
    }

    /// Takes in that there is no copy of an instance. One that ran is lost: that is a failure.
    pub(crate) fn miss(&mut self, index: u32, wall: SystemTime) -> bool {
        let open = self.is_open();
        let ran = self.copies.iter_mut().find(|copy| copy.index == index && copy.end.is_none());
        let Some(ran) = ran else { return false };
        ran.end = Some(termination(None, false, None, wall));
        self.failures = self.failures.saturating_add(u32::from(open));
        true
    }

    fn began(&mut self, at: SystemTime) {
        self.started.get_or_insert_with(|| to_timestamp(at));
    }

    /// Whether it is over, when it took so long.
    pub(crate) fn verdict(&self, job: &Job, elapsed: Option<Duration>) -> Option<Verdict> {
        if self.succeeded(job.completions) >= job.completions {
            return Some(Verdict::Complete);
        }
        if self.failures > job.backoff_limit {
            return Some(Verdict::Failed(BACKOFF_LIMIT_EXCEEDED));
        }
        let late = job.deadline.zip(elapsed).is_some_and(|(deadline, elapsed)| elapsed >= deadline);
        late.then_some(Verdict::Failed(DEADLINE_EXCEEDED))
    }

    /// Whether what it is told to be is no longer so: more must succeed, or more failures are borne.
    pub(crate) fn is_reopened_by(&self, job: &Job) -> bool {
        !self.is_open()
            && match self.reason.as_str() {
                "" => self.succeeded(job.completions) < job.completions,
                BACKOFF_LIMIT_EXCEEDED => self.failures <= job.backoff_limit,
                _ => false,
            }
    }

    /// It is over.
    pub(crate) fn finish(&mut self, verdict: Verdict, wall: SystemTime) {
        let (reason, at) = match verdict {
            Verdict::Complete => ("", self.last_end()),
            Verdict::Failed(reason) => (reason, None),
        };
        reason.clone_into(&mut self.reason);
        self.finished = Some(at.unwrap_or_else(|| to_timestamp(wall)));
    }

    fn last_end(&self) -> Option<Timestamp> {
        let ends = self.copies.iter().filter_map(|copy| copy.end.as_ref()?.finish_time);
        ends.max_by_key(|at| (at.seconds, at.nanos))
    }

    /// Those that may run: who runs already keeps its turn, then those that did not succeed yet, in order.
    pub(crate) fn turns(&self, job: &Job, occupied: &BTreeSet<u32>) -> BTreeSet<u32> {
        let open: Vec<u32> = (0..job.completions).filter(|index| self.success(*index).is_none()).collect();
        let mut turns: BTreeSet<u32> =
            open.iter().copied().filter(|index| occupied.contains(index)).collect();
        for index in open {
            if turns.len() >= job.parallelism as usize {
                break;
            }
            turns.insert(index);
        }
        turns
    }
}
