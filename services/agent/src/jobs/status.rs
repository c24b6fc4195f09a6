//! What is told of jobs: their status, the statuses of instances that a gate holds, and events. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use skerry_model::InstanceName;
use skerry_model::app::{CronJob, Job};
use skerry_model::quantity::format_duration;
use skerry_model::time::to_timestamp;
use skerry_proto::types::v1 as pb;

use super::book::Entry;
use super::run::{BACKOFF_LIMIT_EXCEEDED, DEADLINE_EXCEEDED, Run};
use super::{Gate, Happening, Jobs, Rest, Why};
use pb::InstancePhase as Phase;
use pb::job_status::State;

impl Jobs {
    /// Says of the status of an instance what its job says. `runs`: a copy of it does. `is_at_fault`: what is told of it says what is wrong.
    pub(crate) fn dress(
        &self,
        name: &InstanceName,
        runs: bool,
        is_at_fault: bool,
        status: &mut pb::InstanceStatus,
    ) {
        status.job = self.statuses.get(name).cloned();
        match self.gates.get(name) {
            None | Some(Gate::Go) => {}
            Some(Gate::Wait) => {
                if !runs && self.book.fails() {
                    let message =
                        "what is known of jobs cannot be written to the disk, and is before it starts";
                    tell(status, Phase::Pending, "DiskNotWritten", message);
                }
            }
            Some(Gate::Turn { parallelism }) if !runs => {
                let message = format!("others of the job come first: {parallelism} run at once");
                tell(status, Phase::Pending, "WaitingForTurn", &message);
            }
            Some(Gate::Done(end)) => {
                tell(status, Phase::Completed, "Completed", "it ended with exit code 0");
                status.exit_code = end.exit_code;
                if status.terminations.is_empty() {
                    status.terminations.push(end.clone());
                }
            }
            Some(Gate::Rest(rest)) if !runs => {
                if !(rest.ready && is_at_fault) {
                    let phase = if rest.failed { Phase::Failed } else { Phase::Pending };
                    tell(status, phase, &rest.reason, &rest.message);
                    status.ready = rest.ready;
                }
            }
            Some(Gate::Rest(Rest { reason, message, .. })) => tell(status, Phase::Stopping, reason, message),
            Some(Gate::Turn { .. }) => {
                tell(status, Phase::Stopping, "WaitingForTurn", "others of the job come first");
            }
        }
    }
}

fn tell(status: &mut pb::InstanceStatus, phase: Phase, reason: &str, message: &str) {
    status.phase = phase.into();
    status.ready = false;
    reason.clone_into(&mut status.reason);
    message.clone_into(&mut status.message);
}

/// How a run stands.
pub(super) fn of_run(run: &Run, job: &Job) -> pb::JobStatus {
    let state = match (run.is_open(), run.reason.is_empty()) {
        (true, _) => State::Active,
        (false, true) => State::Complete,
        (false, false) => State::Failed,
    };
    pb::JobStatus {
        state: state.into(),
        reason: run.reason.clone(),
        completions: job.completions,
        succeeded: run.succeeded(job.completions),
        failures: run.failures,
        start_time: run.started,
        finish_time: run.finished,
        schedule_time: (run.due != 0).then_some(Timestamp { seconds: run.due, nanos: 0 }),
        ..pb::JobStatus::default()
    }
}

/// How a cron job stands: its newest run.
pub(super) fn of_cron_job(entry: &Entry, cron: &CronJob, next: Option<SystemTime>) -> pb::JobStatus {
    let newest = entry.runs.iter().max_by_key(|run| run.due);
    let status = match newest {
        Some(run) => of_run(run, &cron.job),
        None => pb::JobStatus {
            state: State::Waiting.into(),
            completions: cron.job.completions,
            ..pb::JobStatus::default()
        },
    };
    pb::JobStatus { next_time: next.map(to_timestamp), history: entry.history.clone(), ..status }
}

/// A run that ended, as it is remembered.
pub(super) fn past(run: &Run) -> pb::JobRun {
    pb::JobRun {
        schedule_time: Some(Timestamp { seconds: run.due, nanos: 0 }),
        start_time: run.started,
        finish_time: run.finished,
        reason: run.reason.clone(),
        failures: run.failures,
    }
}

