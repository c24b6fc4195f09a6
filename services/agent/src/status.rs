//! What is told of an instance: its phase, whether it is ready, and a reason whenever it is not.
//!
//! Pure: from the same inputs as the plan, and the plan's own holds. Texts hold nothing that changes by itself (no countdowns), so that a
//! status that says nothing new is not sent again.

use skerry_model::InstanceName;
use skerry_model::app::ROLLED_BACK;
use skerry_model::time::to_timestamp;
use skerry_proto::types::v1 as pb;

use crate::desired::{Blocked, InstanceSpec};
use crate::health::HealthState;
use crate::memory::{Busy, Ended, Memory, OVERUSE};
use crate::plan::Hold;
use crate::runtime::{Observed, RunState, RuntimeError};
use crate::update::TakenBack;
use crate::world::is_running;

use pb::InstancePhase as Phase;

/// The reason of what somebody stopped.
pub(crate) const STOPPED_BY_HAND: &str = "StoppedByHand";
/// The reason of what waits for a GPU that another instance still has.
const GPU_BUSY: &str = "GpuBusy";

/// What a status is made of.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    /// The copy that is there, of whatever fingerprint.
    pub(crate) observed: Option<&'a Observed>,
    /// What is remembered.
    pub(crate) memory: &'a Memory,
    /// Its health, where it runs and has a check.
    pub(crate) health: Option<&'a HealthState>,
    /// Why its runtime does not answer, if it does not.
    pub(crate) away: Option<&'a RuntimeError>,
}

/// Phase, reason and message; ready is told by an empty reason.
struct Told(Phase, String, String);

fn told(phase: Phase, reason: &str, message: impl Into<String>) -> Told {
    Told(phase, reason.to_owned(), message.into())
}

/// The status of a wanted instance. `hold` is what the plan said of it; none: something is about to be done.
pub(crate) fn of_wanted(spec: &InstanceSpec, hold: Option<&Hold>, about: About<'_>) -> pb::InstanceStatus {
    let current = about.observed.filter(|observed| observed.fingerprint == spec.fingerprint);
    let told_of = match (about.observed, current) {
        (observed, _) if hold == Some(&Hold::ByHand) && !observed.is_some_and(is_running) => stopped(),
        (_, Some(observed)) => of_current(hold, observed, about),
        (Some(old), None) if is_running(old) => of_old(spec, hold, about),
        (_, None) => of_absent(spec, hold, about),
    };
    // What runs is told, also while its successor is being made ready.
    let revision = match (about.observed, current) {
        (Some(old), None) if is_running(old) => old.revision.clone(),
        _ => spec.revision.to_string(),
    };
    finish(&spec.name, revision, told_of, about)
}

/// The status of an instance that is wanted and cannot be made out.
pub(crate) fn of_blocked(name: &InstanceName, blocked: &Blocked, about: About<'_>) -> pb::InstanceStatus {
    let running = about.observed.filter(|observed| is_running(observed));
    let phase = if running.is_some() { Phase::Running } else { Phase::Failed };
    let revision = running.map_or_else(|| blocked.revision.clone(), |observed| observed.revision.clone());
    finish(name, revision, told(phase, blocked.reason, &blocked.message), about)
}

/// The status of an instance that is there and not wanted.
pub(crate) fn of_unwanted(name: &InstanceName, authoritative: bool, about: About<'_>) -> pb::InstanceStatus {
    let runs = about.observed.is_some_and(is_running);
    let told_of = match (about.memory.error(None), about.away) {
        (Some(error), _) | (None, Some(error)) => told(Phase::Stopping, error.reason, &error.message),
        (None, None) if authoritative => {
            told(Phase::Stopping, "NotWanted", "it is no longer assigned to this node")
        }
        (None, None) => told(
            if runs { Phase::Running } else { Phase::Pending },
            "DesiredStateUnknown",
            "left as it is until the control plane has said what this node shall run",
        ),
    };
    let revision = about.observed.map(|observed| observed.revision.clone()).unwrap_or_default();
    finish(name, revision, told_of, about)
}

