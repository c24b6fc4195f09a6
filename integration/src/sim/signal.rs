//! A value that is followed: `tokio::sync::watch` without its random order of waking, since every order here comes from the seed.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

struct Inner<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    ended: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl<T> Inner<T> {
    fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }
}

/// Sets the value.
pub(super) struct Sender<T>(Rc<Inner<T>>);

/// Follows it.
pub(super) struct Receiver<T> {
    inner: Rc<Inner<T>>,
    seen: u64,
}

/// The sender is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended;

impl<T> Sender<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Rc::new(Inner {
            value: RefCell::new(value),
            version: Cell::default(),
            ended: Cell::default(),
            wakers: RefCell::default(),
        }))
    }

    pub(super) fn subscribe(&self) -> Receiver<T> {
        Receiver { inner: Rc::clone(&self.0), seen: self.0.version.get() }
    }

    pub(super) fn borrow(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    pub(super) fn set(&self, value: T) {
        *self.0.value.borrow_mut() = value;
        self.0.version.set(self.0.version.get() + 1);
        self.0.wake();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.ended.set(true);
        self.0.wake();
    }
}

impl<T: Clone> Receiver<T> {
    /// The value; whoever waits for a change from now on waits for a newer one.
    pub(super) fn take(&mut self) -> T {
        self.seen = self.inner.version.get();
        self.inner.value.borrow().clone()
    }

    /// Waits for a value that was not taken yet.
    pub(super) async fn changed(&mut self) -> Result<(), Ended> {
        std::future::poll_fn(|context| {
            if self.inner.version.get() != self.seen {
                self.seen = self.inner.version.get();
                return Poll::Ready(Ok(()));
            }
            if self.inner.ended.get() {
                return Poll::Ready(Err(Ended));
            }
            let mut wakers = self.inner.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for a value that is as wanted.
    pub(super) async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<T, Ended> {
        loop {
            let value = self.take();
            if wanted(&value) {
                return Ok(value);
            }
            self.changed().await?;
        }
    }
}
