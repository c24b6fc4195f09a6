//! What the agent remembers of one instance while its process lives: waits, restarts, what is being done about it.
//!
//! A small machine without I/O: it is told what was observed and how attempts ended, with the time, and answers with what is worth an
//! event. After a restart of the agent it begins empty, so that what should run is started at once; only what `ledger` kept of ends and
//! restarts is recalled.

use std::time::{Duration, SystemTime};

use skerry_model::app::{RestartPolicy, RestartWhen};
use skerry_model::time::{from_timestamp, to_timestamp};
use skerry_model::{GpuBooking, InstanceName};
use skerry_proto::types::v1::Termination;
use skerry_sync::MonoTime;

use crate::jobs::unmark;
use crate::ledger::Entry;
use crate::runtime::{GRACE_DEFAULT, Observed, RunState, RuntimeError, RuntimeKind};

/// After so long a run the restart wait starts anew.
pub(crate) const STEADY: Duration = Duration::from_secs(600);
/// The wanted copy, the former one, and a removal.
const WAITS_MAX: usize = 3;
/// Ends that are told of an instance.
const TERMINATIONS_MAX: usize = 5;
/// First and longest wait after an error that may pass by itself.
const RETRY_TRANSIENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// First and longest wait after an error that will hardly pass by itself.
const RETRY_LASTING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Why the agent itself ended it, where it used more of a GPU than is booked for it.
pub(crate) const OVERUSE: &str = "GpuOveruse";

/// What a program ends with that is killed.
const ENDED_BY_KILL: i32 = 128 + 9;

/// A number between 0 and 1 that spreads waits. From the caller, so that this file stays pure.
pub(crate) type Jitter = f64;

/// What is being done about an instance now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Busy {
    /// It is being made and started.
    Starting,
    /// It is being stopped and removed.
    Stopping,
    /// The last attempt ended; what came of it has not been seen yet.
    Settling {
        /// Where it is to be seen.
        runtime: RuntimeKind,
    },
}

/// What an instance needs is being fetched. No copy is touched by that: what is there runs, ends and is started again meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// For which fingerprint.
    pub(crate) fingerprint: String,
    /// Last progress, as `Pulling`; empty until there is any.
    pub(crate) reason: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
    /// Since when.
    pub(crate) since: MonoTime,
}

/// Not before `until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Until when.
    pub(crate) until: MonoTime,
    /// Fingerprint that it is about: another one does not wait. Absent: about removal.
    pub(crate) fingerprint: Option<String>,
    /// Absent: it ended, and is started again after this wait. Else the last attempt failed so.
    pub(crate) error: Option<RuntimeError>,
    /// Failures in a row.
    failures: u32,
}

/// How it ended the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit code, if anybody saw it.
    pub(crate) code: Option<i32>,
    /// For want of memory.
    pub(crate) out_of_memory: bool,
    /// Until its next start. Absent: at once, or never.
    pub(crate) wait: Option<Duration>,
}

/// What is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// It runs now and did not before.
    Started(Run),
    /// It ended.
    Ended(Ended),
    /// It is gone although nobody here removed it.
    Vanished,
}

/// What runs, beside what ran before it since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Nothing ran before it.
    First,
    /// The same ran before it.
    Again,
    /// A copy of another fingerprint ran before it.
    Other,
}

/// Which end or start was seen last, so that each is counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    runtime_id: String,
    state: RunState,
}

/// What is remembered of one instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// What is being done about it, and since when.
    pub(crate) busy: Option<(Busy, MonoTime)>,
    /// What is being fetched for it.
    pub(crate) fetch: Option<Fetch>,
    /// Fingerprint whose needs were all there when they were last asked for, and whether nothing was tried with them since.
    prepared: Option<(String, bool)>,
    /// Not before; at most [`WAITS_MAX`], each of another fingerprint, the newest last.
    waits: Vec<Wait>,
    /// How often the agent has restarted it.
    pub(crate) restarts: u32,
    /// How it ended the last time.
    pub(crate) ended: Option<Ended>,
    /// How it ended before, the newest last; at most [`TERMINATIONS_MAX`].
    pub(crate) terminations: Vec<Termination>,
    /// What a copy has of GPUs that is being made, and where, until a look there has shown what came of it.
    pub(crate) given: Option<(RuntimeKind, Vec<GpuBooking>)>,
    /// Why its last run was ended for what it used of a GPU, if it was; for people.
    pub(crate) overuse: Option<String>,
    /// Fingerprint that was seen running since the agent started: a restart of it does not wait for dependencies again.
    pub(crate) started: Option<String>,
    seen: Option<Seen>,
    looked: bool,
    running_since: MonoTime,
    quick_ends: u32,
    grace: Option<Duration>,
    /// What is remembered of the copy beside, and its fingerprint.
    beside: Option<(String, Box<Memory>)>,
}

