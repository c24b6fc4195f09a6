//! Runs all processes of a simulation on one thread and on virtual time.
//!
//! A process is a group of futures, which is killed as a whole: between any two of its polls, so a crash falls where its code awaits.
//! Of the futures that are ready the seed chooses one; when none is, time moves to the next timer. What the processes do is not
//! known here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::rng::Rng;

/// One life of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId(u32);

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Call = Box<dyn FnOnce()>;

struct Slot {
    process: ProcessId,
    /// Absent while it is polled.
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

enum Timer {
    Wake(Waker),
    Call(Call),
}

/// The executor. See the module.
pub(super) struct Exec {
    now: Cell<Duration>,
    ids: Cell<u64>,
    processes: Cell<u32>,
    slots: RefCell<BTreeMap<u64, Slot>>,
    ready: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BTreeMap<(Duration, u64), Timer>>,
    /// Living processes, and what is to be done when one is killed.
    living: RefCell<BTreeMap<ProcessId, Option<Call>>>,
    steps: Cell<u64>,
}

impl Exec {
    pub(super) fn new() -> Self {
        Self {
            now: Cell::default(),
            ids: Cell::default(),
            processes: Cell::default(),
            slots: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            living: RefCell::default(),
            steps: Cell::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Polls and timers so far.
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    fn id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// A new process without tasks.
    pub(super) fn process(&self) -> ProcessId {
        self.processes.set(self.processes.get() + 1);
        let id = ProcessId(self.processes.get());
        self.living.borrow_mut().insert(id, None);
        id
    }

    /// What is to be done when the process is killed.
    pub(super) fn on_kill(&self, process: ProcessId, call: impl FnOnce() + 'static) {
        if let Some(hook) = self.living.borrow_mut().get_mut(&process) {
            *hook = Some(Box::new(call));
        }
    }

    pub(super) fn is_alive(&self, process: ProcessId) -> bool {
        self.living.borrow().contains_key(&process)
    }

    /// Adds a task to a process. Of a process that was killed nothing runs.
    pub(super) fn spawn(&self, process: ProcessId, task: impl Future<Output = ()> + 'static) {
        if !self.is_alive(process) {
            return;
        }
        let id = self.id();
        let ready = Arc::clone(&self.ready);
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready });
        let slot = Slot { process, task: Some(Box::pin(task)), waker: Arc::clone(&waker) };
        self.slots.borrow_mut().insert(id, slot);
        waker.wake();
    }

    /// Ends a process at once. The task that is being polled, if it is one of its own, is not polled again.
    pub(super) fn kill(&self, process: ProcessId) {
        let Some(hook) = self.living.borrow_mut().remove(&process) else { return };
        let dead: Vec<Slot> = {
            let mut slots = self.slots.borrow_mut();
            let ids: Vec<u64> =
                slots.iter().filter(|(_, slot)| slot.process == process).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| slots.remove(id)).collect()
        };
        drop(dead);
        if let Some(hook) = hook {
            hook();
        }
    }

    /// Does something later, whatever lives then.
    pub(super) fn at(&self, when: Duration, call: impl FnOnce() + 'static) {
        let key = (when.max(self.now()), self.id());
        self.timers.borrow_mut().insert(key, Timer::Call(Box::new(call)));
    }

    /// Waits on virtual time.
    pub(super) fn sleep_until(self: &Rc<Self>, when: Duration) -> Sleep {
        Sleep { exec: Rc::clone(self), when, key: None }
    }

    /// Does one thing. False: there is nothing to do before `until`, and it is now `until`.
    pub(super) fn step(&self, rng: &RefCell<Rng>, until: Duration) -> bool {
        self.steps.set(self.steps.get() + 1);
        let chosen = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let count = ready.len();
            match count {
                0 => None,
                1 => ready.pop(),
                _ => Some(ready.swap_remove(rng.borrow_mut().below(count))),
            }
        };
        if let Some(id) = chosen {
            self.poll(id);
            return true;
        }
        let next = self.timers.borrow().first_key_value().map(|(key, _)| key.0).filter(|at| *at <= until);
        let Some(at) = next else {
            self.now.set(until.max(self.now()));
            return false;
        };
        self.now.set(at);
        let timer = self.timers.borrow_mut().pop_first();
        match timer {
            Some((_, Timer::Wake(waker))) => waker.wake(),
            Some((_, Timer::Call(call))) => call(),
            None => {}
        }
        true
    }

    fn poll(&self, id: u64) {
        let taken = {
            let mut slots = self.slots.borrow_mut();
            slots.get_mut(&id).and_then(|slot| {
                slot.waker.queued.store(false, Ordering::Relaxed);
                Some((slot.task.take()?, Waker::from(Arc::clone(&slot.waker))))
            })
        };
        let Some((mut task, waker)) = taken else { return };
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut slots = self.slots.borrow_mut();
        if done {
            slots.remove(&id);
        } else if let Some(slot) = slots.get_mut(&id) {
            slot.task = Some(task);
            return;
        }
        // Dropped outside of the borrow: what it holds may look at the executor.
        drop(slots);
        drop(task);
    }

    /// Ends everything, so that no task keeps the simulation alive through a circle of references.
    pub(super) fn clear(&self) {
        self.living.borrow_mut().clear();
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        drop(slots);
        let timers = std::mem::take(&mut *self.timers.borrow_mut());
        drop(timers);
    }
}

/// A wait.
pub(super) struct Sleep {
    exec: Rc<Exec>,
    when: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.exec.now() >= self.when {
            return Poll::Ready(());
        }
        let key = match self.key {
            Some(key) => key,
            None => (self.when, self.exec.id()),
        };
        self.exec.timers.borrow_mut().insert(key, Timer::Wake(context.waker().clone()));
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let timer = self.exec.timers.borrow_mut().remove(&key);
            drop(timer);
        }
    }
}
