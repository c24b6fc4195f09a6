//! From the wire to `UpdateOrder`, and what cannot be had with it.

use skerry_proto::types::v1 as pb;

use crate::Violations;

use super::{NetworkMode, Program, UpdateOrder};

pub(super) fn parse(at: &str, update: Option<&pb::UpdatePolicy>, v: &mut Violations) -> UpdateOrder {
    use pb::update_policy::Order as Wire;
    match Wire::try_from(update.map_or(0, |update| update.order)) {
        Ok(Wire::Unspecified | Wire::StopFirst) => UpdateOrder::StopFirst,
        Ok(Wire::StartFirst) => UpdateOrder::StartFirst,
        Err(_) => {
            v.add(format!("{at}.order"), "use stop-first or start-first");
            UpdateOrder::StopFirst
        }
    }
}

/// Two copies at once cannot share what the machine has only once.
pub(super) fn check(at: &str, order: UpdateOrder, program: &Program, v: &mut Violations) {
    if order == UpdateOrder::StopFirst {
        return;
    }
    match program {
        Program::Process(_) => v.add(at, "start-first is not available yet for processes: leave it out"),
        Program::Container(container) if !container.ports.is_empty() => v.add(
            at,
            "with start-first two copies run at once, and a port of the machine has room for one: leave container.ports out, or use stop-first",
        ),
        Program::Container(container) if container.network.mode == NetworkMode::Host => v.add(
            at,
            "with start-first two copies run at once, and on the machine's network their ports would clash: use another networkMode, or stop-first",
        ),
        Program::Container(_) => {}
    }
}
