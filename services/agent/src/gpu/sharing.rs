//! Sharing of GPUs between the collector, which sees what instances use, and the reconciler, which knows what is booked for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use skerry_proto::types::v1::machine_status::Gpu;
use tokio::sync::watch;

use super::board::Board;
use super::grant::{Grants, serves};
use super::mps::Mps;
use super::watch::{Booked, Overuse, Watchdog};

/// The collector's end.
pub(crate) struct Shares {
    mps: watch::Receiver<Mps>,
    booked: watch::Receiver<Arc<Vec<Booked>>>,
    overuse: watch::Sender<Arc<Vec<Overuse>>>,
    watchdog: Watchdog,
}

/// The reconciler's end.
pub(crate) struct GpuLink {
    /// What is granted.
    pub(crate) grants: Grants,
    booked: watch::Sender<Arc<Vec<Booked>>>,
    overuse: watch::Receiver<Arc<Vec<Overuse>>>,
}

/// Both ends. `gpus`: what the collector tells of the machine.
pub(crate) fn sharing(gpus: watch::Receiver<Arc<Vec<Gpu>>>, mps: watch::Receiver<Mps>) -> (Shares, GpuLink) {
    let (booked_in, booked) = watch::channel(Arc::default());
    let (overuse_in, overuse) = watch::channel(Arc::default());
    let grants = Grants::new(gpus, mps.clone());
    let shares = Shares { mps, booked, overuse: overuse_in, watchdog: Watchdog::default() };
    (shares, GpuLink { grants, booked: booked_in, overuse })
}

impl Default for GpuLink {
    /// Where nobody looks for GPUs.
    fn default() -> Self {
        let grants = Grants::default();
        Self { grants, booked: watch::Sender::new(Arc::default()), overuse: watch::channel(Arc::default()).1 }
    }
}

impl Shares {
    /// Holds what was seen against what is booked.
    pub(super) fn pass(&mut self, board: &mut Board) {
        let booked = Arc::clone(&self.booked.borrow_and_update());
        let shared: BTreeSet<String> = booked.iter().map(|one| one.booking.gpu.to_string()).collect();
        board.look_closely(shared);
        let found = self.watchdog.step(&booked, &board.usages());
        board.look_again(self.watchdog.doubted());
        self.overuse.send_if_modified(|told| {
            let is_news = **told != found;
            if is_news {
                *told = Arc::new(found);
            }
            is_news
        });
    }

    /// Notes which devices an MPS daemon serves.
    pub(super) fn mark(&self, report: &mut [Gpu]) {
        let is_there = self.mps.borrow().pipe().is_some();
        for gpu in report {
            gpu.mps = is_there && gpu.device.as_ref().is_some_and(serves);
        }
    }
}

#[cfg(test)]
impl Shares {
    /// What the reconciler said is booked, in short.
    pub(crate) fn booked_now(&self) -> Vec<(String, skerry_model::GpuIsolation)> {
        let booked = self.booked.borrow();
        booked.iter().map(|one| (one.instance.to_string(), one.booking.isolation)).collect()
    }

    /// As if the watchdog had found that.
    pub(crate) fn tell_overuse(&self, found: Vec<Overuse>) {
        self.overuse.send_replace(Arc::new(found));
    }
}

impl GpuLink {
    /// Says what is booked for instances that run here.
    pub(crate) fn tell_booked(&self, booked: Vec<Booked>) {
        self.booked.send_if_modified(|told| {
            let is_news = **told != booked;
            if is_news {
                *told = Arc::new(booked);
            }
            is_news
        });
    }

    /// Who uses more than is booked for it.
    pub(crate) fn overuse(&self) -> Arc<Vec<Overuse>> {
        Arc::clone(&self.overuse.borrow())
    }

    /// Returns when something is to be looked at anew.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = self.grants.changed() => {}
            changed = self.overuse.changed() => if changed.is_err() {
                self.grants.changed().await;
            },
        }
    }
}
