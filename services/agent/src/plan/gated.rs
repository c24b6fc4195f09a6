//! What a job says of its instances: some wait, some are stopped, the others are planned as any instance.

use super::{Act, Hold, Inputs};
use crate::desired::InstanceSpec;
use crate::jobs::Gate;
use crate::memory::Memory;
use crate::runtime::Observed;
use crate::world::is_running;

/// What to do about an instance because of its job, or why nothing. `Ok(None)`: as about any.
pub(super) fn decide(
    inputs: Inputs<'_>,
    spec: &InstanceSpec,
    memory: &Memory,
    observed: Option<&Observed>,
) -> Result<Option<Act>, Hold> {
    if !spec.service.is_job() {
        return Ok(None);
    }
    let running = observed.filter(|observed| is_running(observed));
    match (inputs.gates.get(&spec.name), running) {
        (Some(Gate::Go), _) => return Ok(None),
        (None | Some(Gate::Wait), _) | (Some(Gate::Turn { .. } | Gate::Done(_)), None) => {
            return Err(Hold::Job);
        }
        // One that succeeded does not run; what does is of before.
        (Some(Gate::Turn { .. } | Gate::Done(_) | Gate::Rest(_)), Some(running)) => {
            if running.fingerprint != spec.fingerprint && !inputs.desired.authoritative {
                return Err(Hold::NotAuthoritative);
            }
            let waits = memory.waits(None, inputs.now).is_some();
            return if waits { Err(Hold::Waits) } else { Ok(Some(Act::Stop)) };
        }
        (Some(Gate::Rest(rest)), None) => {
            if !rest.ready {
                return Err(Hold::Job);
            }
        }
    }
    // It waits for its time. What it needs is fetched ahead of its first run: there may be no network then.
    if observed.is_some() || memory.is_prepared(&spec.fingerprint) || memory.fetch.is_some() {
        return Err(Hold::Job);
    }
    if memory.waits(Some(&spec.fingerprint), inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    Ok(Some(Act::Fetch))
}