fn of_current(hold: Option<&Hold>, observed: &Observed, about: About<'_>) -> Told {
    let unknown = "RuntimeUnavailable";
    match (observed.state, about.away) {
        (RunState::Running { .. }, Some(error)) => {
            told(Phase::Running, unknown, format!("ran when last seen; {}", error.message))
        }
        (RunState::Running { .. }, None) => match about.health {
            None | Some(HealthState::Healthy) => told(Phase::Running, "", ""),
            Some(HealthState::Starting) => {
                told(Phase::Running, "Starting", "its health check has not succeeded yet")
            }
            Some(HealthState::Unhealthy { message }) => told(Phase::Running, "Unhealthy", message),
        },
        (RunState::Created | RunState::Exited { .. }, Some(error)) => {
            told(Phase::Failed, unknown, &error.message)
        }
        (RunState::Exited { code, .. }, None) if hold == Some(&Hold::Completed) => {
            told(Phase::Completed, "Completed", how(code, false))
        }
        (RunState::Exited { code, out_of_memory, .. }, None) if hold == Some(&Hold::Ended) => {
            let (reason, how) = ended(about, code, out_of_memory);
            told(Phase::Failed, reason, how)
        }
        (RunState::Exited { code, out_of_memory, .. }, None) => {
            if let Some(waiting) = of_waiting(hold, about.memory.error(Some(&observed.fingerprint))) {
                return waiting;
            }
            let wait = about.memory.ended.and_then(|ended| ended.wait);
            let after = wait.map_or(String::new(), |wait| format!(" after {:.1} s", wait.as_secs_f64()));
            let (reason, how) = ended(about, code, out_of_memory);
            told(Phase::Backoff, reason, format!("{how}; started again{after}"))
        }
        (RunState::Created, None) => {
            of_waiting(hold, about.memory.error(Some(&observed.fingerprint))).unwrap_or_else(preparing)
        }
    }
}

/// An old copy runs on until the new one can take its place.
fn of_old(spec: &InstanceSpec, hold: Option<&Hold>, about: About<'_>) -> Told {
    let runs_on = |message: &str| format!("the former revision still runs: {message}");
    if let Some(error) = about.away {
        return told(Phase::Running, "RuntimeUnavailable", format!("ran when last seen; {}", error.message));
    }
    let beside = about.memory.beside(&spec.fingerprint);
    let error = about.memory.error(Some(&spec.fingerprint));
    let error = error.or_else(|| beside?.error(Some(&spec.fingerprint)));
    match (hold, error, &about.memory.fetch) {
        (Some(Hold::Beside), ..) => {
            told(Phase::Running, "Updating", runs_on("the new one runs beside it and is not healthy yet"))
        }
        (Some(Hold::NotAuthoritative), ..) => told(
            Phase::Running,
            "DesiredStateUnknown",
            runs_on("what this node shall run is not known for certain"),
        ),
        (Some(Hold::Staging { message }), ..) => told(Phase::Running, "WaitingForImages", runs_on(message)),
        (Some(Hold::Dependency { message }), ..) => {
            told(Phase::Running, "WaitingForDependency", runs_on(message))
        }
        (Some(Hold::Gpu { message }), ..) => told(Phase::Running, GPU_BUSY, runs_on(message)),
        (Some(Hold::NoRuntime), ..) => told(
            Phase::Running,
            "Updating",
            runs_on("this agent does not drive the runtime that the new one needs"),
        ),
        (Some(Hold::RuntimeAway), ..) => {
            told(Phase::Running, "Updating", runs_on("the runtime that the new one needs does not answer"))
        }
        (_, Some(error), _) => told(Phase::Running, error.reason, runs_on(&error.message)),
        (_, None, Some(fetch)) if !fetch.reason.is_empty() => {
            told(Phase::Running, fetch.reason, runs_on(&fetch.message))
        }
        _ => match beside.and_then(|beside| beside.ended) {
            Some(Ended { code, out_of_memory, .. }) => told(
                Phase::Running,
                "UpdateEnded",
                runs_on(&format!("of the new one, {}", how(code, out_of_memory))),
            ),
            None => told(Phase::Running, "Updating", runs_on("the new one is being made ready")),
        },
    }
}

fn of_absent(spec: &InstanceSpec, hold: Option<&Hold>, about: About<'_>) -> Told {
    if let Some(error) = about.away {
        return told(Phase::Pending, "RuntimeUnavailable", &error.message);
    }
    if let Some(waiting) = of_waiting(hold, about.memory.error(Some(&spec.fingerprint))) {
        return waiting;
    }
    match (&about.memory.fetch, &about.memory.busy) {
        (Some(fetch), _) if !fetch.reason.is_empty() => told(Phase::Preparing, fetch.reason, &fetch.message),
        (_, Some((Busy::Stopping, _))) => told(Phase::Stopping, "Stopping", "it is being stopped"),
        _ => preparing(),
    }
}

