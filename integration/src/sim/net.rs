//! Streams: in order, each direction with its own delays; they break, stall, or go silent. Frames are not looked at.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::sim::Sim;

/// What both directions of a stream share.
pub(super) struct Link {
    sim: Sim,
    /// Nothing arrives any more, and nobody is told.
    silent: Cell<bool>,
    /// Both ends are told that it broke.
    broken: Cell<bool>,
    /// Nothing arrives before.
    stalled_until: Cell<Duration>,
    closers: RefCell<Vec<Box<dyn Fn()>>>,
}

impl Link {
    /// Breaks it: what is under way is lost, and each end learns of it in its own time.
    pub(super) fn cut(&self) {
        self.broken.set(true);
        for close in self.closers.borrow().iter() {
            close();
        }
    }

    /// From now on nothing arrives.
    pub(super) fn silence(&self) {
        self.silent.set(true);
    }

    /// Nothing arrives for a while; then all does.
    pub(super) fn stall(&self, long: Duration) {
        self.stalled_until.set(self.stalled_until.get().max(self.sim.now() + long));
    }
}

/// Where frames wait to be taken.
struct Inbox<T> {
    /// Sent and not arrived: what arrives is always the oldest, whatever its delay was. `None` is the stream's end.
    wire: RefCell<VecDeque<Option<T>>>,
    frames: RefCell<VecDeque<T>>,
    closed: Cell<bool>,
    /// Nobody takes frames any more.
    gone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Inbox<T> {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            wire: RefCell::default(),
            frames: RefCell::default(),
            closed: Cell::default(),
            gone: Cell::default(),
            waker: RefCell::default(),
        })
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The sending half. Dropped, it closes the stream after what was sent.
pub(super) struct Sender<T: 'static> {
    link: Rc<Link>,
    inbox: Rc<Inbox<T>>,
    /// When the last frame arrives.
    last: Cell<Duration>,
}

/// The receiving half.
pub(super) struct Receiver<T: 'static> {
    inbox: Rc<Inbox<T>>,
}

/// One end of a stream.
pub(super) struct End<Out: 'static, In: 'static> {
    pub(super) out: Sender<Out>,
    pub(super) inn: Receiver<In>,
}

/// A stream, its two ends, and the handle that faults take it by.
pub(super) fn stream<Up: 'static, Down: 'static>(sim: &Sim) -> (End<Up, Down>, End<Down, Up>, Rc<Link>) {
    let link = Rc::new(Link {
        sim: sim.clone(),
        silent: Cell::default(),
        broken: Cell::default(),
        stalled_until: Cell::default(),
        closers: RefCell::default(),
    });
    let (up, down) = (Inbox::<Up>::new(), Inbox::<Down>::new());
    link.closers.borrow_mut().push(closer(sim, &up));
    link.closers.borrow_mut().push(closer(sim, &down));
    let half = |link: &Rc<Link>| (Rc::clone(link), Cell::new(Duration::ZERO));
    let (up_link, up_last) = half(&link);
    let (down_link, down_last) = half(&link);
    let agent = End {
        out: Sender { link: up_link, inbox: Rc::clone(&up), last: up_last },
        inn: Receiver { inbox: Rc::clone(&down) },
    };
    let gateway =
        End { out: Sender { link: down_link, inbox: down, last: down_last }, inn: Receiver { inbox: up } };
    (agent, gateway, link)
}

fn closer<T: 'static>(sim: &Sim, inbox: &Rc<Inbox<T>>) -> Box<dyn Fn()> {
    let (sim, inbox) = (sim.clone(), Rc::downgrade(inbox));
    Box::new(move || {
        let inbox = inbox.clone();
        sim.exec().at(sim.now() + sim.between_ms(0, 2_000), move || {
            if let Some(inbox) = inbox.upgrade() {
                inbox.closed.set(true);
                inbox.wake();
            }
        });
    })
}

impl<T: 'static> Sender<T> {
    /// Sends a frame; whether it arrives nobody knows.
    pub(super) fn send(&self, frame: T) {
        self.deliver(Some(frame));
    }

    /// Whether nobody reads any more.
    pub(super) fn is_gone(&self) -> bool {
        self.inbox.gone.get() || self.link.broken.get()
    }

    fn deliver(&self, frame: Option<T>) {
        let link = Rc::clone(&self.link);
        let sim = &link.sim;
        let at = (sim.now() + sim.between_ms(1, 40)).max(self.last.get() + Duration::from_nanos(1));
        let at = at.max(link.stalled_until.get());
        self.last.set(at);
        let inbox = Rc::clone(&self.inbox);
        inbox.wire.borrow_mut().push_back(frame);
        let carrier = Rc::clone(&link);
        sim.exec().at(at, move || arrive(&carrier, &inbox));
    }
}

fn arrive<T: 'static>(link: &Rc<Link>, inbox: &Rc<Inbox<T>>) {
    if link.silent.get() || link.broken.get() {
        return;
    }
    if link.stalled_until.get() > link.sim.now() {
        let (until, again, inbox) = (link.stalled_until.get(), Rc::clone(link), Rc::clone(inbox));
        link.sim.exec().at(until, move || arrive(&again, &inbox));
        return;
    }
    let oldest = inbox.wire.borrow_mut().pop_front();
    match oldest {
        Some(Some(frame)) => inbox.frames.borrow_mut().push_back(frame),
        Some(None) | None => inbox.closed.set(true),
    }
    inbox.wake();
}

impl<T: 'static> Drop for Sender<T> {
    fn drop(&mut self) {
        self.deliver(None);
    }
}

impl<T: 'static> Receiver<T> {
    /// The next frame. `None`: the stream has ended.
    pub(super) async fn next(&self) -> Option<T> {
        std::future::poll_fn(|context| {
            if let Some(frame) = self.inbox.frames.borrow_mut().pop_front() {
                return Poll::Ready(Some(frame));
            }
            if self.inbox.closed.get() {
                return Poll::Ready(None);
            }
            *self.inbox.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T: 'static> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.inbox.gone.set(true);
    }
}