impl Memory {
    /// Takes in what was observed. `policy` is that of the wanted instance, if it is wanted.
    pub(crate) fn look(
        &mut self,
        observed: Option<&Observed>,
        policy: Option<&RestartPolicy>,
        now: MonoTime,
        jitter: Jitter,
    ) -> Option<Happening> {
        let first = !std::mem::replace(&mut self.looked, true);
        let Some(observed) = observed else {
            return self
                .seen
                .take()
                .filter(|seen| matches!(seen.state, RunState::Running { .. }))
                .map(|_| Happening::Vanished);
        };
        let seen = Seen { runtime_id: observed.runtime_id.clone(), state: observed.state };
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        self.seen = Some(seen);
        match observed.state {
            RunState::Created => None,
            RunState::Running { .. } => {
                self.running_since = now;
                self.overuse = None;
                let run = match self.started.replace(observed.fingerprint.clone()) {
                    None => Run::First,
                    // Another run of a cron job is none of another spec.
                    Some(before) if unmark(&before).0 == unmark(&observed.fingerprint).0 => Run::Again,
                    Some(_) => Run::Other,
                };
                // A failed attempt to replace it still waits.
                self.succeeded(Some(&observed.fingerprint));
                (!first).then_some(Happening::Started(run))
            }
            RunState::Exited { code, out_of_memory, at } => {
                let mut end = termination(code, out_of_memory, observed.started, at);
                if self.overuse.is_some() {
                    OVERUSE.clone_into(&mut end.reason);
                }
                let is_news = self.note(end);
                let mut ended = Ended { code, out_of_memory, wait: None };
                // What ended before the agent looked (a reboot, most likely) is started again at once.
                if let Some(policy) = policy.filter(|policy| !first && restarts(policy.when, code)) {
                    let wait = self.next_restart(policy, now, jitter);
                    let fingerprint = Some(observed.fingerprint.clone());
                    self.put_wait(Wait { until: now + wait, fingerprint, error: None, failures: 0 });
                    ended.wait = Some(wait);
                }
                self.ended = Some(ended);
                (is_news && (!first || code.is_some())).then_some(Happening::Ended(ended))
            }
        }
    }

    /// Remembers an end, once: what ended is seen again after a restart of the agent. Answers whether it was not known.
    fn note(&mut self, end: Termination) -> bool {
        if self.terminations.last().is_some_and(|last| last.finish_time == end.finish_time) {
            return false;
        }
        if self.terminations.len() >= TERMINATIONS_MAX {
            self.terminations.remove(0);
        }
        self.terminations.push(end);
        true
    }

    /// It is stopped for what it uses of a GPU: that run has failed, however it ends.
    pub(crate) fn stopped_for_overuse(&mut self, words: String) {
        self.overuse = Some(words);
    }

    /// A run that was ended for that did not end well, whatever its program says.
    pub(crate) fn judge(&self, observed: &mut Observed) {
        if let RunState::Exited { code: code @ Some(0), .. } = &mut observed.state
            && self.overuse.is_some()
        {
            *code = Some(ENDED_BY_KILL);
        }
    }

    /// Whether what there is of it was seen, or made, since the agent started.
    pub(crate) fn was_looked_at(&self) -> bool {
        self.looked
    }

    /// It is made by this process: its first start is news.
    pub(crate) fn looked_at(&mut self) {
        self.looked = true;
    }

    /// Takes over what an earlier process of the agent knew, before the first look. A wall clock that was set meanwhile costs one wait at
    /// most.
    pub(crate) fn recall(
        &mut self,
        entry: &Entry,
        observed: Option<&Observed>,
        now: MonoTime,
        wall: SystemTime,
    ) {
        let mut ended = Ended { code: entry.code, out_of_memory: entry.out_of_memory, wait: None };
        let ended_at = entry.ended_at.as_ref().and_then(from_timestamp);
        // The restart that followed that end is counted with the next one: it is not written twice.
        let followed = |at: SystemTime| u32::from(ended_at.is_some_and(|ended| at > ended));
        self.restarts = entry.restarts;
        self.terminations.clone_from(&entry.terminations);
        self.quick_ends = entry.quick_ends;
        match observed.map(|observed| observed.state) {
            None | Some(RunState::Created) => {}
            Some(RunState::Running { since }) => {
                self.restarts = self.restarts.saturating_add(followed(since));
                if wall.duration_since(since).is_ok_and(|ran| ran >= STEADY) {
                    self.quick_ends = 0;
                }
            }
            Some(RunState::Exited { at, .. }) => {
                self.restarts = self.restarts.saturating_add(followed(at));
                let same =
                    observed.filter(|seen| ended_at == Some(at) && seen.runtime_id == entry.runtime_id);
                if let (Some(observed), Some(until)) = (same, entry.until.as_ref().and_then(from_timestamp)) {
                    let left = until.duration_since(wall).unwrap_or_default();
                    let wait = left.min(Duration::from_millis(entry.wait_ms));
                    let fingerprint = Some(observed.fingerprint.clone());
                    self.put_wait(Wait { until: now + wait, fingerprint, error: None, failures: 0 });
                    self.looked = true;
                    self.seen = Some(Seen { runtime_id: observed.runtime_id.clone(), state: observed.state });
                    ended.wait = Some(wait);
                }
            }
        }
        self.ended = Some(ended);
    }