/// Somebody stopped it.
fn stopped() -> Told {
    let message = "it was stopped by hand: `skerry start` starts it again";
    told(Phase::Stopped, STOPPED_BY_HAND, message)
}

fn preparing() -> Told {
    told(Phase::Preparing, "Preparing", "it is being made ready")
}

/// What stands in the way of a copy that does not run.
fn of_waiting(hold: Option<&Hold>, error: Option<&RuntimeError>) -> Option<Told> {
    match (hold, error) {
        (Some(Hold::Staging { message }), _) => Some(told(Phase::Pending, "WaitingForImages", message)),
        (Some(Hold::Dependency { message }), _) => {
            Some(told(Phase::Pending, "WaitingForDependency", message))
        }
        (Some(Hold::Gpu { message }), _) => Some(told(Phase::Pending, GPU_BUSY, message)),
        (Some(Hold::NoRuntime), _) => Some(told(
            Phase::Failed,
            "RuntimeUnavailable",
            "this agent does not drive the runtime that it needs",
        )),
        (Some(Hold::RuntimeAway), None) => {
            Some(told(Phase::Pending, "RuntimeUnavailable", "its runtime was not reached yet"))
        }
        (Some(Hold::OtherCopy), _) => Some(told(
            Phase::Pending,
            "OtherCopy",
            "a copy of it on another runtime of this machine has to go first",
        )),
        (_, Some(error)) => Some(told(Phase::Failed, error.reason, &error.message)),
        _ => None,
    }
}

/// Why and how the last run ended.
fn ended(about: About<'_>, code: Option<i32>, out_of_memory: bool) -> (&'static str, String) {
    match &about.memory.overuse {
        Some(words) => (OVERUSE, stopped_for(words)),
        None if out_of_memory => ("OutOfMemory", how(code, out_of_memory)),
        None => ("Exited", how(code, out_of_memory)),
    }
}

/// That it was ended for what it used of a GPU.
pub(crate) fn stopped_for(words: &str) -> String {
    format!("it was stopped: {words}")
}

/// How it ended, in words.
pub(crate) fn how(code: Option<i32>, out_of_memory: bool) -> String {
    match (code, out_of_memory) {
        (_, true) => "it was killed because its memory was used up".to_owned(),
        (Some(code @ 129..=192), false) => format!("it ended by signal {} (exit code {code})", code - 128),
        (Some(code), false) => format!("it ended with exit code {code}"),
        (None, false) => "it ended and nobody saw how".to_owned(),
    }
}

fn finish(name: &InstanceName, revision: String, told: Told, about: About<'_>) -> pb::InstanceStatus {
    let Told(phase, mut reason, message) = told;
    let ready = phase == Phase::Running && (reason.is_empty() || is_old_and_well(&reason, about));
    if reason.is_empty() && !ready {
        "Unknown".clone_into(&mut reason);
    }
    let observed = about.observed;
    let exit_code = match observed.map(|observed| observed.state) {
        Some(RunState::Exited { code, .. }) => code,
        _ => about.memory.ended.and_then(|Ended { code, .. }| code),
    };
    let start_time = match observed.map(|observed| observed.state) {
        Some(RunState::Running { since }) => Some(to_timestamp(since)),
        _ => None,
    };
    pb::InstanceStatus {
        instance: name.to_string(),
        node: String::new(),
        revision,
        phase: phase.into(),
        ready,
        reason,
        message,
        restarts: about.memory.restarts,
        exit_code,
        start_time,
        runtime_id: observed.map(|observed| observed.runtime_id.clone()).unwrap_or_default(),
        terminations: about.memory.terminations.clone(),
        warnings: observed.map(|observed| observed.warnings.clone()).unwrap_or_default(),
        job: None,
        rejected_revision: String::new(),
        gpus: Vec::new(),
    }
}

/// The status of an instance that is wanted in a revision that was taken back, of which what runs instead has none.
pub(crate) fn of_withheld(
    name: &InstanceName,
    taken_back: &TakenBack,
    about: About<'_>,
) -> pb::InstanceStatus {
    let told_of = told(Phase::Pending, ROLLED_BACK, "");
    finish(name, taken_back.rejected.clone(), told_of, About { observed: None, ..about })
}

/// Says of an instance whose app was taken back that it was. What is wrong with what runs instead is said first.
pub(crate) fn dress_taken_back(taken_back: &TakenBack, status: &mut pb::InstanceStatus) {
    status.rejected_revision.clone_from(&taken_back.rejected);
    if status.reason.is_empty() || status.reason == ROLLED_BACK {
        ROLLED_BACK.clone_into(&mut status.reason);
        status.message.clone_from(&taken_back.message);
    } else {
        status.message = format!("{}; {}", status.message, taken_back.message);
    }
}

