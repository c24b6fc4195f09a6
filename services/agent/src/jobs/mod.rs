//! Jobs and cron jobs of this node: which of their instances may run now, and what came of them.
//!
//! The plan asks [`Jobs::gates`] about each instance of a job; all else about it (fetching, dependencies, waits after failures) is as with any
//! instance. What a run is over by is `run`'s, which one begins `due`'s, both pure; here they are given what is seen and the clocks. A run of a
//! cron job is in the fingerprint of its copies, so that each run has new ones, and what is seen says of which run it is.
//!
//! Nothing is started while what is known is not on disk (`book`).

mod book;
mod due;
mod group;
mod name;
mod run;
mod status;
mod zones;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skerry_identity::clock::TimeFloor;
use skerry_model::InstanceName;
use skerry_model::app::{CronJob, Job, Kind};
use skerry_model::cron::Zone;
use skerry_model::time::{from_timestamp, to_timestamp};
use skerry_proto::types::v1 as pb;
use skerry_sync::MonoTime;

use self::book::{Book, Entries, Entry};
use self::due::{Decision, Why};
use self::group::{Group, groups, remember};
use self::name::JobName;
pub(crate) use self::run::unmark;
use self::run::{Run, Verdict};
use self::zones::Zones;
use crate::desired::{Desired, InstanceSpec};
use crate::memory::Memory;
use crate::state::Directory;
use crate::world::World;

/// It is not before this: no machine ran this agent earlier, 2026-01-01.
const FLOOR: Duration = Duration::from_secs(1_767_225_600);
/// Told to each instance: its place among those of its run.
const INDEX_VARIABLE: &str = "SKERRY_JOB_INDEX";
/// Told to those of cron jobs: when the run was due.
const DUE_VARIABLE: &str = "SKERRY_JOB_DUE";

/// What an instance of a job may do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Gate {
    /// It runs, and is started again if it failed.
    Go,
    /// As `Go`, in a moment: nothing is begun, and nothing is stopped.
    Wait,
    /// Others of the job come first.
    Turn {
        /// How many run at once.
        parallelism: u32,
    },
    /// It succeeded.
    Done(pb::Termination),
    /// Nothing of the job runs.
    Rest(Rest),
}

/// Why nothing of a job runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rest {
    /// It has failed for good. Else it waits.
    pub(crate) failed: bool,
    /// Nothing is wrong.
    pub(crate) ready: bool,
    /// One CamelCase word.
    pub(crate) reason: String,
    /// A sentence for people.
    pub(crate) message: String,
}

/// What is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    /// Of the first instance.
    pub(crate) instance: InstanceName,
    /// One CamelCase word.
    pub(crate) reason: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
    /// Somebody should look at it.
    pub(crate) warning: bool,
}

/// What is seen, and when.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// As it came: of cron jobs without their runs.
    pub(crate) desired: &'a Arc<Desired>,
    pub(crate) world: &'a World,
    pub(crate) memories: &'a BTreeMap<InstanceName, Memory>,
    pub(crate) now: MonoTime,
    pub(crate) wall: SystemTime,
}

/// What comes of a look.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// What is wanted, each instance of a cron job as it is in its run.
    pub(crate) desired: Arc<Desired>,
    /// When to look again, if nothing happens before.
    pub(crate) wake: Option<MonoTime>,
    /// What is worth an event.
    pub(crate) happenings: Vec<Happening>,
}

/// How long a run has taken when this process saw it first, and when that was: no jump of the wall clock changes it after that.
#[derive(Debug, Clone, Copy)]
struct Elapsed {
    before: Duration,
    since: MonoTime,
}

/// All jobs.
#[derive(Default)]
pub(crate) struct Jobs {
    entries: Entries,
    book: Book,
    /// Of runs that began, by when they were due.
    elapsed: BTreeMap<(JobName, i64), Elapsed>,
    gates: BTreeMap<InstanceName, Gate>,
    statuses: BTreeMap<InstanceName, pb::JobStatus>,
    zones: Zones,
    floor: Option<Arc<TimeFloor>>,
    /// What was wrong with the file, until it was told.
    damage: Option<String>,
    /// What the last look came to, and of what: the same comes to the same.
    shaped: Option<Shaped>,
}

