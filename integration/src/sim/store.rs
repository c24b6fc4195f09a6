//! The store as a process: the embedded store's core, a disk that forgets what was not synced, a queue, and watches.
//!
//! The order of its effects is that of the real writer: apply a batch, write, sync, commit, answer; a crash may fall between any two.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use skerry_etcd_embedded::mvcc::{
    Answer, Command, Core, Entry, Fault as Refusal, Identity, MemDisk, Range, RangeAnswer, Table, Write,
};
use tokio::sync::{Notify, oneshot};

use super::check::{Origin, StoreLedger};
use super::faults::Fault;
use super::sim::{Crash, Process, Sim, WallClock};

/// How late a lease may end, and a gap beyond which all leases live on: as in the real store.
const TICK: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_secs(3);
/// Leases that one tick ends.
const LEASES_PER_TICK: usize = 1000;
/// Rows that are removed along with a batch.
const SCRUB_ROWS: usize = 100;

/// What the core answered, or why it refused.
pub(super) type Reply = Result<Answer, Refusal>;

enum Work {
    Command(Box<Command>, Origin, oneshot::Sender<Reply>),
    Tick,
}

/// The store, over all its lives. Cheap to clone.
#[derive(Clone)]
pub(super) struct StoreHost(Rc<Inner>);

struct Inner {
    sim: Sim,
    clock: Rc<WallClock>,
    disk: RefCell<MemDisk>,
    snapshot: RefCell<Option<(MemDisk, StoreLedger)>>,
    live: RefCell<Option<Rc<Live>>>,
    /// The disk that the next life begins with.
    replaced: RefCell<Option<(MemDisk, StoreLedger)>>,
    identity: Cell<u64>,
    /// The newest revision that the ledgers know as durable.
    known: Cell<i64>,
}

/// One life of it.
pub(super) struct Live {
    pub(super) process: Process,
    core: RefCell<Core>,
    queue: RefCell<VecDeque<Work>>,
    work: Notify,
    /// What is durable now; woken for each new revision.
    pub(super) committed: super::signal::Sender<i64>,
    stalled_until: Cell<Duration>,
}

impl StoreHost {
    /// An empty store, not started.
    pub(super) fn new(sim: &Sim) -> Self {
        let mut disk = MemDisk::default();
        disk.write(Core::format(Identity { cluster_id: 1, member_id: 1 }));
        disk.sync();
        Self(Rc::new(Inner {
            sim: sim.clone(),
            clock: Rc::default(),
            disk: RefCell::new(disk),
            snapshot: RefCell::default(),
            live: RefCell::default(),
            replaced: RefCell::default(),
            identity: Cell::new(1),
            known: Cell::new(1),
        }))
    }

    /// The store as it runs, if it does.
    pub(super) fn live(&self) -> Option<Rc<Live>> {
        self.0.live.borrow().clone()
    }

    /// Starts it on what its disk holds.
    pub(super) fn start(&self) {
        let sim = &self.0.sim;
        let replaced = self.0.replaced.borrow_mut().take();
        let is_replaced = replaced.is_some();
        if let Some((disk, ledger)) = replaced {
            *self.0.disk.borrow_mut() = disk;
            sim.check(|check| {
                check.restored(ledger);
                Ok(())
            });
        }
        let crash = Crash { per_million: 800, fault: Fault::StoreCrash };
        let process = sim.process("store", crash, &self.0.clock);
        let opened = Core::open(self.0.disk.borrow().rows(), sim.now());
        let mut core = match opened {
            Ok(core) => core,
            Err(error) => return sim.fail(format!("the store does not open: {error}")),
        };
        {
            let mut disk = self.0.disk.borrow_mut();
            disk.write(core.begin_term());
            disk.sync();
        }
        sim.check(|check| {
            check.opened(&core);
            Ok(())
        });
        // What was written and not synced may have stayed all the same.
        let from = if is_replaced { core.revision() } else { self.0.known.get() } + 1;
        for item in core.history(from, usize::MAX, usize::MAX).map(|page| page.items).unwrap_or_default() {
            sim.check(|check| check.durable(&item.entry, item.prev.as_deref()));
        }
        self.0.known.set(core.revision());
        process.trace(format_args!("opens at {} of {}", core.revision(), core.identity().cluster_id));
        let committed = super::signal::Sender::new(core.committed());
        let live = Rc::new(Live {
            process: process.clone(),
            core: RefCell::new(core),
            queue: RefCell::default(),
            work: Notify::new(),
            committed,
            stalled_until: Cell::default(),
        });
        *self.0.live.borrow_mut() = Some(Rc::clone(&live));
        let host = self.clone();
        sim.exec().on_kill(process.id, move || host.killed());
        process.spawn(self.clone().write(Rc::clone(&live)));
        process.spawn(tick(live));
    }

    /// What was not synced is gone, or not, in order.
    fn killed(&self) {
        let sim = &self.0.sim;
        self.0.live.borrow_mut().take();
        {
            let mut disk = self.0.disk.borrow_mut();
            let pending = disk.pending();
            let kept = sim.rng(|rng| rng.below(pending + 1));
            if kept < pending {
                sim.count(Fault::StoreTailForgotten);
            }
            disk.crash(kept);
        }
        let host = self.clone();
        let away = sim.between_ms(50, 15_000);
        sim.exec().at(sim.now() + away, move || host.start());
    }

    /// Takes a snapshot of what is durable.
    pub(super) fn take_snapshot(&self) {
        let ledger = self.0.sim.check(|check| Ok(check.store.clone()));
        let mut disk = self.0.disk.borrow().clone();
        disk.crash(0);
        *self.0.snapshot.borrow_mut() = Some((disk, ledger));
        self.0.sim.trace("store", format_args!("a snapshot is taken"));
    }