    /// What is to be known of `happening` by the next process of the agent: an end, which is told once, and the restart that may follow it.
    pub(crate) fn entry(
        &self,
        name: &InstanceName,
        happening: &Happening,
        observed: Option<&Observed>,
        wall: SystemTime,
    ) -> Option<Entry> {
        let (Happening::Ended(ended), Some(observed)) = (happening, observed) else { return None };
        let RunState::Exited { at, .. } = observed.state else { return None };
        Some(Entry {
            instance: name.to_string(),
            restarts: self.restarts,
            code: ended.code,
            out_of_memory: ended.out_of_memory,
            quick_ends: self.quick_ends,
            ended_at: Some(to_timestamp(at)),
            runtime_id: observed.runtime_id.clone(),
            wait_ms: ended.wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            until: ended.wait.map(|wait| to_timestamp(wall + wait)),
            terminations: self.terminations.clone(),
        })
    }

    /// What is remembered of the copy of `fingerprint` beside the one that it is to replace. Another one begins anew.
    pub(crate) fn beside_mut(&mut self, fingerprint: &str) -> &mut Memory {
        if self.beside.as_ref().is_none_or(|(of, _)| of != fingerprint) {
            self.beside = None;
        }
        &mut self.beside.get_or_insert_with(|| (fingerprint.to_owned(), Box::default())).1
    }

    /// What is remembered of the copy of `fingerprint` beside.
    pub(crate) fn beside(&self, fingerprint: &str) -> Option<&Memory> {
        self.beside.as_ref().filter(|(of, _)| of == fingerprint).map(|(_, memory)| &**memory)
    }

    /// There is none beside any more, and shall be none.
    pub(crate) fn forget_beside(&mut self) {
        self.beside = None;
    }

    /// The wait before the copy of `fingerprint` is started beside again.
    pub(crate) fn beside_waits(&self, fingerprint: &str, now: MonoTime) -> Option<&Wait> {
        self.beside(fingerprint)?.waits(Some(fingerprint), now)
    }

    /// This copy of `fingerprint` is given up for `error`: another one is started after a wait, as after an end.
    pub(crate) fn gave_up(
        &mut self,
        fingerprint: &str,
        policy: &RestartPolicy,
        error: RuntimeError,
        now: MonoTime,
        jitter: Jitter,
    ) -> Duration {
        let wait = self.next_restart(policy, now, jitter);
        let fingerprint = Some(fingerprint.to_owned());
        self.put_wait(Wait { until: now + wait, fingerprint, error: Some(error), failures: 0 });
        wait
    }

    fn next_restart(&mut self, policy: &RestartPolicy, now: MonoTime, jitter: Jitter) -> Duration {
        if now.saturating_since(self.running_since) >= STEADY {
            self.quick_ends = 0;
        }
        let wait = backoff((policy.backoff, policy.backoff_max), self.quick_ends, jitter);
        self.quick_ends = self.quick_ends.saturating_add(1);
        wait
    }

    /// The agent itself acts on it: whatever is seen next came of that.
    pub(crate) fn acts(&mut self, busy: Busy, now: MonoTime) {
        self.looked = true;
        self.busy = Some((busy, now));
        // Removing what is in the way uses nothing up.
        if let (Some((Busy::Starting, _)), Some((_, fresh))) = (&self.busy, &mut self.prepared) {
            *fresh = false;
        }
    }

    /// An attempt (to run `fingerprint`; none: to remove it) failed. Answers whether that is news.
    pub(crate) fn failed(
        &mut self,
        fingerprint: Option<String>,
        error: RuntimeError,
        now: MonoTime,
        jitter: Jitter,
    ) -> bool {
        let old = self.wait(fingerprint.as_deref());
        let failures = old.map_or(0, |wait| wait.failures);
        let told = old.and_then(|wait| wait.error.as_ref()).map(|error| (error.reason, &error.message));
        let same = told == Some((error.reason, &error.message));
        let until = now + retry_wait(&error, failures, jitter);
        let failures = failures.saturating_add(1);
        self.put_wait(Wait { until, fingerprint, error: Some(error), failures });
        !same
    }