/// Why nothing of a job runs that has failed.
pub(super) fn failed_job(run: &Run, job: &Job) -> Rest {
    let message = format!("the job has failed: {}", why(run, job));
    Rest { failed: true, ready: false, reason: run.reason.clone(), message }
}

/// Why nothing of a cron job runs although nothing is wrong.
pub(super) fn idle(entry: &Entry, cron: &CronJob, next: Option<SystemTime>) -> Rest {
    let newest = entry.runs.iter().max_by_key(|run| run.due).filter(|run| !run.is_open());
    let last = newest.map(|run| {
        let how = if run.reason.is_empty() {
            "succeeded".to_owned()
        } else {
            format!("failed: {}", why(run, &cron.job))
        };
        format!("the run of {} {how}; ", Timestamp { seconds: run.due, nanos: 0 })
    });
    let (mut reason, then) = match next {
        _ if cron.suspend => ("Suspended", "no run begins while it is suspended".to_owned()),
        Some(next) => ("Scheduled", format!("the next is due at {}", to_timestamp(next))),
        None => ("Scheduled", "no time of the schedule comes any more".to_owned()),
    };
    if !cron.suspend && newest.is_some_and(|run| !run.reason.is_empty()) {
        reason = "LastRunFailed";
    }
    let message = format!("{}{then}", last.unwrap_or_default());
    Rest { failed: false, ready: true, reason: reason.to_owned(), message }
}

/// Why no run of a cron job can begin.
pub(super) fn held(reason: &str, message: String) -> Rest {
    Rest { failed: false, ready: false, reason: reason.to_owned(), message }
}

fn why(run: &Run, job: &Job) -> String {
    match run.reason.as_str() {
        BACKOFF_LIMIT_EXCEEDED => {
            format!("its instances failed {} times, and {} are borne", run.failures, job.backoff_limit)
        }
        DEADLINE_EXCEEDED => {
            let deadline = job.deadline.map_or_else(String::new, format_duration);
            format!("it took longer than its deadline of {deadline}")
        }
        super::due::REPLACED => "the next one took its place".to_owned(),
        super::due::NOT_STARTED => "it could not be started before the next one was due".to_owned(),
        super::group::SUPERSEDED => "what the service runs was changed".to_owned(),
        other => other.to_owned(),
    }
}

/// How long it took, as far as is known.
fn took(run: &Run) -> String {
    let (Some(from), Some(to)) = (run.started, run.finished) else { return String::new() };
    let seconds = u64::try_from(to.seconds - from.seconds).unwrap_or_default();
    format!(" after {}", format_duration(Duration::from_secs(seconds)))
}

pub(super) fn job_ended(instance: InstanceName, run: &Run, job: &Job) -> Happening {
    if run.reason.is_empty() {
        let message = format!("the job has completed{}: {} succeeded", took(run), job.completions);
        return Happening { instance, reason: "JobCompleted", message, warning: false };
    }
    let message = format!("the job has failed: {}", why(run, job));
    Happening { instance, reason: "JobFailed", message, warning: true }
}

pub(super) fn run_began(instance: InstanceName, due: SystemTime) -> Happening {
    let message = format!("the run of {} begins", to_timestamp(due));
    Happening { instance, reason: "RunBegan", message, warning: false }
}

pub(super) fn run_ended(instance: InstanceName, run: &Run, job: &Job) -> Happening {
    let due = to_timestamp(UNIX_EPOCH + Duration::from_secs(u64::try_from(run.due).unwrap_or_default()));
    if run.reason.is_empty() {
        let message = format!("the run of {due} has completed{}", took(run));
        return Happening { instance, reason: "RunCompleted", message, warning: false };
    }
    let message = format!("the run of {due} has failed: {}", why(run, job));
    Happening { instance, reason: "RunFailed", message, warning: true }
}

/// Nothing, while it is suspended: that is wanted.
pub(super) fn passed(instance: InstanceName, due: SystemTime, why: Why) -> Option<Happening> {
    let due = to_timestamp(due);
    let (reason, message) = match why {
        Why::Suspended => return None,
        Why::TooLate => ("RunMissed", format!("the run of {due} was missed, and it is too late for it")),
        Why::Overlap => {
            ("RunSkipped", format!("the run of {due} is skipped: those before it have not ended"))
        }
    };
    Some(Happening { instance, reason, message, warning: true })
}