/// What was wanted, the runs that instances are in, and what is wanted of them then.
type Shaped = (Arc<Desired>, BTreeMap<InstanceName, i64>, Arc<Desired>);

/// What becomes of a job in one look.
#[derive(Default)]
struct Outcome {
    gates: BTreeMap<InstanceName, Gate>,
    /// When the run was due that an instance is of.
    runs: BTreeMap<InstanceName, i64>,
    status: pb::JobStatus,
    happenings: Vec<Happening>,
    wake: Option<MonoTime>,
    /// Something has to be on disk.
    changed: bool,
}

impl Jobs {
    /// Goes on from what an earlier process of the agent knew.
    pub(crate) fn open(disk: Directory, floor: Arc<TimeFloor>) -> Self {
        let (book, entries, damage) = Book::open(disk);
        if let Some(damage) = &damage {
            tracing::error!(
                damage,
                "what is known of jobs is damaged; it is made up for by what can be seen"
            );
        }
        Self { entries, book, damage, floor: Some(floor), ..Self::default() }
    }

    /// What each instance of a job may do. The others have no gate.
    pub(crate) fn gates(&self) -> &BTreeMap<InstanceName, Gate> {
        &self.gates
    }

    /// What was wrong with the file, once.
    pub(crate) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// When a write has ended; never, if there is none. May be dropped and called again.
    pub(crate) async fn written(&mut self) {
        self.book.written().await;
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self) {
        self.book.finish(&self.entries).await;
    }

    /// Takes in what is seen, and decides.
    pub(crate) fn step(&mut self, seen: Seen<'_>) -> Step {
        let mut step = Step::default();
        let mut runs = BTreeMap::new();
        self.gates.clear();
        self.statuses.clear();
        self.forget(seen.desired);
        for group in groups(seen) {
            let mut entry = self.entries.remove(&group.name).unwrap_or_default();
            let outcome = match &group.specs[0].service.kind {
                Kind::Job(job) => self.job(&group, &mut entry, job),
                Kind::CronJob(cron) => self.cron_job(&group, &mut entry, cron),
                Kind::Deployment { .. } | Kind::DaemonSet => Outcome::default(),
            };
            if outcome.changed {
                self.book.changed();
            }
            entry.job = group.name.to_string();
            self.statuses.insert(group.first(), outcome.status);
            self.gates.extend(outcome.gates);
            runs.extend(outcome.runs);
            step.happenings.extend(outcome.happenings);
            step.wake = earlier(step.wake, outcome.wake);
            self.entries.insert(group.name, entry);
        }
        let entries = &self.entries;
        self.elapsed.retain(|(name, due), _| {
            entries
                .get(name)
                .is_some_and(|entry| entry.runs.iter().any(|run| run.due == *due && run.is_open()))
        });
        step.wake = earlier(step.wake, self.book.write(entries, seen.now));
        if !self.book.is_written() {
            for gate in self.gates.values_mut().filter(|gate| **gate == Gate::Go) {
                *gate = Gate::Wait;
            }
        }
        step.desired = self.shape(seen.desired, runs);
        step
    }

    /// Forgets jobs that nobody wants any more.
    fn forget(&mut self, desired: &Desired) {
        if !desired.authoritative {
            return;
        }
        let names = desired.instances.keys().chain(desired.blocked.keys());
        let wanted: BTreeSet<JobName> =
            if self.entries.is_empty() { BTreeSet::new() } else { names.map(JobName::of).collect() };
        let before = self.entries.len();
        self.entries.retain(|name, _| wanted.contains(name));
        if self.entries.len() < before {
            self.book.changed();
        }
        let zones: BTreeSet<_> = desired
            .instances
            .values()
            .filter_map(|spec| match &spec.service.kind {
                Kind::CronJob(cron) => Some(&cron.time_zone),
                Kind::Job(_) | Kind::Deployment { .. } | Kind::DaemonSet => None,
            })
            .collect();
        self.zones.retain(|name| zones.contains(name));
    }

