//! Which run of a cron job is to begin now, by the schedule, the clock and the runs that there are. Pure.
//!
//! Laws (tested in `tests.rs`): no time of the schedule is run twice, also when the clock is set back; of those that were missed the last one is run, and
//! only if it is not too late; there are never more runs at once than the policy allows.

use std::time::{Duration, SystemTime};

use skerry_model::app::{CronJob, Overlap};
use skerry_model::cron::Zone;

use super::run::Run;

/// What ended a run from outside.
pub(crate) const REPLACED: &str = "Replaced";
/// It could not be started before the next one was due.
pub(crate) const NOT_STARTED: &str = "NotStarted";
/// A clock that is set back further than this was wrong before: the schedule goes on from what it shows now.
const SET_BACK_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is due.
    Nothing,
    /// What was due is not run.
    Pass { due: SystemTime, why: Why },
    /// A run begins.
    Begin {
        due: SystemTime,
        slot: u32,
        /// Runs that end for it, and with which reason.
        ends: Vec<(i64, &'static str)>,
    },
}

/// Why what was due is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Suspended,
    TooLate,
    Overlap,
}

/// Up to when all was decided, in the light of what the clock shows.
pub(crate) fn decided(before: Option<SystemTime>, wall: SystemTime) -> SystemTime {
    match before {
        // What was due before it came here was not missed.
        None => wall,
        Some(before) if before.duration_since(wall).is_ok_and(|ahead| ahead > SET_BACK_MAX) => wall,
        Some(before) => before,
    }
}

/// Decides about what is due after `decided` and not after `wall`.
pub(crate) fn decide(
    cron: &CronJob,
    zone: &Zone,
    decided: SystemTime,
    wall: SystemTime,
    runs: &[Run],
) -> Decision {
    let Some(due) = cron.schedule.last(decided, wall, zone) else { return Decision::Nothing };
    let pass = |why| Decision::Pass { due, why };
    if cron.suspend {
        return pass(Why::Suspended);
    }
    let late = wall.duration_since(due).unwrap_or_default();
    if cron.starting_deadline.is_some_and(|most| late > most) {
        return pass(Why::TooLate);
    }
    let open = || runs.iter().filter(|run| run.is_open());
    let stuck = open().find(|run| run.started.is_none()).map(|run| (run.due, run.slot));
    let free = || (0..cron.runs_max()).find(|slot| open().all(|run| run.slot != *slot));
    match (cron.overlap, free(), stuck) {
        (_, Some(slot), _) => Decision::Begin { due, slot, ends: Vec::new() },
        (_, None, Some((run, slot))) => Decision::Begin { due, slot, ends: vec![(run, NOT_STARTED)] },
        (Overlap::Replace, None, None) => {
            Decision::Begin { due, slot: 0, ends: open().map(|run| (run.due, REPLACED)).collect() }
        }
        (Overlap::Allow { .. } | Overlap::Forbid, None, None) => pass(Why::Overlap),
    }
}
