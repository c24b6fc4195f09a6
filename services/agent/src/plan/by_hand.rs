//! What people asked for by hand: what is stopped so is not run, whatever is wanted of it, and nothing else is done about it.

use super::{Act, Action, Hold, Inputs, Plan, wake_by};
use crate::desired::InstanceSpec;
use crate::hand::Hand;
use crate::runtime::RuntimeKind;
use crate::world::is_running;
use skerry_model::InstanceName;

/// Whether nothing of an instance shall run now.
pub(super) fn is_halted(inputs: Inputs<'_>, name: &InstanceName) -> bool {
    inputs.hands.get(name).is_some_and(|hand| hand.is_halt())
}

/// Whether an instance is to be started, also where its policy leaves it as it ended.
pub(super) fn is_due(inputs: Inputs<'_>, name: &InstanceName) -> bool {
    inputs.hands.get(name) == Some(&Hand::Due)
}

/// What to do about an instance that shall not run: all that runs of it is stopped, and stays as it is then.
pub(super) fn halt(inputs: Inputs<'_>, spec: &InstanceSpec, plan: &mut Plan) {
    let name = &spec.name;
    let memory = inputs.memories.get(name);
    if memory.is_some_and(|memory| memory.busy.is_some()) {
        plan.holds.insert(name.clone(), Hold::Busy);
        return;
    }
    let mut running = inputs.world.iter().filter(|(_, view)| {
        let copies = [view.instances.get(name), view.beside.get(name)];
        view.available && copies.into_iter().flatten().any(is_running)
    });
    let Some(runtime) = running.next().map(|(kind, _): (&RuntimeKind, _)| *kind) else {
        plan.holds.insert(name.clone(), Hold::ByHand);
        return;
    };
    if let Some(wait) = memory.and_then(|memory| memory.waits(None, inputs.now)) {
        wake_by(plan, wait.until);
        plan.holds.insert(name.clone(), Hold::Waits);
        return;
    }
    plan.actions.push(Action { instance: name.clone(), runtime, act: Act::Stop, former: false });
}