    /// What is wanted, with the runs in the fingerprints.
    fn shape(&mut self, desired: &Arc<Desired>, runs: BTreeMap<InstanceName, i64>) -> Arc<Desired> {
        if let Some((of, with, shaped)) = &self.shaped
            && Arc::ptr_eq(of, desired)
            && *with == runs
        {
            return Arc::clone(shaped);
        }
        let mut shaped = Arc::clone(desired);
        for (name, due) in &runs {
            if let Some(spec) = Arc::make_mut(&mut shaped).instances.get_mut(name) {
                in_run(Arc::make_mut(spec), *due);
            }
        }
        self.shaped = Some((Arc::clone(desired), runs, Arc::clone(&shaped)));
        shaped
    }

    fn job(&mut self, group: &Group<'_>, entry: &mut Entry, job: &Job) -> Outcome {
        let mut outcome = Outcome::default();
        let fingerprint = group.fingerprint();
        if entry.runs.len() != 1
            || entry.runs.iter().any(|run| run.fingerprint != fingerprint || run.due != 0)
        {
            entry.runs = vec![Run::new(fingerprint, 0, 0)];
            self.elapsed.remove(&(group.name.clone(), 0));
            entry.history.clear();
            entry.decided = None;
            outcome.changed = true;
        }
        let run = &mut entry.runs[0];
        if run.is_reopened_by(job) {
            run.finished = None;
            run.reason.clear();
            outcome.changed = true;
        }
        let was_open = run.is_open();
        self.advance(group, run, job, &mut outcome);
        if was_open && !run.is_open() {
            outcome.happenings.push(status::job_ended(group.first(), run, job));
        }
        let rest = |run: &Run| status::failed_job(run, job);
        group.open_gates(run, job, &rest, &mut outcome);
        outcome.status = status::of_run(run, job);
        outcome
    }

    fn cron_job(&mut self, group: &Group<'_>, entry: &mut Entry, cron: &CronJob) -> Outcome {
        let mut outcome = Outcome::default();
        let wall = group.seen.wall;
        group.supersede(entry, cron, &mut outcome);
        group.adopt(entry, cron, &mut outcome);
        for at in 0..entry.runs.len() {
            let run = &mut entry.runs[at];
            let was_open = run.is_open();
            self.advance(group, run, &cron.job, &mut outcome);
            if was_open && !run.is_open() {
                outcome.happenings.push(status::run_ended(group.first(), run, &cron.job));
                let run = run.clone();
                remember(entry, &run, cron);
            }
        }
        let held = self.begin(group, entry, cron, &mut outcome);
        let next = match &held {
            Ok(zone) => {
                let decided = entry.decided.as_ref().and_then(from_timestamp).unwrap_or(wall);
                let next = cron.schedule.next(decided.max(wall), zone).filter(|_| !cron.suspend);
                let wait = next.and_then(|next| next.duration_since(wall).ok());
                outcome.wake = earlier(outcome.wake, wait.map(|wait| group.seen.now + wait));
                next
            }
            Err(_) => None,
        };
        let idle = match held {
            Ok(_) => status::idle(entry, cron, next),
            Err(rest) => rest,
        };
        for slot in 0..cron.runs_max() {
            if let Some(run) = entry.runs.iter().find(|run| run.slot == slot) {
                group.open_gates(run, &cron.job, &|_| idle.clone(), &mut outcome);
            } else {
                let names = group.of_slot(slot, cron.job.completions).map(|(_, spec)| spec.name.clone());
                outcome.gates.extend(names.map(|name| (name, Gate::Rest(idle.clone()))));
            }
        }
        outcome.status = status::of_cron_job(entry, cron, next);
        outcome
    }

