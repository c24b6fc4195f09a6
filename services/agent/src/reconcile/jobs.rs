//! Jobs: what is seen and the clocks go to `crate::jobs`, what they come to is wanted and told.

use std::sync::Arc;
use std::time::SystemTime;

use skerry_sync::MonoTime;

use super::Reconciler;
use crate::jobs::Seen;

impl Reconciler {
    /// Lets jobs decide anew. Answers when they want to again.
    pub(super) fn step_jobs(&mut self, now: MonoTime) -> Option<MonoTime> {
        let step = self.jobs.step(Seen {
            desired: &self.effective,
            world: &self.world,
            memories: &self.memories,
            now,
            wall: SystemTime::now(),
        });
        if !Arc::ptr_eq(&step.desired, &self.desired) {
            self.acts.abort_unless_of(&step.desired);
            self.desired = step.desired;
        }
        if let Some(damage) = self.jobs.take_damage() {
            let message =
                format!("{damage}; what can no longer be seen of jobs is forgotten, and may run again");
            self.tell_node_event("JobsDamaged", message, true);
        }
        for happening in step.happenings {
            self.tell_happening_of(happening);
        }
        step.wake
    }
}
