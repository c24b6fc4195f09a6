//! An agent's disk for its desired state: what is written, what is synced, and what a power loss leaves of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use skerry_sync::Desired;

use super::Planted;
use super::faults::Fault;
use super::sim::{Process, Sim};

/// A file that is replaced as a whole: readers see the new one at once, a power loss may bring the old one back until it is synced.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What readers see.
    visible: RefCell<Arc<Desired>>,
    /// What a power loss leaves for certain.
    durable: RefCell<Arc<Desired>>,
}

impl Disk {
    /// What a process reads at its start. It syncs what it read: one who died between renaming and syncing did not.
    pub(super) fn load(&self) -> Arc<Desired> {
        let visible = Arc::clone(&self.visible.borrow());
        *self.durable.borrow_mut() = Arc::clone(&visible);
        visible
    }

    /// What a power loss leaves for certain.
    pub(super) fn durable(&self) -> Arc<Desired> {
        Arc::clone(&self.durable.borrow())
    }

    /// Writes, renames, syncs. A crash may fall between any two of these.
    pub(super) async fn save(self: Rc<Self>, process: Process, desired: Arc<Desired>) -> Result<(), String> {
        process.boundary().await;
        process.sleep(process.sim.between_ms(1, 60)).await;
        if process.sim.strikes(20_000) {
            process.sim.count(Fault::WriteFailed);
            return Err("no space left on device".to_owned());
        }
        *self.visible.borrow_mut() = Arc::clone(&desired);
        process.boundary().await;
        if process.sim.planted(Planted::NotSynced) {
            let disk = Rc::clone(&self);
            let late = process.sim.between_ms(1_000, 30_000);
            process.sim.exec().at(process.sim.now() + late, move || disk.sync(&desired));
            return Ok(());
        }
        process.sleep(process.sim.between_ms(1, 150)).await;
        process.boundary().await;
        self.sync(&desired);
        process.boundary().await;
        Ok(())
    }

    fn sync(&self, desired: &Arc<Desired>) {
        if *self.visible.borrow() == *desired {
            *self.durable.borrow_mut() = Arc::clone(desired);
        }
    }

    /// Forgets what was not synced; or not, as the disk had it.
    pub(super) fn lose_power(&self, sim: &Sim) {
        let unsynced = *self.visible.borrow() != *self.durable.borrow();
        if unsynced && sim.rng(|rng| rng.chance(700_000)) {
            sim.count(Fault::UnsyncedForgotten);
            let durable = Arc::clone(&self.durable.borrow());
            *self.visible.borrow_mut() = durable;
        } else {
            let visible = Arc::clone(&self.visible.borrow());
            *self.durable.borrow_mut() = visible;
        }
    }
}