    /// Replaces the store by its last snapshot, if there is one.
    pub(super) fn restore(&self, as_another: bool) -> bool {
        let Some(live) = self.live() else { return false };
        let Some((mut disk, ledger)) = self.0.snapshot.borrow().clone() else { return false };
        if as_another {
            let id = self.0.identity.get() + 1;
            self.0.identity.set(id);
            let value = Some(id.to_be_bytes().to_vec());
            disk.write(vec![Write { table: Table::Meta, key: b"cluster-id".to_vec(), value }]);
            disk.sync();
        }
        live.process.trace(format_args!(
            "is replaced by an older one{}",
            if as_another { ", as another" } else { "" }
        ));
        *self.0.replaced.borrow_mut() = Some((disk, ledger));
        self.0.sim.exec().kill(live.process.id);
        true
    }

    /// Stands still for a while.
    pub(super) fn stall(&self, long: Duration) {
        if let Some(live) = self.live() {
            live.process.trace(format_args!("stands still for {long:?}"));
            live.stalled_until.set(self.0.sim.now() + long);
        }
    }

    async fn write(self, live: Rc<Live>) {
        let process = live.process.clone();
        loop {
            if live.queue.borrow().is_empty() {
                live.work.notified().await;
                continue;
            }
            live.wait_out_stall().await;
            let batch: Vec<Work> = live.queue.borrow_mut().drain(..).collect();
            let mut replies = Vec::new();
            let mut changes: Vec<Arc<Entry>> = Vec::new();
            for work in batch {
                process.boundary().await;
                let now = process.sim.now();
                let effects = match work {
                    Work::Tick => {
                        let effects = live.core.borrow_mut().tick(now, LEASES_PER_TICK);
                        count_expired(&process, &effects.events);
                        effects
                    }
                    Work::Command(command, origin, reply) => {
                        let (answer, effects) = live.core.borrow_mut().apply(*command, now);
                        process.sim.check(|check| check.applied(&origin, &effects.events));
                        replies.push((reply, answer));
                        effects
                    }
                };
                process.boundary().await;
                self.0.disk.borrow_mut().write(effects.writes);
                changes.extend(effects.events);
            }
            let scrubbed = live.core.borrow_mut().scrub(SCRUB_ROWS);
            self.0.disk.borrow_mut().write(scrubbed.writes);
            let revision = live.core.borrow().revision();
            process.sleep(process.sim.between_ms(1, 12)).await;
            process.boundary().await;
            self.0.disk.borrow_mut().sync();
            live.commit(revision, &changes);
            self.0.known.set(revision);
            for (reply, answer) in replies {
                process.boundary().await;
                let _ = reply.send(answer);
            }
        }
    }
}

impl Live {
    /// Queues a command.
    pub(super) fn submit(&self, command: Command, origin: Origin) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        self.queue.borrow_mut().push_back(Work::Command(Box::new(command), origin, reply));
        self.work.notify_one();
        answer
    }

    /// Reads what is durable.
    pub(super) fn range(&self, range: &Range) -> Result<RangeAnswer, Refusal> {
        self.core.borrow().range(range)
    }

    /// Looks at the core.
    pub(super) fn core<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.core.borrow())
    }

    /// Waits until it no longer stands still.
    pub(super) async fn wait_out_stall(&self) {
        while self.stalled_until.get() > self.process.sim.now() {
            self.process.sleep_until(self.stalled_until.get()).await;
        }
    }

    fn commit(&self, revision: i64, changes: &[Arc<Entry>]) {
        self.core.borrow_mut().commit(revision);
        let sim = &self.process.sim;
        // `before` of the second change of a key in one batch is the first.
        for (index, entry) in changes.iter().enumerate() {
            let earlier = changes[..index].iter().rev().find(|earlier| earlier.key == entry.key);
            let before = earlier.cloned().or_else(|| self.before(entry, changes[0].revision.main));
            sim.check(|check| check.durable(entry, before.as_deref()));
        }
        self.committed.set(revision);
    }

    fn before(&self, entry: &Entry, first: i64) -> Option<Arc<Entry>> {
        let keys = skerry_etcd_embedded::mvcc::KeyRange { key: entry.key.to_vec(), range_end: Vec::new() };
        let range = Range { revision: first - 1, ..Range::new(keys) };
        self.range(&range).ok()?.entries.pop()
    }
}

/// Ends leases, and notices that the process stood still.
async fn tick(live: Rc<Live>) {
    let process = live.process.clone();
    let mut last = process.sim.now();
    loop {
        process.sleep(TICK).await;
        live.wait_out_stall().await;
        let now = process.sim.now();
        let stalled = now.saturating_sub(last) > TICK + STALL;
        last = now;
        let due = live.core(|core| core.next_expiry().is_some_and(|expiry| expiry <= now));
        if stalled {
            let _ = live.submit(Command::LeaseKeepAll, Origin::Other).await;
        } else if due {
            live.queue.borrow_mut().push_back(Work::Tick);
            live.work.notify_one();
        }
    }
}

fn count_expired(process: &Process, ended: &[Arc<Entry>]) {
    for entry in ended {
        let key = String::from_utf8_lossy(&entry.key);
        if key.starts_with(skerry_store::Family::Gateways.prefix()) {
            process.sim.count(Fault::GatewayLeaseExpired);
        } else if key.starts_with(skerry_store::Family::Leaders.prefix()) {
            process.sim.count(Fault::LeaderLeaseExpired);
        }
        process.trace(format_args!("the lease of {key} ends"));
    }
}
