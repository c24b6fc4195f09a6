//! Updates: what is seen goes to `crate::update`, what it comes to is wanted and told.

use std::sync::Arc;
use std::time::SystemTime;

use skerry_sync::MonoTime;

use super::Reconciler;
use crate::update::Seen;

impl Reconciler {
    /// Lets updates decide anew. Answers when they want to again.
    pub(super) fn step_updates(&mut self, now: MonoTime) -> Option<MonoTime> {
        let link = *self.links.link.borrow_and_update();
        let step = self.updates.step(Seen {
            wanted: &self.wanted,
            world: &self.world,
            memories: &self.memories,
            hands: self.desk.hands(),
            gates: self.jobs.gates(),
            health: &self.health,
            link,
            now,
            wall: SystemTime::now(),
        });
        if !Arc::ptr_eq(&step.desired, &self.effective) {
            self.collect_for(&step.desired);
            self.names.take(&step.desired, &self.runtimes);
            self.effective = step.desired;
            self.sweep_due = true;
            self.secrets.changed();
        }
        if let Some(damage) = self.updates.take_damage() {
            let message =
                format!("{damage}; what was taken back on this node is forgotten, and may be tried again");
            self.tell_node_event("UpdatesDamaged", message, true);
        }
        for happening in step.happenings {
            self.tell_happening_of(happening);
        }
        if let Some(good) = self.updates.take_good() {
            self.copies.good = good;
            self.tell_copies();
        }
        step.wake
    }
}