/// Whether the old copy that runs on does its work; the reason then speaks of its successor.
fn is_old_and_well(reason: &str, about: About<'_>) -> bool {
    let about_itself = matches!(reason, "Unhealthy" | "Starting" | "RuntimeUnavailable");
    let healthy = matches!(about.health, None | Some(HealthState::Healthy));
    !about_itself && about.away.is_none() && healthy && about.observed.is_some_and(is_running)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::testing::{app, service};
    use skerry_model::{AppSpec, ContentHash};

    fn spec() -> InstanceSpec {
        let service = AppSpec::from_proto(&app(vec![service("web")])).unwrap().services.remove(0);
        InstanceSpec {
            name: InstanceName::parse("app/web/n1/0").unwrap(),
            revision: ContentHash::of(b"new"),
            service: Arc::new(service),
            configs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            gpus: Vec::new(),
            fingerprint: "new".into(),
        }
    }

    fn observed(fingerprint: &str, state: RunState) -> Observed {
        Observed {
            instance: spec().name,
            fingerprint: fingerprint.into(),
            revision: fingerprint.into(),
            runtime_id: "id".into(),
            state,
            address: None,
            image_health: None,
            drift: None,
            place: crate::runtime::Place::Own,
            started: None,
            warnings: Vec::new(),
            gpus: Vec::new(),
        }
    }

    const RUNNING: RunState = RunState::Running { since: SystemTime::UNIX_EPOCH };

    fn holds() -> Vec<Option<Hold>> {
        let dependency = Hold::Dependency { message: "waits".into() };
        [Hold::Runs, Hold::Busy, Hold::Completed, Hold::Ended, Hold::Waits, dependency]
            .into_iter()
            .chain([
                Hold::NoRuntime,
                Hold::RuntimeAway,
                Hold::OtherCopy,
                Hold::Beside,
                Hold::ByHand,
                Hold::NotAuthoritative,
                Hold::Gpu { message: "waits".into() },
            ])
            .map(Some)
            .chain([None])
            .collect()
    }

    #[test]
    fn whatever_happens_one_that_is_not_ready_says_why() {
        let exited =
            |code, out_of_memory| RunState::Exited { code, at: SystemTime::UNIX_EPOCH, out_of_memory };
        let states =
            [RunState::Created, RUNNING, exited(Some(0), false), exited(Some(1), true), exited(None, false)];
        let seen: Vec<Option<Observed>> = ["old", "new"]
            .into_iter()
            .flat_map(|fingerprint| states.iter().map(move |state| Some(observed(fingerprint, *state))))
            .chain([None])
            .collect();
        let error = RuntimeError { reason: "RuntimeUnavailable", message: "no".into(), transient: true };
        let healths = [
            None,
            Some(HealthState::Healthy),
            Some(HealthState::Starting),
            Some(HealthState::Unhealthy { message: String::new() }),
        ];
        for observed in &seen {
            for hold in holds() {
                for away in [None, Some(&error)] {
                    for health in &healths {
                        let memory = Memory::default();
                        let about = About {
                            observed: observed.as_ref(),
                            memory: &memory,
                            health: health.as_ref(),
                            away,
                        };
                        let status = of_wanted(&spec(), hold.as_ref(), about);
                        assert!(status.ready || !status.reason.is_empty(), "{status:?}");
                        let runs = observed.as_ref().is_some_and(is_running) && away.is_none();
                        let well = matches!(health, None | Some(HealthState::Healthy));
                        assert_eq!(status.ready, runs && well, "{hold:?} {observed:?} {status:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_old_copy_that_runs_on_is_told_as_what_it_is() {
        let mut memory = Memory::default();
        let error = RuntimeError { reason: "ImagePullFailed", message: "no route".into(), transient: true };
        memory.failed(Some("new".into()), error, skerry_sync::MonoTime::default(), 0.0);
        let old = observed("old", RUNNING);
        let about = About { observed: Some(&old), memory: &memory, health: None, away: None };
        let status = of_wanted(&spec(), Some(&Hold::Waits), about);
        assert_eq!(
            (status.ready, status.reason.as_str(), status.revision.as_str()),
            (true, "ImagePullFailed", "old")
        );
        assert_eq!(status.message, "the former revision still runs: no route");
    }
}