    /// Begins the run that is due, if one is. Why none can begin, if something is wrong.
    fn begin(
        &mut self,
        group: &Group<'_>,
        entry: &mut Entry,
        cron: &CronJob,
        outcome: &mut Outcome,
    ) -> Result<Zone, Rest> {
        let Seen { now, wall, .. } = group.seen;
        let floor = self.floor.as_ref().map_or(UNIX_EPOCH, |floor| floor.get()).max(UNIX_EPOCH + FLOOR);
        if wall < floor {
            return Err(status::held(
                "ClockWrong",
                format!(
                    "the machine's clock shows {}, and it is {} at least: no run begins until it is set",
                    to_timestamp(wall),
                    to_timestamp(floor)
                ),
            ));
        }
        let zone =
            self.zones.get(&cron.time_zone, now).map_err(|why| status::held("TimeZoneUnknown", why))?;
        let before = entry.decided.as_ref().and_then(from_timestamp);
        let decided = due::decided(before, wall);
        if before != Some(decided) {
            entry.decided = Some(to_timestamp(decided));
            outcome.changed = true;
        }
        // What is under way is not known while its runtime does not answer.
        if !group.is_seen() {
            return Ok(zone);
        }
        let due = match due::decide(cron, &zone, decided, wall, &entry.runs) {
            Decision::Nothing => return Ok(zone),
            Decision::Pass { due, why } => {
                outcome.happenings.extend(status::passed(group.first(), due, why));
                due
            }
            Decision::Begin { due, slot, ends } => {
                for (ended, reason) in ends {
                    if let Some(at) = entry.runs.iter().position(|run| run.due == ended && run.is_open()) {
                        entry.runs[at].finish(Verdict::Failed(reason), wall);
                        let run = entry.runs[at].clone();
                        outcome.happenings.push(status::run_ended(group.first(), &run, &cron.job));
                        remember(entry, &run, cron);
                    }
                }
                let seconds = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                entry.runs.retain(|run| run.slot != slot);
                entry.runs.push(Run::new(group.fingerprint(), seconds, slot));
                outcome.happenings.push(status::run_began(group.first(), due));
                due
            }
        };
        entry.decided = Some(to_timestamp(due));
        outcome.changed = true;
        Ok(zone)
    }

    /// Takes what is seen into a run, and says whether it is over.
    fn advance(&mut self, group: &Group<'_>, run: &mut Run, job: &Job, outcome: &mut Outcome) {
        let Seen { now, wall, .. } = group.seen;
        outcome.changed |= group.look(run, job);
        if !run.is_open() {
            return;
        }
        let key = (group.name.clone(), run.due);
        let started = run.started.as_ref().and_then(from_timestamp);
        let elapsed = started.map(|started| {
            let before = || wall.duration_since(started).unwrap_or_default();
            let elapsed = self.elapsed.entry(key).or_insert_with(|| Elapsed { before: before(), since: now });
            elapsed.before + now.saturating_since(elapsed.since)
        });
        if let Some(verdict) = run.verdict(job, elapsed) {
            run.finish(verdict, wall);
            outcome.changed = true;
        } else if let Some((deadline, elapsed)) = job.deadline.zip(elapsed) {
            outcome.wake = earlier(outcome.wake, Some(now + deadline.saturating_sub(elapsed)));
        }
    }
}

/// An instance as it is in the run that was `due`, which it is told.
fn in_run(spec: &mut InstanceSpec, due: i64) {
    spec.fingerprint = run::mark(&spec.fingerprint, due);
    let completions = match &spec.service.kind {
        Kind::Job(job) => job.completions,
        Kind::CronJob(cron) => cron.job.completions,
        Kind::Deployment { .. } | Kind::DaemonSet => return,
    };
    let env = &mut Arc::make_mut(&mut spec.service).env;
    env.entry(INDEX_VARIABLE.to_owned()).or_insert_with(|| (spec.name.ordinal % completions).to_string());
    if due != 0 {
        let due = prost_types::Timestamp { seconds: due, nanos: 0 };
        env.entry(DUE_VARIABLE.to_owned()).or_insert_with(|| due.to_string());
    }
}

fn earlier(one: Option<MonoTime>, other: Option<MonoTime>) -> Option<MonoTime> {
    one.into_iter().chain(other).min()
}