    fn put_wait(&mut self, wait: Wait) {
        self.waits.retain(|old| old.fingerprint != wait.fingerprint);
        if self.waits.len() >= WAITS_MAX {
            self.waits.remove(0);
        }
        self.waits.push(wait);
    }

    fn wait(&self, fingerprint: Option<&str>) -> Option<&Wait> {
        self.waits.iter().find(|wait| wait.fingerprint.as_deref() == fingerprint)
    }

    /// All that `fingerprint` needs is there.
    pub(crate) fn fetched(&mut self, fingerprint: &str) {
        self.prepared = Some((fingerprint.to_owned(), true));
    }

    /// Something that `fingerprint` needs is not there. Answers whether that is news.
    pub(crate) fn not_fetched(
        &mut self,
        fingerprint: String,
        error: RuntimeError,
        now: MonoTime,
        jitter: Jitter,
    ) -> bool {
        self.prepared = None;
        self.failed(Some(fingerprint), error, now, jitter)
    }

    /// Whether all that `fingerprint` needs is there, as far as is known.
    pub(crate) fn is_prepared(&self, fingerprint: &str) -> bool {
        self.prepared.as_ref().is_some_and(|(prepared, _)| prepared == fingerprint)
    }

    /// The same of a service of this fingerprint, whichever run of it.
    pub(crate) fn has_fetched(&self, service: &str) -> bool {
        self.prepared.as_ref().is_some_and(|(prepared, _)| unmark(prepared).0 == service)
    }

    /// Whether `fingerprint` may be started without asking again for what it needs.
    pub(crate) fn is_fresh(&self, fingerprint: &str) -> bool {
        self.is_prepared(fingerprint) && self.prepared.as_ref().is_some_and(|(_, fresh)| *fresh)
    }

    /// An attempt succeeded; what came of it is seen by the next look.
    pub(crate) fn succeeded(&mut self, fingerprint: Option<&str>) {
        self.waits.retain(|wait| wait.fingerprint.as_deref() != fingerprint);
    }

    /// Something changed that may have been in the way: what waits after this error is tried again at once.
    pub(crate) fn hurry(&mut self, reason: &str, now: MonoTime) {
        for wait in &mut self.waits {
            if wait.error.as_ref().is_some_and(|error| error.reason == reason) {
                wait.until = now;
            }
        }
    }

    /// Somebody starts it by hand: it waits for nothing that happened before.
    pub(crate) fn begin_anew(&mut self) {
        self.waits.clear();
        self.quick_ends = 0;
        self.beside = None;
    }

    /// The wait that holds `fingerprint` up at `now`.
    pub(crate) fn waits(&self, fingerprint: Option<&str>, now: MonoTime) -> Option<&Wait> {
        self.wait(fingerprint).filter(|wait| wait.until > now)
    }

    /// The error of the last attempt to run `fingerprint`, until one succeeds.
    pub(crate) fn error(&self, fingerprint: Option<&str>) -> Option<&RuntimeError> {
        self.wait(fingerprint).and_then(|wait| wait.error.as_ref())
    }

    /// Longest that stopping it may take, as far as is known; `grace` is that of the copy that is started now, if one is.
    pub(crate) fn grace(&mut self, grace: Option<Duration>) -> Duration {
        let old = self.grace;
        if grace.is_some() {
            self.grace = grace;
        }
        old.into_iter().chain(grace).chain([GRACE_DEFAULT]).max().unwrap_or(GRACE_DEFAULT)
    }
}

pub(crate) fn termination(
    code: Option<i32>,
    out_of_memory: bool,
    started: Option<SystemTime>,
    at: SystemTime,
) -> Termination {
    let reason = match (code, out_of_memory) {
        (_, true) => "OutOfMemory",
        (Some(0), false) => "Completed",
        (Some(_), false) => "Exited",
        (None, false) => "Unknown",
    };
    Termination {
        exit_code: code,
        reason: reason.to_owned(),
        start_time: started.filter(|started| *started <= at).map(to_timestamp),
        finish_time: Some(to_timestamp(at)),
    }
}

/// Whether an end with `code` is followed by a restart.
pub(crate) fn restarts(when: RestartWhen, code: Option<i32>) -> bool {
    match when {
        RestartWhen::Always => true,
        RestartWhen::OnFailure => code != Some(0),
        RestartWhen::Never => false,
    }
}

/// `range.0` doubled `step` times, at most `range.1`, less up to a quarter by jitter.
/// How long to wait after so many failures before, and this one.
pub(crate) fn retry_wait(error: &RuntimeError, failures: u32, jitter: Jitter) -> Duration {
    let range = if error.transient { RETRY_TRANSIENT } else { RETRY_LASTING };
    backoff(range, failures, jitter)
}

fn backoff(range: (Duration, Duration), step: u32, jitter: Jitter) -> Duration {
    let wait = range.0.saturating_mul(1 << step.min(20)).min(range.1);
    wait.mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
