//! The instances of one job together: what is seen of them, and what each may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::InstanceName;
use skerry_model::app::{CronJob, Job};
use skerry_proto::types::v1 as pb;

use super::book::Entry;
use super::name::JobName;
use super::run::{Run, Verdict, unmark};
use super::{Gate, Outcome, Rest, Seen, status};
use crate::desired::InstanceSpec;
use crate::world::{is_running, kind_of};

/// What a run of a cron job failed by when the service was changed.
pub(super) const SUPERSEDED: &str = "Superseded";

/// The instances of one job, and what is seen of them.
pub(super) struct Group<'a> {
    pub(super) name: JobName,
    pub(super) specs: Vec<&'a Arc<InstanceSpec>>,
    pub(super) seen: Seen<'a>,
}

impl Group<'_> {
    pub(super) fn first(&self) -> InstanceName {
        self.name.instance(0)
    }

    /// Of the first one. One that could not be placed in the newest revision may have another.
    pub(super) fn fingerprint(&self) -> &str {
        &self.specs[0].fingerprint
    }

    /// Whether the runtimes that it needs answer.
    pub(super) fn is_seen(&self) -> bool {
        self.specs.iter().all(|spec| self.seen.world.get(&kind_of(spec)).is_some_and(|view| view.available))
    }

    /// The instances of a run, with their places in it.
    pub(super) fn of_slot(
        &self,
        slot: u32,
        completions: u32,
    ) -> impl Iterator<Item = (u32, &Arc<InstanceSpec>)> {
        let first = slot * completions;
        self.specs
            .iter()
            .filter_map(move |spec| Some((spec.name.ordinal.checked_sub(first)?, *spec)))
            .filter(move |(index, _)| *index < completions)
    }

    fn observed(&self, spec: &InstanceSpec) -> Option<&crate::runtime::Observed> {
        self.seen.world.get(&kind_of(spec))?.instances.get(&spec.name)
    }

    fn is_busy(&self, spec: &InstanceSpec) -> bool {
        self.seen.memories.get(&spec.name).is_some_and(|memory| memory.busy.is_some())
    }

    /// Takes what is seen into `run`. Answers whether something has to be on disk.
    pub(super) fn look(&self, run: &mut Run, job: &Job) -> bool {
        let mut changed = false;
        for (index, spec) in self.of_slot(run.slot, job.completions) {
            let is_answering = self.seen.world.get(&kind_of(spec)).is_some_and(|view| view.available);
            if !is_answering || spec.fingerprint != run.fingerprint {
                continue;
            }
            changed |= match self.observed(spec) {
                Some(observed) => run.see(index, observed),
                None if self.is_busy(spec) => false,
                None => run.miss(index, self.seen.wall),
            };
        }
        changed
    }

    /// What the instances of `run` may do. `rest`: why they rest once it is over.
    pub(super) fn open_gates(
        &self,
        run: &Run,
        job: &Job,
        rest: &dyn Fn(&Run) -> Rest,
        outcome: &mut Outcome,
    ) {
        let runs = |spec: &InstanceSpec| self.observed(spec).is_some_and(is_running);
        let of_run = |spec: &InstanceSpec| {
            let observed = self.observed(spec).filter(|observed| is_running(observed));
            observed
                .is_some_and(|observed| unmark(&observed.fingerprint) == (run.fingerprint.as_str(), run.due))
        };
        let occupied = self
            .of_slot(run.slot, job.completions)
            .filter(|(_, spec)| of_run(spec) || (self.is_busy(spec) && !runs(spec)))
            .map(|(index, _)| index)
            .collect();
        let turns = if run.is_open() { run.turns(job, &occupied) } else { BTreeSet::new() };
        // What runs of before has to end before anything else of the job begins.
        let lingers = self
            .of_slot(run.slot, job.completions)
            .any(|(index, spec)| !turns.contains(&index) && (runs(spec) || self.is_busy(spec)));
        for (index, spec) in self.of_slot(run.slot, job.completions) {
            let gate = match run.success(index) {
                // It could not be placed in the newest revision, and is not of this run.
                _ if spec.fingerprint != run.fingerprint => Gate::Wait,
                Some(end) if run.is_open() || run.due == 0 => Gate::Done(end.clone()),
                _ if turns.contains(&index) && lingers && !runs(spec) => Gate::Wait,
                _ if turns.contains(&index) => Gate::Go,
                _ if !run.is_open() => Gate::Rest(rest(run)),
                _ => Gate::Turn { parallelism: job.parallelism },
            };
            outcome.gates.insert(spec.name.clone(), gate);
            outcome.runs.insert(spec.name.clone(), run.due);
        }
    }

    /// What another spec began is over.
    pub(super) fn supersede(&self, entry: &mut Entry, cron: &CronJob, outcome: &mut Outcome) {
        let fingerprint = self.fingerprint();
        let is_old =
            |run: &Run| run.fingerprint != fingerprint || run.due == 0 || run.slot >= cron.runs_max();
        let (old, current) = std::mem::take(&mut entry.runs).into_iter().partition(is_old);
        entry.runs = current;
        let old: Vec<Run> = old;
        outcome.changed |= !old.is_empty();
        for mut run in old.into_iter().filter(|run| run.is_open() && run.due != 0) {
            run.finish(Verdict::Failed(SUPERSEDED), self.seen.wall);
            outcome.happenings.push(status::run_ended(self.first(), &run, &cron.job));
            remember(entry, &run, cron);
        }
    }

    /// Takes runs for known that are seen and were not written down.
    pub(super) fn adopt(&self, entry: &mut Entry, cron: &CronJob, outcome: &mut Outcome) {
        for slot in 0..cron.runs_max() {
            if entry.runs.iter().any(|run| run.slot == slot) {
                continue;
            }
            let seen = self.of_slot(slot, cron.job.completions).filter_map(|(_, spec)| self.observed(spec));
            let due = seen
                .map(|observed| unmark(&observed.fingerprint))
                .filter(|(fingerprint, due)| *fingerprint == self.fingerprint() && *due > 0)
                .map(|(_, due)| due)
                .max();
            let Some(due) = due.filter(|due| {
                entry.history.iter().all(|run| run.schedule_time.is_none_or(|at| at.seconds != *due))
            }) else {
                continue;
            };
            entry.runs.push(Run::new(self.fingerprint(), due, slot));
            let due = prost_types::Timestamp { seconds: due, nanos: 0 };
            if entry.decided.is_none_or(|decided| decided.seconds < due.seconds) {
                entry.decided = Some(due);
            }
            outcome.changed = true;
        }
    }
}

/// The jobs of this node.
pub(super) fn groups(seen: Seen<'_>) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<JobName, Vec<&Arc<InstanceSpec>>> = BTreeMap::new();
    for (name, spec) in seen.desired.instances.iter().filter(|(_, spec)| spec.service.is_job()) {
        groups.entry(JobName::of(name)).or_default().push(spec);
    }
    groups.into_iter().map(|(name, specs)| Group { name, specs, seen }).collect()
}

/// Puts a run that ended into the history, and drops what is more than shall be remembered.
pub(super) fn remember(entry: &mut Entry, run: &Run, cron: &CronJob) {
    entry.history.push(status::past(run));
    let mut left = [cron.successful_history, cron.failed_history];
    let mut kept: Vec<pb::JobRun> = Vec::new();
    for run in entry.history.drain(..).rev() {
        let left = &mut left[usize::from(!run.reason.is_empty())];
        if *left > 0 {
            *left -= 1;
            kept.push(run);
        }
    }
    kept.reverse();
    entry.history = kept;
}
