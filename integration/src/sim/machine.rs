//! An edge machine and its runtime: the copies that run there, whatever becomes of the agent. Its daemon goes on with what it was told
//! although the agent dies.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::check::Assigned;
use super::disk::Disk;
use super::faults::Fault;
use super::sim::{Sim, WallClock};

/// A copy of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) what: Assigned,
    pub(super) running: bool,
    pub(super) restarts: u32,
    pub(super) id: u64,
}

/// One machine.
pub(super) struct Machine {
    pub(super) sim: Sim,
    /// Unlike the node's, its own.
    pub(super) name: Rc<str>,
    /// `<project>/<node>`.
    pub(super) node: Rc<str>,
    pub(super) clock: Rc<WallClock>,
    pub(super) disk: Rc<Disk>,
    copies: RefCell<BTreeMap<String, Vec<Copy>>>,
    /// Instances that the daemon is at.
    at_work: RefCell<BTreeSet<String>>,
    /// Counts power losses: what the daemon was at before is over.
    powered: Cell<u64>,
    /// Something changed by itself.
    pub(super) stirred: Notify,
}

impl Machine {
    pub(super) fn new(sim: &Sim, name: &str, node: &str) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            name: name.into(),
            node: node.into(),
            clock: Rc::default(),
            disk: Rc::default(),
            copies: RefCell::default(),
            at_work: RefCell::default(),
            powered: Cell::default(),
            stirred: Notify::new(),
        })
    }

    /// What is there now, by instance.
    pub(super) fn observe(&self) -> BTreeMap<String, Copy> {
        let copies = self.copies.borrow();
        copies.iter().filter_map(|(name, copies)| Some((name.clone(), copies.first()?.clone()))).collect()
    }

    /// Whether the daemon is at this instance still.
    pub(super) fn is_at_work(&self, name: &str) -> bool {
        self.at_work.borrow().contains(name)
    }

    /// Tells the daemon to make and start a copy. Whoever waits looks when it is done; the daemon does it either way.
    pub(super) fn start(self: &Rc<Self>, what: &Assigned) -> Duration {
        let copy = what.clone();
        self.work(&what.0, self.sim.between_ms(5, 800), move |machine| machine.started(copy))
    }

    /// Tells the daemon to stop and remove whatever has this name.
    pub(super) fn remove(self: &Rc<Self>, name: &str) -> Duration {
        let gone = name.to_owned();
        self.work(name, self.sim.between_ms(5, 3_000), move |machine| {
            machine.copies.borrow_mut().remove(&gone);
            machine.sim.trace(&machine.name, format_args!("stopped {gone}"));
        })
    }

    /// Tells the daemon to start the copy again that has this name.
    pub(super) fn restart(self: &Rc<Self>, name: &str) -> Duration {
        let again = name.to_owned();
        self.work(name, self.sim.between_ms(5, 500), move |machine| {
            if let Some(copy) =
                machine.copies.borrow_mut().get_mut(&again).and_then(|copies| copies.first_mut())
            {
                copy.running = true;
                copy.restarts += 1;
            }
        })
    }

    fn work(self: &Rc<Self>, name: &str, takes: Duration, done: impl FnOnce(&Self) + 'static) -> Duration {
        self.at_work.borrow_mut().insert(name.to_owned());
        let (machine, name, powered) = (Rc::clone(self), name.to_owned(), self.powered.get());
        let at = self.sim.now() + takes;
        self.sim.exec().at(at, move || {
            if machine.powered.get() == powered {
                machine.at_work.borrow_mut().remove(&name);
                done(&machine);
                machine.stirred.notify_one();
            }
        });
        takes
    }

    fn started(&self, what: Assigned) {
        self.sim.trace(&self.name, format_args!("started {} of {:.8}", what.0, what.1));
        self.sim.check(|check| check.starts(&self.node, &what));
        let id = self.sim.unique();
        let mut copies = self.copies.borrow_mut();
        let copies = copies.entry(what.0.clone()).or_default();
        copies.push(Copy { what, running: true, restarts: 0, id });
        if copies.len() > 1 {
            self.sim.fail(format!("{} runs {} copies of {}", self.name, copies.len(), copies[0].what.0));
        }
    }

    /// One of the copies ends by itself.
    pub(super) fn end_one(&self) -> bool {
        let mut copies = self.copies.borrow_mut();
        let mut running: Vec<&mut Copy> = copies.values_mut().flatten().filter(|copy| copy.running).collect();
        if running.is_empty() {
            return false;
        }
        let chosen = self.sim.rng(|rng| rng.below(running.len()));
        running[chosen].running = false;
        self.sim.count(Fault::InstanceExit);
        self.stirred.notify_one();
        true
    }

    /// The power is gone: nothing runs, and the disk holds what it holds.
    pub(super) fn lose_power(&self) {
        self.powered.set(self.powered.get() + 1);
        self.at_work.borrow_mut().clear();
        for copy in self.copies.borrow_mut().values_mut().flatten() {
            copy.running = false;
        }
        self.disk.lose_power(&self.sim);
    }
}
