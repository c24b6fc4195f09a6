//! How an app is that was updated: healthy means running and, where there is a check, healthy; a job has not failed.

use skerry_model::InstanceName;

use super::Seen;
use super::trial::{Shown, Signs};
use crate::desired::InstanceSpec;
use crate::health::HealthState;
use crate::jobs::{Gate, unmark};
use crate::memory::restarts;
use crate::runtime::RunState;
use crate::status::how;
use crate::world::kind_of;

/// Longest that is told of what is the matter with an instance.
const WHY_BYTES_MAX: usize = 160;

/// How the instances of an app are, of which all that is wanted are these.
pub(super) fn shown<'a>(seen: Seen<'_>, specs: impl Iterator<Item = &'a InstanceSpec> + Clone) -> Shown {
    let answers = |spec: &InstanceSpec| seen.world.get(&kind_of(spec)).is_some_and(|view| view.available);
    if !specs.clone().all(answers) {
        return Shown::Unseen;
    }
    let mut signs = Signs::new();
    for spec in specs {
        if let Err(why) = of_one(seen, spec, &mut signs) {
            return ill(&spec.name, &why);
        }
    }
    Shown::Healthy(signs)
}

pub(super) fn ill(name: &InstanceName, why: &str) -> Shown {
    let end = why.char_indices().map(|(at, one)| at + one.len_utf8()).take_while(|end| *end <= WHY_BYTES_MAX);
    let why = why[..end.last().unwrap_or(0)].to_owned();
    Shown::Ill { instance: name.clone(), why }
}

fn of_one(seen: Seen<'_>, spec: &InstanceSpec, signs: &mut Signs) -> Result<(), String> {
    let name = &spec.name;
    if spec.service.is_job() {
        return match seen.gates.get(name) {
            Some(Gate::Rest(rest)) if rest.failed => Err(format!("{}: {}", rest.reason, rest.message)),
            Some(_) => Ok(()),
            None => Err("it has not begun".to_owned()),
        };
    }
    let memory = seen.memories.get(name);
    let failed = || memory.and_then(|memory| memory.error(Some(&spec.fingerprint)));
    let observed = seen.world.get(&kind_of(spec)).and_then(|view| view.instances.get(name));
    let Some(observed) = observed.filter(|one| unmark(&one.fingerprint).0 == spec.fingerprint) else {
        let beside =
            memory.and_then(|memory| memory.beside(&spec.fingerprint)?.error(Some(&spec.fingerprint)));
        let error = failed().or(beside);
        return Err(error.map_or_else(|| "it has not been started".to_owned(), |error| error.message.clone()));
    };
    match observed.state {
        RunState::Created => {
            Err(failed().map_or_else(|| "it has not been started".to_owned(), |error| error.message.clone()))
        }
        RunState::Exited { code: Some(0), .. } if !restarts(spec.service.restart.when, Some(0)) => Ok(()),
        RunState::Exited { code, out_of_memory, .. } => Err(how(code, out_of_memory)),
        RunState::Running { since } => {
            signs.insert(name.clone(), (observed.runtime_id.clone(), Some(since)));
            match (&spec.service.health_check, seen.health.get(name)) {
                (None, _) | (Some(_), Some(HealthState::Healthy)) => Ok(()),
                (Some(_), Some(HealthState::Unhealthy { message })) => Err(message.clone()),
                (Some(_), Some(HealthState::Starting) | None) => {
                    Err("its health check has not succeeded yet".to_owned())
                }
            }
        }
    }
}
