//! What all parts share: the executor, chance, the trace, the checks, and the handle of a process.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use skerry_sync::{MonoTime, Now, WallTime};

use super::check::Check;
use super::exec::{Exec, ProcessId, Sleep};
use super::faults::{Counts, Fault};
use super::rng::Rng;
use super::trace::Trace;
use super::{Options, Planted};

/// The wall clocks begin here: some day in 2026.
const WALL_START: Duration = Duration::from_secs(1_780_000_000);

/// What all parts share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sim(Rc<Inner>);

struct Inner {
    exec: Rc<Exec>,
    rng: RefCell<Rng>,
    trace: RefCell<Trace>,
    check: RefCell<Check>,
    faults: RefCell<Counts>,
    planted: Option<Planted>,
    /// No more faults.
    calm: Cell<bool>,
    failure: RefCell<Option<String>>,
    unique: Cell<u64>,
}

impl Sim {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        Self(Rc::new(Inner {
            exec: Rc::new(Exec::new()),
            rng: RefCell::new(Rng::new(seed)),
            trace: RefCell::new(Trace::new(options.print)),
            check: RefCell::new(Check::default()),
            faults: RefCell::new([0; Fault::ALL.len()]),
            planted: options.planted,
            calm: Cell::new(false),
            failure: RefCell::new(None),
            unique: Cell::new(0),
        }))
    }

    pub(super) fn exec(&self) -> &Rc<Exec> {
        &self.0.exec
    }

    pub(super) fn now(&self) -> Duration {
        self.0.exec.now()
    }

    pub(super) fn step(&self, until: Duration) -> bool {
        self.0.exec.step(&self.0.rng, until)
    }

    /// Draws a number. The closure must not draw another.
    pub(super) fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.rng.borrow_mut())
    }

    pub(super) fn between_ms(&self, least: u64, most: u64) -> Duration {
        self.rng(|rng| rng.between(Duration::from_millis(least), Duration::from_millis(most)))
    }

    /// Whether a fault of this chance (of a million) happens now. Never when it is calm.
    pub(super) fn strikes(&self, per_million: u32) -> bool {
        !self.0.calm.get() && self.rng(|rng| rng.chance(per_million))
    }

    pub(super) fn count(&self, fault: Fault) {
        self.0.faults.borrow_mut()[fault as usize] += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        *self.0.faults.borrow()
    }

    pub(super) fn is_calm(&self) -> bool {
        self.0.calm.get()
    }

    pub(super) fn set_calm(&self) {
        self.0.calm.set(true);
    }

    pub(super) fn planted(&self, bug: Planted) -> bool {
        self.0.planted == Some(bug)
    }

    pub(super) fn trace(&self, who: &str, what: fmt::Arguments<'_>) {
        self.0.trace.borrow_mut().line(self.now(), who, what);
    }

    pub(super) fn with_trace<T>(&self, look: impl FnOnce(&Trace) -> T) -> T {
        look(&self.0.trace.borrow())
    }

    /// Looks at the ledgers; what is wrong by them ends the simulation.
    pub(super) fn check<T: Default>(&self, look: impl FnOnce(&mut Check) -> Result<T, String>) -> T {
        let found = look(&mut self.0.check.borrow_mut());
        found.unwrap_or_else(|wrong| {
            self.fail(wrong);
            T::default()
        })
    }

    pub(super) fn fail(&self, wrong: String) {
        self.trace("CHECK", format_args!("violated: {wrong}"));
        self.0.failure.borrow_mut().get_or_insert(wrong);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.0.failure.borrow().clone()
    }

    /// Never the same twice.
    pub(super) fn unique(&self) -> u64 {
        self.0.unique.set(self.0.unique.get() + 1);
        self.0.unique.get()
    }

    /// A new process.
    pub(super) fn process(&self, name: &str, crash: Crash, clock: &Rc<WallClock>) -> Process {
        let id = self.0.exec.process();
        Process { sim: self.clone(), id, name: name.into(), crash, clock: Rc::clone(clock) }
    }
}

/// A wall clock that may be wrong.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// Seconds that it is ahead.
    pub(super) ahead_s: Cell<i64>,
}

/// How a process crashes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crash {
    /// Chance at each boundary, of a million.
    pub(super) per_million: u32,
    /// How it is counted.
    pub(super) fault: Fault,
}

/// The handle of a process's life. Cheap to clone.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) sim: Sim,
    pub(super) id: ProcessId,
    pub(super) name: Rc<str>,
    crash: Crash,
    clock: Rc<WallClock>,
}

impl Process {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.sim.exec().spawn(self.id, task);
    }

    pub(super) fn sleep(&self, long: Duration) -> Sleep {
        self.sim.exec().sleep_until(self.sim.now() + long)
    }

    pub(super) fn sleep_until(&self, when: Duration) -> Sleep {
        self.sim.exec().sleep_until(when)
    }

    /// `None`: it took too long.
    pub(super) async fn timeout<T>(&self, long: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.sleep(long) => None,
        }
    }

    /// A boundary between two effects: the process may end here.
    pub(super) async fn boundary(&self) {
        if self.sim.strikes(self.crash.per_million) {
            self.sim.count(self.crash.fault);
            self.trace(format_args!("crashes"));
            self.sim.exec().kill(self.id);
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn trace(&self, what: fmt::Arguments<'_>) {
        self.sim.trace(&self.name, what);
    }

    pub(super) fn now(&self) -> Now {
        let wall = (WALL_START + self.sim.now()).saturating_add(Duration::ZERO);
        let ahead = self.clock.ahead_s.get();
        let jump = Duration::from_secs(ahead.unsigned_abs());
        let wall = if ahead < 0 { wall.saturating_sub(jump) } else { wall + jump };
        Now { mono: MonoTime::from_origin(self.sim.now()), wall: WallTime::from_epoch(wall) }
    }

    /// A seed for a machine's own jitter.
    pub(super) fn seed(&self) -> u64 {
        self.sim.rng(Rng::next)
    }

    /// Exponential backoff with full jitter, as the product has it.
    pub(super) fn backoff(&self, attempt: u32, most_ms: u64) -> Duration {
        let most = 50_u64.saturating_mul(1 << attempt.min(10)).min(most_ms);
        self.sim.between_ms(0, most)
    }
}
