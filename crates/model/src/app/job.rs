//! From the wire to `Job` and `CronJob`, and what cannot be had with them.

use std::time::Duration;

use skerry_proto::types::v1 as pb;

use crate::Violations;
use crate::cron::{Schedule, ZoneName};

use super::parse::{REPLICAS_MAX, optional_duration};
use super::{Kind, Program, UpdateOrder};

/// Most failures that a job may bear.
const BACKOFF_LIMIT_MAX: u32 = 1000;
const BACKOFF_LIMIT: u32 = 6;
/// Shortest and longest deadline.
const DEADLINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));
/// Most ended runs that are remembered of each sort: a node's status has little room.
const HISTORY_MAX: u32 = 10;
const SUCCESSFUL_HISTORY: u32 = 3;
const FAILED_HISTORY: u32 = 1;
/// Fewest and most runs of a cron job at once.
const RUNS: (u32, u32) = (2, 10);
const RUNS_DEFAULT: u32 = 3;

/// Runs to completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// How many must succeed: 1 to 100.
    pub completions: u32,
    /// How many may run at once, at least one.
    pub parallelism: u32,
    /// With one failure more than this it has failed.
    pub backoff_limit: u32,
    /// The longest that it may take from its first start on.
    pub deadline: Option<Duration>,
}

/// Runs to completion on a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJob {
    /// When.
    pub schedule: Schedule,
    /// By which clock.
    pub time_zone: ZoneName,
    /// What happens when a run is due and the last has not ended.
    pub overlap: Overlap,
    /// How late a run may start. Absent: however late.
    pub starting_deadline: Option<Duration>,
    /// How many runs that succeeded are remembered.
    pub successful_history: u32,
    /// How many runs that failed are remembered.
    pub failed_history: u32,
    /// No run begins.
    pub suspend: bool,
    /// What each run is.
    pub job: Job,
}

/// What happens when a run is due and the last has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Both run.
    Allow {
        /// At most so many.
        runs_max: u32,
    },
    /// The new one is skipped.
    Forbid,
    /// The old one is ended.
    Replace,
}

impl Job {
    /// How many run at once at most.
    pub fn at_once(&self) -> u32 {
        self.parallelism.min(self.completions)
    }

    /// How many instances it has in a cluster.
    pub fn instances(&self) -> u32 {
        self.completions
    }
}

impl CronJob {
    /// How many runs there may be at once.
    pub fn runs_max(&self) -> u32 {
        match self.overlap {
            Overlap::Allow { runs_max } => runs_max,
            Overlap::Forbid | Overlap::Replace => 1,
        }
    }

    /// How many instances it has in a cluster. Run `n` of those at once has those from `n * completions` on.
    pub fn instances(&self) -> u32 {
        self.job.completions * self.runs_max()
    }
}

pub(super) fn parse(at: &str, job: Option<&pb::Job>, v: &mut Violations) -> Job {
    let job = job.copied().unwrap_or_default();
    let completions = within(&format!("{at}.completions"), job.completions, 1, (1, REPLICAS_MAX), v);
    let parallelism = within(&format!("{at}.parallelism"), job.parallelism, 1, (1, REPLICAS_MAX), v);
    let limits = (0, BACKOFF_LIMIT_MAX);
    let backoff_limit = within(&format!("{at}.backoff_limit"), job.backoff_limit, BACKOFF_LIMIT, limits, v);
    let deadline = optional_duration(&format!("{at}.deadline"), job.deadline.as_ref(), DEADLINE, v);
    Job { completions, parallelism, backoff_limit, deadline }
}

pub(super) fn parse_cron(at: &str, cron: &pb::CronJob, v: &mut Violations) -> Option<CronJob> {
    let schedule = v.check(format!("{at}.schedule"), Schedule::parse(&cron.schedule));
    let time_zone = match cron.time_zone.as_str() {
        "" => Some(ZoneName::default()),
        name => v.check(format!("{at}.time_zone"), ZoneName::parse(name)),
    };
    let job = parse(&format!("{at}.job"), cron.job.as_ref(), v);
    let overlap = parse_overlap(at, cron, job, v);
    let late = format!("{at}.starting_deadline");
    let starting_deadline = optional_duration(&late, cron.starting_deadline.as_ref(), DEADLINE, v);
    let kept = (0, HISTORY_MAX);
    let (successes, failures) = (cron.successful_history, cron.failed_history);
    let successful_history =
        within(&format!("{at}.successful_history"), successes, SUCCESSFUL_HISTORY, kept, v);
    let failed_history = within(&format!("{at}.failed_history"), failures, FAILED_HISTORY, kept, v);
    Some(CronJob {
        schedule: schedule?,
        time_zone: time_zone?,
        overlap: overlap?,
        starting_deadline,
        successful_history,
        failed_history,
        suspend: cron.suspend,
        job,
    })
}

fn parse_overlap(at: &str, cron: &pb::CronJob, job: Job, v: &mut Violations) -> Option<Overlap> {
    use pb::cron_job::ConcurrencyPolicy as Wire;
    let field = format!("{at}.concurrency_max");
    let overlap = match Wire::try_from(cron.concurrency_policy) {
        Ok(Wire::Allow) => {
            let runs_max = within(&field, cron.concurrency_max, RUNS_DEFAULT, RUNS, v);
            if runs_max.saturating_mul(job.completions) > REPLICAS_MAX {
                v.add(
                    &field,
                    format!(
                        "{runs_max} runs of {} completions are too many instances: at most {REPLICAS_MAX}",
                        job.completions
                    ),
                );
            }
            return Some(Overlap::Allow { runs_max });
        }
        Ok(Wire::Unspecified | Wire::Forbid) => Some(Overlap::Forbid),
        Ok(Wire::Replace) => Some(Overlap::Replace),
        Err(_) => {
            v.add(format!("{at}.concurrency_policy"), "use allow, forbid or replace");
            None
        }
    };
    if cron.concurrency_max.is_some() {
        v.add(field, "only with concurrencyPolicy allow: else there is one run at a time");
    }
    overlap
}

fn within(at: &str, value: Option<u32>, absent: u32, (least, most): (u32, u32), v: &mut Violations) -> u32 {
    let value = value.unwrap_or(absent);
    if !(least..=most).contains(&value) {
        v.add(at, format!("{value} is out of range: {least} to {most}"));
    }
    value.clamp(least, most)
}

/// What a job cannot be together with.
pub(super) fn check(at: &str, kind: &Kind, program: &Program, update: UpdateOrder, v: &mut Violations) {
    let at_once = match kind {
        Kind::Deployment { .. } | Kind::DaemonSet => return,
        Kind::Job(job) => job.at_once(),
        Kind::CronJob(cron) => cron.job.at_once() * cron.runs_max(),
    };
    if let Program::Container(container) = program
        && at_once > 1
        && !container.ports.is_empty()
    {
        v.add(
            format!("{at}.container.ports"),
            "several instances of a job run at once here, and they cannot publish the same port: leave it out",
        );
    }
    if update == UpdateOrder::StartFirst {
        v.add(format!("{at}.update.order"), "a job never has two copies: leave it out");
    }
}
